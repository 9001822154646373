//! `gigastore gc`, `retain`, `pin`, `unpin`, `drop`, `du`: what goes, what stays, and what is said of it.

use serde_json::{Value, json};

use crate::run::Desk;

/// A desk with five steps of a run, each of another model.
fn desk() -> Desk {
    let desk = Desk::new();
    for step in 1..=5 {
        desk.model("m", step);
        desk.ok(&["ckpt", "save", "m.safetensors", "--to", &format!("demo/run@{step}")]);
    }
    desk
}

fn live(desk: &Desk) -> Vec<Value> {
    let info = desk.json(&["ls", "demo"]);
    info["names"][0]["live"].as_array().unwrap().iter().map(|info| info["commit"]["number"].clone()).collect()
}

fn packs(desk: &Desk) -> usize {
    desk.files("store").iter().filter(|(path, _)| path.to_str().unwrap().contains("/packs/")).count()
}

#[test]
fn what_is_dropped_goes_with_the_second_collection() {
    let desk = desk();
    desk.ok(&["pin", "demo/run@1"]);
    desk.fails(8, &["drop", "demo/run@1"], &["pinned", "gigastore unpin"]);
    desk.fails(8, &["drop", "demo/run@5"], &["newest step"]);
    desk.fails(2, &["drop", "demo/run"], &["demo/run@…"]);
    desk.fails(4, &["drop", "demo/run@9"], &["9"]);
    desk.ok(&["unpin", "demo/run@1"]);
    assert!(desk.ok(&["drop", "demo/run@1", "--dry-run"]).contains("would drop demo/run@1"));
    let dropped = desk.json(&["drop", "demo/run@1", "demo/run@2"]);
    assert_eq!((&dropped[0]["dropped"], &dropped[1]["number"]), (&json!(true), &json!(2)));
    assert_eq!(live(&desk), [3, 4, 5]);
    let du = desk.json(&["du"]);
    assert!(du["reclaimable"]["count"] == 0 && du["reclaimable_later"]["bytes"].as_u64().unwrap() > 0, "{du}");
    let before = packs(&desk);
    let first = desk.json(&["gc", "demo", "--grace", "0s"]);
    assert_eq!(first[0]["report"]["fence"]["raised"]["epoch"], 1);
    assert_eq!(packs(&desk), before);
    let would = desk.ok(&["gc", "--grace", "0s", "--dry-run"]);
    assert!(would.contains("would delete 0"), "{would}");
    let second = desk.ok(&["gc", "demo", "--grace", "0s"]);
    assert!(second.contains("deleted") && second.contains("epoch 2") && packs(&desk) < before, "{second}");
    let young = desk.ok(&["gc"]);
    assert!(young.contains("no fence is 1h old yet"), "{young}");
    desk.ok(&["verify"]);
    let du = desk.json(&["du", "demo"]);
    assert_eq!((&du["in_store"], &du["reclaimable_later"]["count"]), (&du["needed"], &json!(0)));
    assert_eq!(du["stored_bytes"], du["in_store"]["bytes"]);
    let human = desk.ok(&["du"]);
    assert!(human.contains("reclaimable now 0 B, later 0 B"), "{human}");
    desk.fails(4, &["gc", "demi"], &["did you mean demo?"]);
    desk.fails(2, &["gc", "--grace", "1"], &["90s or 6h"]);
}

#[test]
fn a_policy_is_set_shown_applied_and_cleared() {
    let desk = desk();
    desk.ok(&["ckpt", "tag", "demo/run@1", "best"]);
    desk.fails(2, &["retain", "demo", "--last", "2"], &["demo/NAME"]);
    desk.fails(2, &["retain", "demo/run", "--last", "0"], &["keeps nothing"]);
    desk.fails(4, &["retain", "demo/rum", "--last", "2"], &["did you mean run?"]);
    let would = desk.ok(&["retain", "demo/run", "--last", "2", "--dry-run"]);
    assert!(would.contains("would drop 2 (2, 3)"), "{would}");
    assert_eq!(desk.json(&["retain", "demo", "--show"]), json!([]), "a dry run stores no policy");
    let done = desk.json(&["retain", "demo/run", "--last", "2", "--every", "1000", "--younger-than", "1s"]);
    // All five were saved within a second or a few: what the ages keep is kept.
    let kept = 5 - done[0]["retained"]["dropped"].as_array().unwrap().len();
    assert_eq!(done[0]["retained"]["live"], kept);
    let shown = desk.ok(&["retain", "demo/run", "--show"]);
    assert!(shown.contains("the last 2, every 1000, younger than 1s"), "{shown}");
    desk.ok(&["retain", "demo/run", "--last", "2"]);
    assert_eq!(live(&desk), [1, 4, 5]);
    desk.model("m", 6);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/run@6"]);
    let applied = desk.json(&["retain", "demo"]);
    assert_eq!(applied[0]["retained"]["dropped"], json!([4]));
    desk.ok(&["retain", "demo/run", "--clear"]);
    let none = desk.run(&["retain", "demo"]);
    assert!(none.code == Some(0) && none.stderr.contains("no policy"), "{none:?}");
    assert_eq!(live(&desk), [1, 5, 6]);
}

#[test]
fn unfinished_files_of_a_killed_process_go_when_they_are_old() {
    let desk = desk();
    let pack = desk.stored("/packs/");
    let staged = pack.with_file_name(format!("{}#1", pack.file_name().unwrap().to_str().unwrap()));
    std::fs::write(&staged, b"half").unwrap();
    desk.ok(&["gc"]);
    assert!(staged.exists(), "its writer may live");
    let report = desk.json(&["gc", "--save-timeout", "0s"]);
    assert_eq!(report[0]["report"]["staging"], json!({ "count": 1, "bytes": 4 }));
    assert!(!staged.exists() && pack.exists());
}
