//! `gigastore data`: push, list, show, fetch.

use std::fs;
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, RecordBatch};
use gigastore_tests::model::XorShift;
use gigastore_tests::prepared::run_script;
use parquet::arrow::ArrowWriter;
use serde_json::json;

use crate::run::{Desk, Said, flip};

const FIRST: &[u8] = include_bytes!("../../formats/fixtures/packs-1.parquet");
const SECOND: &[u8] = include_bytes!("../../formats/fixtures/timeline-1.parquet");

fn desk() -> Desk {
    let desk = Desk::new();
    fs::create_dir(desk.path("corpus")).unwrap();
    fs::write(desk.path("corpus/a.parquet"), FIRST).unwrap();
    fs::write(desk.path("corpus/b.parquet"), SECOND).unwrap();
    desk
}

#[test]
fn versions_are_pushed_listed_and_fetched() {
    let desk = desk();
    let pushed = desk.json(&["data", "push", "corpus/a.parquet", "--to", "demo/corpus", "--tag", "first"]);
    assert_eq!((&pushed["version"], &pushed["files_sent"]), (&json!(1), &json!(1)));
    let again = desk.json(&["data", "push", "corpus/a.parquet", "--to", "demo/corpus"]);
    assert_eq!((&again["version"], &again["existed"], &again["bytes_sent"]), (&json!(1), &json!(true), &json!(0)));
    let more = desk.json(&["data", "push", "corpus/b.parquet", "--to", "demo/corpus", "--append"]);
    assert_eq!((&more["version"], &more["files"], &more["files_sent"]), (&json!(2), &json!(1), &json!(1)));
    let folder = desk.ok(&["data", "push", "corpus", "--to", "demo/corpus"]);
    assert!(folder.contains("demo/corpus@2 has the same files already"), "{folder}");

    let listed = desk.ok(&["data", "ls", "demo"]);
    assert!(listed.contains("corpus") && listed.contains("first"), "{listed}");
    let shown = desk.ok(&["data", "show", "demo/corpus"]);
    assert!(shown.contains("demo/corpus@2") && shown.contains("a.parquet") && shown.contains("b.parquet"), "{shown}");
    desk.ok(&["data", "get", "demo/corpus@2", "--out", "out"]);
    assert_eq!(fs::read(desk.path("out/a.parquet")).unwrap(), FIRST);
    assert_eq!(fs::read(desk.path("out/b.parquet")).unwrap(), SECOND);
    desk.ok(&["data", "get", "demo/corpus@first", "--out", "old"]);
    assert_eq!(desk.files("old").len(), 1);
    let output = desk.command(&["data", "get", "demo/corpus", "b.parquet", "--range", "10..200"]).output().unwrap();
    assert_eq!(output.stdout, SECOND[10..200]);
}

#[test]
fn a_dry_run_looks_at_the_files() {
    let desk = desk();
    let push = ["data", "push", "corpus", "--to", "demo/corpus", "--dry-run"];
    let said = desk.ok(&push);
    assert!(said.contains("would push 2 files") && said.contains("rows to demo/corpus"), "{said}");
    fs::write(desk.path("corpus/c.parquet"), &SECOND[..100]).unwrap();
    desk.fails(1, &push, &["c.parquet", "not a Parquet file"]);
    desk.fails(4, &["data", "push", "absent.parquet", "--to", "demo/corpus", "--dry-run"], &["absent.parquet"]);
    assert!(!desk.path("store").exists());
}

#[test]
fn a_dataset_may_have_more_files_than_a_process_may_open() {
    let desk = desk();
    for i in 0..400 {
        fs::write(desk.path(&format!("corpus/{i}.parquet")), FIRST).unwrap();
    }
    let mut shell = std::process::Command::new("sh");
    let limited = "ulimit -n 256; exec \"$0\" data push corpus --to demo/corpus";
    shell.args(["-c", limited, env!("CARGO_BIN_EXE_gigastore")]).current_dir(desk.path(""));
    shell.env("GIGASTORE_STORE", format!("file://{}", desk.path("store").display()));
    let said = Said::of(shell.output().unwrap());
    assert!(said.code == Some(0) && said.stdout.contains("402 files"), "{said:?}");
}

#[test]
fn a_long_range_is_printed_in_order() {
    let desk = desk();
    // A file longer than one read: rows of random bytes, which no codec makes smaller.
    let file = desk.path("long.parquet");
    long_table(&file);
    let bytes = fs::read(&file).unwrap();
    assert!(bytes.len() > 20 << 20, "{}", bytes.len());
    desk.ok(&["data", "push", "long.parquet", "--to", "demo/long"]);
    let end = bytes.len() - 5;
    let range = format!("3..{end}");
    let output = desk.command(&["data", "get", "demo/long", "long.parquet", "--range", &range]).output().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == bytes[3..end], "{} bytes came", output.stdout.len());
    flip(&desk.stored("/blobs/"), 18 << 20);
    let output = desk.command(&["data", "get", "demo/long", "long.parquet", "--range", &range]).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert!(bytes[3..].starts_with(&output.stdout), "what came before the damage is right");
}

fn long_table(path: &std::path::Path) {
    let random = XorShift::new(7).bytes(24 << 20);
    let column: ArrayRef = Arc::new(BinaryArray::from_iter_values(random.chunks(64 << 10)));
    let batch = RecordBatch::try_from_iter([("bytes", column)]).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn the_digest_shown_is_what_others_compute() {
    let desk = desk();
    desk.ok(&["data", "push", "corpus", "--to", "demo/corpus"]);
    desk.ok(&["data", "get", "demo/corpus", "--out", "out"]);
    let shown = desk.ok(&["data", "show", "demo/corpus"]);
    for name in ["a.parquet", "b.parquet"] {
        let digest = run_script("hash_file.py", &[desk.path("out").join(name).as_ref()]).unwrap();
        let line = shown.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.ends_with(digest.trim()), "{line}: expected {digest}");
    }
}

#[test]
fn one_damaged_file_does_not_keep_the_others_away() {
    let desk = desk();
    desk.ok(&["data", "push", "corpus", "--to", "demo/corpus"]);
    let larger = if FIRST.len() > SECOND.len() { "a.parquet" } else { "b.parquet" };
    flip(&desk.stored("/blobs/"), 700);
    desk.fails(3, &["data", "get", "demo/corpus", "--out", "out"], &["integrity", larger, "1 of 2 files"]);
    let there = desk.files("out");
    assert_eq!(there.len(), 1, "the sound file alone");
    assert!(!there[0].0.ends_with(larger));
    desk.fails(7, &["data", "get", "demo/corpus", larger, "--out", "alone"], &["integrity", larger, "blobs/"]);
    assert_eq!(desk.files("alone"), []);
}

#[test]
fn what_is_no_parquet_is_refused() {
    let desk = desk();
    fs::write(desk.path("t.parquet"), "a,b\n1,2\n").unwrap();
    desk.fails(
        1,
        &["data", "push", "t.parquet", "--to", "demo/corpus"],
        &["t.parquet", "not a Parquet file", "8 bytes"],
    );
    desk.fails(4, &["data", "push", "absent.parquet", "--to", "demo/corpus"], &["absent.parquet"]);
    desk.fails(2, &["data", "push", "corpus", "--to", "demo/corpus@3"], &["numbered by the store"]);
}
