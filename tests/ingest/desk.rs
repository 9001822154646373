//! A folder with a tokenizer of its own, corpora, and what came out.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt16Type, UInt32Type};
use bytes::Bytes;
use gigastore_formats::table::tokens::{Documents, TokenFile};
use gigastore_ingest::encode::{Encoder, Ends, Eos};
use gigastore_ingest::input::{Reading, find};
use gigastore_ingest::run::{Counters, RunError, RunSpec, Tokenized, run};
use gigastore_ingest::work::Work;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, json};

/// Words of the tiny vocabulary, each with its place as its id; others are the first.
pub(crate) const WORDS: [&str; 8] = ["<unk>", "<eos>", "to", "be", "or", "not", "naïve", "that"];

/// A row of a part: id, and tokens.
pub(crate) type Row = (String, Vec<u32>);

pub(crate) struct Desk {
    folder: tempfile::TempDir,
    pub(crate) part_bytes: u64,
    pub(crate) threads: usize,
}

/// Writes a tokenizer that gives each word its number.
pub(crate) fn tokenizer(words: &[&str]) -> Vec<u8> {
    let vocab: Map<_, _> = words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
    let token = |id: usize| {
        json!({ "id": id, "content": words[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": { "direction": "Right", "max_length": 3, "strategy": "LongestFirst",
        "stride": 0 }, "padding": { "strategy": { "Fixed": 6 }, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>" }, "added_tokens": [token(0), token(1)],
        "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": words[0] },
    });
    serde_json::to_vec(&tokenizer).unwrap()
}

impl Desk {
    pub(crate) fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap(), part_bytes: 1 << 20, threads: 2 };
        desk.write("tokenizer.json", &tokenizer(&WORDS));
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn write_gz(&self, name: &str, bytes: &[u8]) {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        self.write(name, &encoder.finish().unwrap());
    }

    pub(crate) fn write_zst(&self, name: &str, bytes: &[u8]) {
        self.write(name, &zstd::encode_all(bytes, 1).unwrap());
    }

    pub(crate) fn encoder(&self, eos: Eos) -> Encoder {
        let ends = Ends { eos, ..Ends::default() };
        Encoder::open(&self.path("tokenizer.json"), &ends).unwrap()
    }

    pub(crate) fn spec(&self, inputs: &[&str], reading: &Reading) -> RunSpec {
        let named: Vec<String> = inputs.iter().map(|name| self.text(name)).collect();
        RunSpec {
            inputs: find(&named, reading).unwrap().inputs,
            reading: reading.clone(),
            encoder: Arc::new(self.encoder(Eos::Auto)),
            threads: self.threads,
            part_bytes: self.part_bytes,
            prefix: "part".to_owned(),
        }
    }

    /// Tokenizes inputs in a folder that is removed after.
    pub(crate) fn run(&self, inputs: &[&str], reading: &Reading) -> Result<(Tokenized, Vec<Row>), RunError> {
        let spec = self.spec(inputs, reading);
        let room = tempfile::tempdir_in(self.folder.path()).unwrap();
        let mut work = Work::open(room.path(), &spec.plan(), false).unwrap();
        let done = run(&spec, &mut work, &Counters::default())?;
        let rows = self.rows(&work, &done);
        work.remove().unwrap();
        Ok((done, rows))
    }

    /// Reads all rows of the parts, with our reader and with the parquet crate's.
    pub(crate) fn rows(&self, work: &Work, done: &Tokenized) -> Vec<Row> {
        let mut all = Vec::new();
        for part in &done.parts {
            let bytes = Bytes::from(fs::read(work.parts().join(&part.name)).unwrap());
            assert_eq!(gigastore_formats::digest::Digest::of(&bytes), part.blake3);
            let rows = rows_of(&bytes);
            assert_eq!(ours(&bytes), rows.iter().map(|(_, tokens)| tokens.clone()).collect::<Vec<_>>());
            assert_eq!(part.counts.documents, rows.len() as u64);
            assert_eq!(part.counts.tokens, rows.iter().map(|(_, tokens)| tokens.len() as u64).sum::<u64>());
            all.extend(rows);
        }
        assert_eq!(done.counts.documents, all.len() as u64);
        all
    }
}

fn ours(bytes: &Bytes) -> Vec<Vec<u32>> {
    let file = TokenFile::of(bytes, None).unwrap();
    let mut found = Vec::new();
    for group in 0..file.groups() {
        let range = file.tokens_range(group);
        let mut documents = Documents::new(file.width());
        file.read_tokens(group, &bytes.slice(range.start() as usize..range.end() as usize), &mut documents).unwrap();
        found.extend((0..documents.len()).map(|row| documents.document(row).unwrap().iter().collect()));
    }
    found
}

fn rows_of(bytes: &Bytes) -> Vec<Row> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).unwrap().build().unwrap();
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let (ids, lists) = (batch.column(0).as_string::<i32>(), batch.column(2).as_list::<i32>());
        let counts = batch.column(1).as_primitive::<UInt32Type>();
        for row in 0..batch.num_rows() {
            let list = lists.value(row);
            let tokens: Vec<u32> = match list.as_primitive_opt::<UInt16Type>() {
                Some(narrow) => narrow.values().iter().copied().map(u32::from).collect(),
                None => list.as_primitive::<UInt32Type>().values().to_vec(),
            };
            assert_eq!(counts.value(row) as usize, tokens.len());
            rows.push((ids.value(row).to_owned(), tokens));
        }
    }
    rows
}

/// The tokens of words, with the end of text.
pub(crate) fn tokens(text: &str) -> Vec<u32> {
    let id = |word: &str| WORDS.iter().position(|known| *known == word).unwrap_or(0) as u32;
    text.split_whitespace().map(id).chain([1]).collect()
}

/// The id of a text that was given none.
pub(crate) fn id(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
}
