//! Text, JSONL, Parquet, packed and not: the same documents give the same rows.

use std::fs::File;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use gigastore_ingest::input::{Format, Reading, Split};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::json;

use crate::desk::{Desk, Row, id, tokens};

const TEXTS: [&str; 4] = ["to be or not to be", "that", "naïve   be", "unheard of"];

fn expected() -> Vec<Row> {
    TEXTS.iter().map(|text| (id(text), tokens(text))).collect()
}

fn numbered() -> Vec<Row> {
    TEXTS.iter().enumerate().map(|(at, text)| (at.to_string(), tokens(text))).collect()
}

fn jsonl() -> Vec<u8> {
    let line = |(at, text)| format!("{}\n", json!({ "id": at, "text": text, "other": [1, { "text": 2 }] }));
    TEXTS.iter().enumerate().map(line).collect::<String>().into_bytes()
}

fn parquet(desk: &Desk, name: &str, texts: ArrayRef, group: usize) {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..texts.len() as i64));
    let batch = RecordBatch::try_from_iter([("id", numbers), ("text", texts)]).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let file = File::create(desk.path(name)).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn every_format_and_packing_gives_the_same_rows() {
    let desk = Desk::new();
    let text = TEXTS.join("\n");
    desk.write("a.txt", text.as_bytes());
    desk.write("marked.txt", format!("\u{feff}{text}\r\n").as_bytes());
    desk.write_gz("a.txt.gz", text.as_bytes());
    desk.write_zst("a.txt.zst", text.as_bytes());
    // What it is packed in is seen from its content, whatever it is called.
    desk.write_gz("b.txt", text.as_bytes());
    desk.write("paragraphs.md", TEXTS.join("\n \n\n").as_bytes());
    let lines = Reading { split: Split::Lines, ..Reading::default() };
    for name in ["a.txt", "marked.txt", "a.txt.gz", "a.txt.zst", "b.txt"] {
        assert_eq!(desk.run(&[name], &lines).unwrap().1, expected(), "{name}");
    }
    let paragraphs = Reading { split: Split::BlankLines, ..Reading::default() };
    assert_eq!(desk.run(&["paragraphs.md"], &paragraphs).unwrap().1, expected());

    desk.write("c.jsonl", &jsonl());
    desk.write_gz("c.json.gz", &jsonl());
    desk.write_zst("c.ndjson.zstd", &jsonl());
    desk.write("c.log", &jsonl());
    parquet(&desk, "d.parquet", Arc::new(StringArray::from_iter_values(TEXTS)), 3);
    desk.write_zst("d.parquet.zst", &std::fs::read(desk.path("d.parquet")).unwrap());
    desk.write_gz("e.parquet", &std::fs::read(desk.path("d.parquet")).unwrap());
    let by_id = Reading { id_field: Some("id".to_owned()), ..Reading::default() };
    for name in ["c.jsonl", "c.json.gz", "c.ndjson.zstd", "d.parquet", "d.parquet.zst", "e.parquet"] {
        assert_eq!(desk.run(&[name], &Reading::default()).unwrap().1, expected(), "{name}");
        assert_eq!(desk.run(&[name], &by_id).unwrap().1, numbered(), "{name}");
    }
    let forced = Reading { format: Some(Format::Jsonl), ..Reading::default() };
    assert_eq!(desk.run(&["c.log"], &forced).unwrap().1, expected());
}

#[test]
fn files_are_documents_and_empty_ones_are_kept() {
    let desk = Desk::new();
    desk.write("books/2.txt", b"to be");
    desk.write("books/1/x.txt", b"");
    desk.write("books/3.jsonl", b"\n{\"text\": \"\"}\n\n");
    let (done, rows) = desk.run(&["books"], &Reading::default()).unwrap();
    assert_eq!(rows, [(id(""), vec![1]), (id("to be"), vec![2, 3, 1]), (id(""), vec![1])]);
    assert_eq!((done.counts.text_bytes, done.counts.tokens), (5, 5));
}

#[test]
fn a_parquet_file_with_nulls_and_a_repeated_dictionary_is_read_row_by_row() {
    let desk = Desk::new();
    let repeated = "be ".repeat(1_000);
    let texts: Vec<Option<&str>> = (0..5000).map(|row| (row % 7 != 3).then_some(repeated.as_str())).collect();
    parquet(&desk, "n.parquet", Arc::new(StringArray::from(texts)), 2000);
    let refused = desk.run(&["n.parquet"], &Reading::default()).unwrap_err().to_string();
    assert!(refused.contains("n.parquet:4: row 4 is null in column \"text\""), "{refused}");
    let skip = Reading { skip_bad: true, id_field: Some("id".to_owned()), ..Reading::default() };
    let (done, rows) = desk.run(&["n.parquet"], &skip).unwrap();
    assert_eq!((done.counts.skipped.documents, rows.len()), (714, 4286));
    assert!(rows.iter().all(|(_, tokens)| tokens.len() == 1_001) && rows[3].0 == "4");
}

#[test]
fn wrong_columns_are_named() {
    let desk = Desk::new();
    parquet(&desk, "d.parquet", Arc::new(StringArray::from_iter_values(TEXTS)), 3);
    let read = |text: &str, id: Option<&str>| {
        let reading = Reading { text_field: text.to_owned(), id_field: id.map(str::to_owned), ..Reading::default() };
        desk.run(&["d.parquet"], &reading).unwrap_err().to_string()
    };
    assert!(read("body", None).contains("actual columns id, text"), "{}", read("body", None));
    assert!(read("id", None).contains("expected a column of strings, actual INT64"));
    assert!(read("text", Some("key")).contains("\"key\": expected a column of strings or integers"));
}
