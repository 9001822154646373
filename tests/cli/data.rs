//! `gigastore data`: push, list, show, fetch.

use std::fs;

use gigastore_tests::prepared::run_script;
use serde_json::json;

use crate::run::{Desk, flip};

const FIRST: &[u8] = include_bytes!("../../formats/fixtures/packs-1.parquet");
const SECOND: &[u8] = include_bytes!("../../formats/fixtures/part-1.parquet");

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
