//! `gigastore doctor --rebuild-log`: a lost log comes back from manifests and packs, and nothing else is touched.

use std::fs;

use serde_json::Value;

use crate::run::{Desk, flip};

fn desk() -> Desk {
    let desk = Desk::new();
    desk.model("m", 1);
    desk.model("n", 2);
    fs::write(desk.path("t.parquet"), include_bytes!("../../formats/fixtures/packs-1.parquet")).unwrap();
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/run@10", "--ranks", "2"]);
    desk.ok(&["ckpt", "save", "n.safetensors", "--to", "demo/run@20", "--tag", "best"]);
    desk.ok(&["data", "push", "t.parquet", "--to", "demo/data"]);
    desk
}

/// What a reader sees of a project, but for what only the log knew.
fn seen(desk: &Desk) -> Vec<(String, Value, Value)> {
    let mut seen = Vec::new();
    for name in desk.json(&["ls", "demo"])["names"].as_array().unwrap() {
        for live in name["live"].as_array().unwrap() {
            let commit = &live["commit"];
            let label = format!("{}@{}", commit["name"].as_str().unwrap(), commit["number"]);
            let mut commit = commit.clone();
            // The bytes of a timeline are found by run and step; the rest must be the very same.
            commit.as_object_mut().unwrap().remove("timeline");
            let latest = live["tags"].as_array().unwrap().contains(&"latest".into());
            seen.push((label, commit, latest.into()));
        }
    }
    seen
}

#[test]
fn a_lost_log_comes_back_with_the_same_commits() {
    let desk = desk();
    let before = seen(&desk);
    let log = desk.path("store/projects/demo/log");
    fs::rename(&log, desk.path("log")).unwrap();
    let objects = desk.files("store/projects/demo");
    let plan = desk.json(&["doctor", "--rebuild-log", "demo", "--dry-run"]);
    assert_eq!(plan["report"]["recovered"].as_array().unwrap().len(), 3, "{plan:#}");
    assert!(desk.files("store/projects/demo") == objects, "a dry run writes nothing");
    let said = desk.run(&["doctor", "--rebuild-log", "demo"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("3 recovered, 0 manifests left out"), "{said:?}");
    assert_eq!(seen(&desk), before);
    assert!(desk.ok(&["verify"]).contains("demo: sound"));
    // Saves go on from there; the lost tag can be set again.
    desk.ok(&["ckpt", "tag", "demo/run@20", "best"]);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/run@30"]);
    desk.fails(8, &["doctor", "--rebuild-log", "demo"], &["has 3 log records", "none is there"]);
    assert!(desk.ok(&["verify"]).contains("demo: sound"));
}

#[test]
fn a_project_that_was_collected_gets_its_epoch_back() {
    let desk = desk();
    for _ in 0..2 {
        desk.ok(&["gc", "demo", "--grace", "0s"]);
    }
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/run@30"]);
    let before = seen(&desk);
    fs::remove_dir_all(desk.path("store/projects/demo/log")).unwrap();
    let lists = |desk: &Desk| desk.files("store/projects/demo/manifests").len();
    let all = lists(&desk);
    let report = desk.json(&["doctor", "--rebuild-log", "demo"]);
    assert_eq!((report["report"]["epoch"].as_u64(), lists(&desk)), (Some(2), all), "{report:#}");
    assert_eq!(seen(&desk), before);
    desk.ok(&["ckpt", "save", "n.safetensors", "--to", "demo/run@40"]);
    desk.ok(&["gc", "demo", "--grace", "0s"]);
    assert!(desk.ok(&["verify"]).contains("demo: sound"));
}

#[test]
fn what_does_not_verify_is_left_out_and_said() {
    let desk = desk();
    fs::remove_dir_all(desk.path("store/projects/demo/log")).unwrap();
    let manifests = desk.files("store/projects/demo/manifests");
    let (largest, bytes) = manifests.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    flip(largest, bytes.len() / 2);
    for (path, _) in desk.files("store/projects/demo/blobs") {
        fs::remove_file(path).unwrap();
    }
    let report = desk.json(&["doctor", "--rebuild-log", "demo"]);
    let left = report["report"]["left"].to_string();
    assert!(left.contains("is damaged: its bytes") && left.contains("is missing"), "{report:#}");
    assert_eq!(report["report"]["recovered"].as_array().unwrap().len(), 1, "{report:#}");
    assert!(desk.ok(&["verify"]).contains("demo: sound"));
}

#[test]
fn nothing_is_made_of_nothing_and_a_service_makes_none() {
    let desk = desk();
    desk.fails(4, &["doctor", "--rebuild-log", "nowhere"], &["nothing to make a log of"]);
    desk.fails(8, &["doctor", "--rebuild-log", "demo", "--dry-run"], &["has 3 log records"]);
    let record = desk.path("store/projects/demo/log/00000000000000000001.json");
    fs::remove_file(record).unwrap();
    desk.fails(8, &["doctor", "--rebuild-log", "demo"], &["has 2 log records"]);
    let service = ["--store", "http://127.0.0.1:1", "doctor", "--rebuild-log", "demo"];
    desk.fails(1, &service, &["on the store itself"]);
}
