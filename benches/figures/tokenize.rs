//! Tokenizing a corpus into part files, beside the tokenizers library alone.
//!
//! The library encodes all documents in one parallel batch, from memory and into memory; we read a file of JSON lines,
//! make ids, write, hash and sync Parquet. Must never count a run whose tokens are not as many as the library's.

use std::fs;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

use gigastore_ingest::encode::{Encoder, Ends, Eos};
use gigastore_ingest::input::{Reading, find};
use gigastore_ingest::run::{Counters, PART_BYTES, RunSpec, run};
use gigastore_ingest::work::Work;
use tokenizers::Tokenizer;

use crate::clock::{Pairs, timed};
use crate::corpus::texts;
use crate::{Plan, Res, setting};

/// Bytes at which a document ends with its sentence.
const DOCUMENT_BYTES: usize = 1500;

/// `data.tokenize`.
pub(crate) fn tokenize(plan: &Plan) -> Res<()> {
    let model = setting("GIGASTORE_BENCH_MODEL")?.join("tokenizer.json");
    let mut library = Tokenizer::from_file(&model).map_err(|error| error.to_string())?;
    library.with_truncation(None).map_err(|error| error.to_string())?.with_padding(None);
    let documents = documents()?;
    let texts: Vec<&str> = documents.iter().map(String::as_str).collect();
    let folder = plan.folder()?;
    let corpus = folder.path().join("corpus.jsonl");
    let line = |text: &&str| format!("{}\n", serde_json::json!({ "text": text }));
    fs::write(&corpus, texts.iter().map(line).collect::<String>())?;
    let reading = Reading::default();
    let spec = RunSpec {
        inputs: find(&[corpus.display().to_string()], &reading)?.inputs,
        reading,
        encoder: Arc::new(Encoder::open(&model, &Ends { eos: Eos::None, ..Ends::default() })?),
        threads: std::thread::available_parallelism().map_or(1, NonZero::get),
        part_bytes: PART_BYTES,
        prefix: "part".to_owned(),
    };
    let (mut pairs, mut tokens) = (Pairs::default(), 0);
    for turn in 0..plan.runs() {
        eprintln!("bench: data.tokenize, run {}", turn + 1);
        let mut encoded = Vec::new();
        let limit = timed(|| -> Res<()> {
            encoded = library.encode_batch_fast(texts.clone(), false).map_err(|error| error.to_string())?;
            Ok(())
        })?;
        tokens = encoded.iter().map(|encoding| encoding.len() as u64).sum();
        drop(encoded);
        let (mut done, mut left) = (None, None);
        let ours = timed(|| -> Res<()> {
            let mut work = Work::open(&folder.path().join("work"), &spec.plan(), true)?;
            done = Some(run(&spec, &mut work, &Counters::default())?.counts);
            left = Some(work);
            Ok(())
        })?;
        let counted = done.map(|counts| (counts.tokens, counts.documents));
        if counted != Some((tokens, texts.len() as u64)) {
            return Err(format!("{counted:?} tokens and documents, expected {tokens} and {}", texts.len()).into());
        }
        left.map_or(Ok(()), Work::remove)?;
        pairs.push(limit, ours);
    }
    let note = format!(
        "limit: encode_batch_fast of the tokenizers library, same {} documents and {tokens} tokens, same run; ours \
         from JSON lines to Parquet on the disk",
        texts.len()
    );
    pairs.report_speed(plan, "data.tokenize", tokens as f64 / 1e6, &note)?;
    Ok(folder.close()?)
}

/// Reads the texts in documents of whole sentences.
fn documents() -> Res<Vec<String>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for place in texts()? {
        if place.is_file() {
            paths.push(place);
            continue;
        }
        for entry in fs::read_dir(place)? {
            paths.push(entry?.path());
        }
    }
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
