//! `gigastore data` on datasets of tokens: validated pushes, lineage, differences, takedown, removal, Delta tables.

use std::fs::{self, File};

use gigastore_formats::table::tokens::{TokenFileSpec, TokenFileWriter, TokenWidth};
use serde_json::{Value, json};

use crate::run::Desk;

/// Writes documents of `lengths` tokens; their ids are `name-0`, `name-1`, …
fn corpus(desk: &Desk, name: &str, lengths: &[u32]) {
    fs::create_dir_all(desk.path("corpus")).unwrap();
    let file = File::create(desk.path(&format!("corpus/{name}.parquet"))).unwrap();
    let spec = TokenFileSpec { row_group_tokens: 16, ..TokenFileSpec::new(TokenWidth::U16) };
    let mut writer = TokenFileWriter::new(file, spec).unwrap();
    for (i, length) in lengths.iter().enumerate() {
        let tokens: Vec<u32> = (0..*length).map(|token| 100 + token).collect();
        writer.push(&format!("{name}-{i}"), tokens.as_slice()).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn a_push_counts_tokens_and_show_says_where_they_came_from() {
    let desk = Desk::new();
    corpus(&desk, "a", &[3, 0, 9, 12, 1]);
    let pushed = desk.json(&["data", "push", "corpus", "--to", "demo/corpus", "--vocab-size", "200"]);
    assert_eq!((&pushed["documents"], &pushed["tokens"], &pushed["warnings"]), (&json!(5), &json!(25), &json!([])));
    assert_eq!(pushed["token_column"]["column"], "tokens.list.element");
    let shown = desk.ok(&["data", "show", "demo/corpus"]);
    for part in [
        "documents   5\n",
        "tokens      25 in tokens.list.element, 2 bytes each, of a vocabulary of 200",
        "sources     corpus",
        "command     gigastore --format json data push corpus --to demo/corpus --vocab-size 200",
        "  8..16 tokens  2  ########################################",
        "      0 tokens  1  ####################\n",
    ] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    let json = desk.json(&["data", "show", "demo/corpus"]);
    assert_eq!((&json["lengths"], &json["tokens"]), (&json!([1, 1, 1, 0, 2]), &json!(25)));
    assert_eq!(json["files"][0]["tokens"], json!([12, 13]));

    corpus(&desk, "b", &[150]);
    let parts = ["corpus/b.parquet, row 0: token 200", "vocabulary of 200"];
    desk.fails(1, &["data", "push", "corpus/b.parquet", "--to", "demo/corpus", "--append"], &parts);
    let usage = ["data", "push", "corpus", "--to", "demo/corpus", "--no-tokens", "--vocab-size", "3"];
    desk.fails(2, &usage, &["cannot be used with"]);
}

#[test]
fn a_file_of_the_same_path_is_a_conflict_unless_it_replaces() {
    let desk = Desk::new();
    corpus(&desk, "a", &[1]);
    desk.ok(&["data", "push", "corpus", "--to", "demo/corpus"]);
    corpus(&desk, "a", &[2]);
    desk.fails(8, &["data", "push", "corpus", "--to", "demo/corpus", "--append"], &["a.parquet", "--replace"]);
    desk.ok(&["data", "push", "corpus", "--to", "demo/corpus", "--replace"]);
    let diff = desk.json(&["data", "diff", "demo/corpus@1", "demo/corpus@2"]);
    assert_eq!((&diff["changed"][0]["path"], &diff["same"]), (&json!("a.parquet"), &json!(0)));
    assert_eq!((&diff["before"]["tokens"], &diff["after"]["tokens"]), (&json!(1), &json!(2)));
}

#[test]
fn documents_are_taken_down_and_files_removed() {
    let desk = Desk::new();
    corpus(&desk, "a", &[3, 0, 9, 12, 1]);
    corpus(&desk, "b", &[5]);
    desk.ok(&["data", "push", "corpus", "--to", "demo/corpus"]);
    fs::write(desk.path("ids.txt"), "a-2\r\n\nb.parquet:0\n").unwrap();
    let rm = ["data", "rm", "--documents", "ids.txt", "--from", "demo/corpus"];
    let would = desk.ok(&[&rm[..], &["--dry-run"]].concat());
    assert!(would.contains("would take 2 documents of demo/corpus down"), "{would}");
    let done = desk.json(&rm);
    let expected = json!({
        "dataset": "demo/corpus", "version": 2, "files": 2, "documents": 2, "tokens": 14, "already": 0, "missing": [],
    });
    assert_eq!(done, expected);
    let head = desk.json(&["data", "head", "demo/corpus", "-n", "4"]);
    let of = |key: &str| head["documents"].as_array().unwrap().iter().map(|d| d[key].clone()).collect::<Vec<Value>>();
    assert_eq!(of("id"), ["a-0", "a-1", "a-2", "a-3"]);
    assert_eq!(of("n_tokens"), [3, 0, 0, 12]);
    assert_eq!(of("planned"), [3, 0, 9, 12]);
    assert_eq!(of("taken_down"), [false, false, true, false]);
    let shown = desk.ok(&["data", "show", "demo/corpus"]);
    assert!(shown.contains("documents   6, 2 of them taken down"), "{shown}");
    let diff = desk.ok(&["data", "diff", "demo/corpus@1", "demo/corpus@2"]);
    for part in ["documents   6 to 6 (+0)", "taken down  0 to 2 (+2)", "changed  a.parquet"] {
        assert!(diff.contains(part), "{part:?} is not in {diff}");
    }
    fs::write(desk.path("ids.txt"), "nobody\n").unwrap();
    desk.fails(4, &rm, &["nobody", "--ignore-missing"]);
    let none = desk.json(&[&rm[..], &["--ignore-missing"]].concat());
    assert_eq!((&none["version"], &none["missing"]), (&json!(2), &json!(["nobody"])));

    let removed = desk.json(&["data", "remove", "b.parquet", "--from", "demo/corpus"]);
    assert_eq!((&removed["version"], &removed["files"]), (&json!(3), &json!(1)));
    desk.fails(4, &["data", "remove", "c.parquet", "--from", "demo/corpus"], &["c.parquet", "a.parquet"]);
    desk.fails(2, &["data", "remove", "a.parquet", "--from", "demo/corpus@2"], &["numbered by the store"]);
}

#[test]
fn a_version_is_exported_as_a_delta_table() {
    let desk = Desk::new();
    corpus(&desk, "a", &[3, 0]);
    corpus(&desk, "b c", &[5]);
    desk.ok(&["data", "push", "corpus", "--to", "demo/corpus"]);
    let said = desk.ok(&["data", "export", "--delta", "table", "demo/corpus"]);
    assert!(said.contains("a Delta table of 2 files"), "{said}");
    assert_eq!(fs::read(desk.path("table/a.parquet")).unwrap(), fs::read(desk.path("corpus/a.parquet")).unwrap());
    let log = |table: &str| -> Vec<Value> {
        let text = fs::read_to_string(desk.path(table).join("_delta_log/00000000000000000000.json")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let lines = log("table");
    assert_eq!(lines[0], json!({ "protocol": { "minReaderVersion": 1, "minWriterVersion": 2 } }));
    let schema: Value = serde_json::from_str(lines[1]["metaData"]["schemaString"].as_str().unwrap()).unwrap();
    let names: Vec<&Value> = schema["fields"].as_array().unwrap().iter().map(|field| &field["name"]).collect();
    assert_eq!(names, ["id", "n_tokens", "tokens"]);
    assert_eq!(lines[3]["add"]["path"], "b%20c.parquet");
    assert_eq!(lines[2]["add"]["stats"], "{\"numRecords\":2}");
    desk.fails(1, &["data", "export", "--delta", "table", "demo/corpus"], &["a Delta table already"]);
    // Without its log it is an export that was cut short.
    fs::remove_file(desk.path("table/_delta_log/00000000000000000000.json")).unwrap();
    desk.ok(&["data", "export", "--delta", "table", "demo/corpus"]);
    desk.ok(&["data", "export", "--delta", "links", "--links", "demo/corpus"]);
    let path = log("links")[2]["add"]["path"].as_str().unwrap().to_owned();
    let bytes = fs::read(path.strip_prefix("file://").unwrap()).unwrap();
    assert_eq!(bytes, fs::read(desk.path("corpus/a.parquet")).unwrap());
    assert_eq!(desk.files("links").len(), 1);
}
