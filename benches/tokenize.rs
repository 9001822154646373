//! Tokenizing a real corpus into part files beside the tokenizers library alone: `cargo bench --bench tokenize`.
//!
//! The corpus is ten megabytes of State of the Union addresses, cut into documents of some 1,500 bytes, in a JSONL
//! file. The library encodes all documents in one parallel batch, from memory and into memory; we read the file, make
//! ids, write, hash and sync Parquet. Both take turns, so that what else the machine does meets both. Arguments name
//! other `tokenizer.json` files. Must never measure a run whose tokens were not compared with the library's.

use std::error::Error;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use gigastore_ingest::encode::{Encoder, Ends, Eos};
use gigastore_ingest::input::{Reading, find};
use gigastore_ingest::run::{Counters, PART_BYTES, RunSpec, run};
use gigastore_ingest::work::Work;
use gigastore_tests::prepared::{model, texts};
use tokenizers::Tokenizer;

/// Turns that each side takes.
const ROUNDS: usize = 7;

/// Bytes at which a document ends with its sentence.
const DOCUMENT_BYTES: usize = 1500;

/// The most that we may take longer.
const TARGET: f64 = 1.10;

fn main() -> Result<(), Box<dyn Error>> {
    let mut tokenizers: Vec<PathBuf> =
        std::env::args_os().skip(1).map(PathBuf::from).filter(|path| path.is_file()).collect();
    if tokenizers.is_empty() {
        tokenizers.push(model()?.join("tokenizer.json"));
    }
    let documents = documents(&texts()?)?;
    let folder = tempfile::tempdir()?;
    let corpus = folder.path().join("corpus.jsonl");
    let line = |text: &String| format!("{}\n", serde_json::json!({ "text": text }));
    fs::write(&corpus, documents.iter().map(line).collect::<String>())?;
    let mut missed = false;
    for tokenizer in tokenizers {
        missed |= measure(&tokenizer, &documents, &corpus, folder.path())? > TARGET;
    }
    if missed { Err(format!("slower than {TARGET} of the library").into()) } else { Ok(()) }
}

/// Reads the addresses in documents of whole sentences.
fn documents(folder: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "txt"));
    paths.sort();
    let mut documents = Vec::new();
    for path in paths {
        let mut document = String::new();
        for sentence in fs::read_to_string(path)?.split_inclusive(". ") {
            document.push_str(sentence);
            if document.len() >= DOCUMENT_BYTES {
                documents.push(std::mem::take(&mut document));
            }
        }
        documents.push(document);
    }
    documents.retain(|document| !document.is_empty());
    Ok(documents)
}

/// Measures one tokenizer; returns our time as a multiple of the library's.
fn measure(path: &Path, documents: &[String], corpus: &Path, folder: &Path) -> Result<f64, Box<dyn Error>> {
    let mut library = Tokenizer::from_file(path).map_err(|error| error.to_string())?;
    library.with_truncation(None).map_err(|error| error.to_string())?.with_padding(None);
    let texts: Vec<&str> = documents.iter().map(String::as_str).collect();
    let ends = Ends { eos: Eos::None, ..Ends::default() };
    let reading = Reading::default();
    let spec = RunSpec {
        inputs: find(&[corpus.display().to_string()], &reading)?.inputs,
        reading,
        encoder: Arc::new(Encoder::open(path, &ends)?),
        threads: std::thread::available_parallelism().map_or(1, NonZero::get),
        part_bytes: PART_BYTES,
        prefix: "part".to_owned(),
    };
    let (mut theirs, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut tokens = 0;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let encoded = library.encode_batch_fast(texts.clone(), false).map_err(|error| error.to_string())?;
        let their = begun.elapsed().as_secs_f64();
        tokens = encoded.iter().map(|encoding| encoding.len() as u64).sum::<u64>();
        drop(encoded);
        let begun = Instant::now();
        let mut work = Work::open(&folder.join("work"), &spec.plan(), true)?;
        let done = run(&spec, &mut work, &Counters::default())?;
        let our = begun.elapsed().as_secs_f64();
        assert_eq!((done.counts.tokens, done.counts.documents), (tokens, documents.len() as u64));
        work.remove()?;
        theirs.push(their);
        ours.push(our);
        ratios.push(our / their);
    }
    let rate = |seconds: &mut Vec<f64>| tokens as f64 / median(seconds) / 1e6;
    let ratio = median(&mut ratios);
    println!(
        "{}: {} documents, {tokens} tokens, {} threads; library {:.3} M tokens/s, read, tokenized and written \
         {:.3} M tokens/s; time {ratio:.3} of the library's (median of {ROUNDS} pairs, {:.3} to {:.3})",
        path.display(),
        documents.len(),
        spec.threads,
        rate(&mut theirs),
        rate(&mut ours),
        ratios[0],
        ratios[ROUNDS - 1],
    );
    Ok(ratio)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
