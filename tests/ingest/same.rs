//! The same inputs give the same files, whatever the number of threads; rows are what the tokenizer says.

use std::fs;

use gigastore_ingest::input::{Reading, Split};
use gigastore_ingest::run::{Counters, run};
use gigastore_ingest::work::Work;
use proptest::prelude::*;

use crate::desk::{Desk, WORDS, id, tokens};

/// Documents of words of the vocabulary and others.
fn documents() -> impl Strategy<Value = Vec<String>> {
    let word = prop_oneof![
        8 => (2..WORDS.len()).prop_map(|at| WORDS[at].to_owned()),
        1 => "[a-zäß漢\\\\\"]{1,9}".prop_map(String::from),
    ];
    let document = prop::collection::vec(word, 1..40).prop_map(|words| words.join(" "));
    prop::collection::vec(document, 1..200)
}

/// The parts that a run makes.
fn parts(desk: &Desk, inputs: &[&str], reading: &Reading) -> Vec<(String, Vec<u8>)> {
    let spec = desk.spec(inputs, reading);
    let mut work = Work::open(&desk.path("work"), &spec.plan(), true).unwrap();
    let done = run(&spec, &mut work, &Counters::default()).unwrap();
    let read = |name: &String| (name.clone(), fs::read(work.parts().join(name)).unwrap());
    let parts = done.parts.iter().map(|part| read(&part.name)).collect();
    work.remove().unwrap();
    assert!(!desk.path("work").exists());
    parts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn rows_are_what_the_tokenizer_says(documents in documents(), at in 0usize..200) {
        let desk = Desk::new();
        let at = at.min(documents.len());
        let lines = |documents: &[String]| {
            let line = |text| format!("{}\n", serde_json::json!({ "text": text }));
            documents.iter().map(line).collect::<String>().into_bytes()
        };
        desk.write("corpus/a.jsonl", &lines(&documents[..at]));
        desk.write_gz("corpus/b.jsonl.gz", &lines(&documents[at..]));
        let (_, rows) = desk.run(&["corpus"], &Reading::default()).unwrap();
        let expected: Vec<_> = documents.iter().map(|text| (id(text), tokens(text))).collect();
        prop_assert_eq!(rows, expected);
    }
}

#[test]
fn files_do_not_depend_on_the_number_of_threads() {
    let mut desk = Desk::new();
    // Documents from a few bytes to some MiB, so that batches are done out of order.
    let mut text = String::new();
    for n in 0..3000usize {
        let words = if n % 500 == 7 { 200_000 } else { 3 + n * 7919 % 300 };
        (0..words).for_each(|w| text.extend([WORDS[2 + (n + w * w) % 6], " "]));
        text.push('\n');
    }
    desk.write("a.txt", text.as_bytes());
    desk.write_zst("b.txt.zst", text.as_bytes());
    let reading = Reading { split: Split::Lines, ..Reading::default() };
    let once = parts(&desk, &["a.txt", "b.txt.zst"], &reading);
    assert!(once.len() > 4, "{} parts", once.len());
    assert_eq!(once[1].0, "part-00001.parquet");
    for threads in [1, 3, 8] {
        desk.threads = threads;
        assert!(parts(&desk, &["a.txt", "b.txt.zst"], &reading) == once, "{threads} threads");
    }
}

#[test]
fn wide_vocabularies_take_four_bytes() {
    let desk = Desk::new();
    let words: Vec<String> = (0..65_537).map(|n| format!("w{n}")).collect();
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    words[1] = "<eos>";
    desk.write("tokenizer.json", &crate::desk::tokenizer(&words));
    desk.write("a.txt", b"w2 w65536");
    let (_, rows) = desk.run(&["a.txt"], &Reading::default()).unwrap();
    assert_eq!(rows[0].1, [2, 65_536, 1]);
    desk.write("tokenizer.json", &crate::desk::tokenizer(&words[..65_536]));
    let (_, rows) = desk.run(&["a.txt"], &Reading::default()).unwrap();
    assert_eq!(rows[0].1, [2, 0, 1], "65,536 tokens fit in two bytes");
}
