//! What `gigastore ckpt` says of the data that a run had seen.

use gigastore_client::checkpoint::SaveSpec;
use gigastore_client::store::{OpenMode, Store};
use gigastore_formats::order::Cursor;
use gigastore_tests::cursors::cursor;
use gigastore_tests::model::{Size, transformer};
use gigastore_tests::opened::save;
use serde_json::json;

use crate::run::Desk;

/// Saves small tensors as steps of `demo/run`, each with its cursor of stream `data`.
fn save_steps(desk: &Desk, steps: impl IntoIterator<Item = (u64, Option<Cursor>)>) {
    let url = format!("file://{}", desk.path("store").display());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let store = Store::open(&url, OpenMode::Create).await.unwrap();
        for (step, cursor) in steps {
            let mut spec = SaveSpec::new("demo".parse().unwrap(), "run".parse().unwrap(), step, 2);
            spec.cursors = cursor.map(|cursor| ("data".to_owned(), cursor)).into_iter().collect();
            save(&store, spec, &transformer(1, Size::TINY)).await.unwrap();
        }
    });
}

#[test]
fn show_has_a_line_for_each_stream_and_all_of_it_as_json() {
    let desk = Desk::new();
    let (whole, part) = (cursor(12, 0..12), cursor(12, 0..9));
    save_steps(&desk, [(1, Some(whole.clone())), (2, Some(part)), (3, None)]);
    let said = desk.ok(&["ckpt", "show", "demo/run@1"]);
    let digest = whole.seen.digest.short();
    let line = format!("  data        demo/web@3 epoch 1, 12 samples, 24 tokens seen, digest {digest}\n");
    assert!(said.contains(&line), "{said}");
    let said = desk.ok(&["ckpt", "show", "demo/run@2"]);
    assert!(said.contains("12 samples (9 counted), 18 tokens seen"), "{said}");
    let document = desk.json(&["ckpt", "show", "demo/run@1"]);
    assert_eq!(serde_json::from_value::<Cursor>(document["cursors"]["data"].clone()).unwrap(), whole);
    assert_eq!(desk.json(&["ckpt", "show", "demo/run@3"])["cursors"], json!({}));
}

#[test]
fn diff_says_whether_the_same_data_was_seen() {
    let desk = Desk::new();
    let cursors = [cursor(12, 0..12), cursor(12, 0..12), cursor(12, 1..12), cursor(16, 0..16)];
    save_steps(&desk, (1..).zip(cursors.map(Some)).chain([(5, None)]));
    let sentences = [
        ("same", "data: the same data was seen, 12 samples"),
        ("differs", "data: other data was seen after the same number of samples, 12"),
        ("apart", "data: demo/run@1 is at 12 samples, demo/run@4 at 16"),
        ("removed", "data: only demo/run@1 has a cursor"),
    ];
    for (step, (word, sentence)) in (2..).zip(sentences) {
        let compared = ["ckpt", "diff", "demo/run@1", &format!("demo/run@{step}")];
        let said = desk.ok(&compared);
        assert!(said.contains(sentence), "{said}");
        let streams = desk.json(&compared)["streams"].clone();
        assert_eq!((&streams[0]["name"], &streams[0]["seen"]), (&json!("data"), &json!(word)));
        assert_eq!(streams[0]["first"]["tokens"], json!(24));
    }
}
