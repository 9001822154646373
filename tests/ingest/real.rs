//! A real corpus and a real tokenizer: State of the Union addresses, MiniLM's vocabulary.

use std::fs;
use std::sync::Arc;

use gigastore_ingest::encode::{Encoder, Ends, Eos};
use gigastore_ingest::input::{Reading, find};
use gigastore_ingest::run::{Counters, RunSpec, run};
use gigastore_ingest::work::Work;
use gigastore_tests::prepared::{model, texts};

use crate::desk::{Desk, id};

#[test]
fn addresses_are_tokenized_as_the_library_does() {
    let texts = texts().unwrap_or_else(|error| panic!("{error}"));
    let tokenizer = model().unwrap_or_else(|error| panic!("{error}")).join("tokenizer.json");
    let desk = Desk::new();
    let ends = Ends { eos: Eos::Token("[SEP]".to_owned()), ..Ends::default() };
    let encoder = Arc::new(Encoder::open(&tokenizer, &ends).unwrap());
    assert_eq!((encoder.vocab_size(), encoder.eos()), (30_522, Some(("[SEP]", 102))));
    let reading = Reading::default();
    let inputs = find(&[format!("{}/19*.json", texts.display())], &reading).unwrap().inputs;
    assert!(inputs.len() > 50, "{} addresses", inputs.len());
    let spec = RunSpec {
        inputs,
        reading,
        encoder: Arc::clone(&encoder),
        threads: 2,
        part_bytes: 1 << 20,
        prefix: "sotu".to_owned(),
    };
    let mut work = Work::open(&desk.path("work"), &spec.plan(), false).unwrap();
    let done = run(&spec, &mut work, &Counters::default()).unwrap();
    assert_eq!(done.parts.len(), 2);
    let rows = desk.rows(&work, &done);
    for ((row_id, tokens), input) in rows.iter().zip(&spec.inputs).step_by(20) {
        let json: serde_json::Value = serde_json::from_slice(&fs::read(input.to_string()).unwrap()).unwrap();
        let text = json["text"].as_str().unwrap();
        assert_eq!(*row_id, id(text));
        let mut expected = Vec::new();
        encoder.encode(text, &mut expected).unwrap();
        assert!(*tokens == expected && tokens.len() > 500, "{input}");
        assert_eq!(tokens.last(), Some(&102));
        let decoded = encoder.decode(&tokens[..50]).unwrap();
        let first = text.split_whitespace().next().unwrap().to_lowercase();
        assert!(decoded.starts_with(first.trim_end_matches(|c: char| !c.is_alphabetic())), "{decoded}");
    }
}
