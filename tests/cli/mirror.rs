//! `gigastore mirror`: the same content in another store, whatever each of them is, and only what is missing is sent.

use std::fs;

use serde_json::Value;

use crate::run::{Desk, flip};

/// A store with a run of two steps and a dataset of two versions, tags among them.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.model("m", 1);
    desk.model("n", 2);
    fs::write(desk.path("t.parquet"), include_bytes!("../../formats/fixtures/packs-1.parquet")).unwrap();
    fs::write(desk.path("u.parquet"), include_bytes!("../../formats/fixtures/packs-1.parquet")).unwrap();
    let save = ["ckpt", "save", "m.safetensors", "--to", "demo/run@1", "--ranks", "3", "--meta", "lr=1e-3"];
    desk.ok(&save);
    desk.ok(&["ckpt", "save", "n.safetensors", "--to", "demo/run@2", "--ranks", "2", "--tag", "best"]);
    desk.ok(&["data", "push", "t.parquet", "--to", "demo/data", "--tag", "first"]);
    desk.ok(&["data", "push", "u.parquet", "--to", "demo/data"]);
    desk
}

fn url(desk: &Desk, folder: &str) -> String {
    format!("file://{}", desk.path(folder).display())
}

fn of(store: &str, desk: &Desk, arguments: &[&str]) -> Value {
    desk.json(&[&["--store", store], arguments].concat())
}

#[test]
fn a_project_is_the_same_in_the_copy_and_a_second_run_sends_nothing() {
    let desk = desk();
    let copy = url(&desk, "copy");
    let first = desk.json(&["mirror", "demo", &copy]);
    assert_eq!(first["mirrored"].as_array().unwrap().len(), 4, "{first:#}");
    for what in [["ckpt", "show", "demo/run@1"], ["ckpt", "show", "demo/run@best"], ["data", "show", "demo/data@first"]]
    {
        let (mine, theirs) = (desk.json(&what), of(&copy, &desk, &what));
        for field in ["content", "bytes", "world_size", "metadata", "cursors", "tags", "lineage", "token_column"] {
            assert_eq!(mine[field], theirs[field], "{field} of {what:?}");
        }
        assert!(mine["content"].is_string(), "{mine:#}");
    }
    desk.ok(&["ckpt", "restore", "demo/run@1", "--out", "mine"]);
    desk.ok(&["--store", &copy, "ckpt", "restore", "demo/run@1", "--out", "theirs"]);
    assert!(desk.files("mine").iter().map(|(_, bytes)| bytes).eq(desk.files("theirs").iter().map(|(_, bytes)| bytes)));
    assert!(desk.ok(&["--store", &copy, "verify"]).contains("demo: sound"));
    let before = desk.files("copy").len();
    let again = desk.json(&["mirror", "demo", &copy]);
    let sent = |report: &Value| {
        report["mirrored"].as_array().unwrap().iter().map(|one| one["objects_sent"].as_u64().unwrap()).sum::<u64>()
    };
    assert!(sent(&first) > 0 && sent(&again) == 0, "{again:#}");
    assert!(again["mirrored"].as_array().unwrap().iter().all(|one| one["existed"] == true));
    assert_eq!(desk.files("copy").len(), before, "nothing was written");
}

#[test]
fn what_is_shared_between_steps_is_sent_once_and_a_project_may_get_another_name() {
    let desk = Desk::new();
    desk.model("m", 1);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/run@1"]);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/run@2"]);
    let copy = url(&desk, "copy");
    let target = format!("{}#demo/run@1", url(&desk, "store"));
    desk.ok(&["mirror", &target, &format!("{copy}#other")]);
    let second = desk.json(&["mirror", "demo/run", &format!("{copy}#other")]);
    let sent: Vec<u64> =
        second["mirrored"].as_array().unwrap().iter().map(|one| one["objects_sent"].as_u64().unwrap()).collect();
    assert_eq!(sent, [0, 0], "the packs of step 2 are those of step 1");
    assert!(desk.ok(&["--store", &copy, "verify", "other"]).contains("other: sound: "));
    let listed = desk.ok(&["--store", &copy, "ls"]);
    assert_eq!(listed.trim(), "other");
}

#[test]
fn a_damaged_step_is_not_copied_and_the_rest_is() {
    let desk = desk();
    let packs = desk.files("store/projects/demo/packs");
    let (path, bytes) = packs.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    flip(path, bytes.len() / 2);
    let copy = url(&desk, "copy");
    let said = desk.run(&["--format", "json", "mirror", "demo", &copy]);
    assert_eq!(said.code, Some(7), "{said:?}");
    let report: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(report["damaged"].as_array().unwrap().len(), 1, "{report:#}");
    assert_eq!(report["mirrored"].as_array().unwrap().len(), 3, "{report:#}");
    assert!(said.stderr.contains("damaged"), "{}", said.stderr);
    assert!(desk.ok(&["--store", &copy, "verify"]).contains("demo: sound"), "nothing damaged was taken");
    fs::write(path, bytes).unwrap();
    // Of two steps the first may have been the damaged one: copied behind the second it would be the newest.
    let again = desk.json(&["mirror", "demo", &copy]);
    let late: Vec<&str> = again["late"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(late.is_empty() || late == ["run@1"], "{again:#}");
    assert_eq!(again["mirrored"].as_array().unwrap().len() + late.len(), 4, "{again:#}");
    let latest = || of(&copy, &desk, &["ckpt", "show", "demo/run"])["target"].clone();
    assert_eq!(latest(), of(&copy, &desk, &["ckpt", "show", "demo/run@2"])["target"]);
    desk.ok(&["mirror", "demo/run@1", &copy]);
    of(&copy, &desk, &["ckpt", "show", "demo/run@1"]);
}

#[test]
fn what_was_dropped_in_the_copy_stays_away() {
    let desk = desk();
    let copy = url(&desk, "copy");
    desk.ok(&["mirror", "demo", &copy]);
    let before = of(&copy, &desk, &["data", "show", "demo/data"]);
    for target in ["demo/data@1", "demo/run@1"] {
        if target == "demo/data@1" {
            desk.ok(&["--store", &copy, "ckpt", "tag", "demo/data@2", "first"]);
        }
        desk.ok(&["--store", &copy, "drop", target]);
    }
    desk.ok(&["ckpt", "tag", "demo/data@2", "first"]);
    let again = desk.json(&["mirror", "demo", &copy]);
    let names = |field: &str| -> Vec<String> {
        again[field].as_array().unwrap().iter().filter_map(|one| one.as_str().map(str::to_owned)).collect()
    };
    let (dropped, late) = (names("dropped"), names("late"));
    assert!(dropped.contains(&"data@1".to_owned()), "{again:#}");
    assert!(dropped.iter().chain(&late).any(|target| target == "run@1"), "{again:#}");
    assert_eq!(of(&copy, &desk, &["data", "show", "demo/data"])["target"], before["target"], "{again:#}");
}

#[test]
fn a_copy_is_what_a_scrub_repairs_from() {
    let desk = desk();
    let copy = url(&desk, "copy");
    desk.ok(&["mirror", "demo", &copy]);
    let before = desk.files("store/projects/demo");
    for (path, bytes) in before.iter().filter(|(path, _)| path.to_str().unwrap().contains("/packs/")) {
        flip(path, bytes.len() / 3);
    }
    for (path, _) in before.iter().filter(|(path, _)| path.to_str().unwrap().contains("/blobs/")) {
        fs::remove_file(path).unwrap();
    }
    desk.fails(7, &["scrub", "demo", "--dry-run", "--replica", &copy], &["a scrub would repair all of them"]);
    desk.fails(7, &["scrub", "demo"], &["findings are left", "--replica URL"]);
    assert!(desk.run(&["verify", "demo", "--quick"]).stdout.contains("marked as damaged since"));
    assert!(desk.ok(&["du", "demo"]).contains("objects are marked as damaged"));
    let report = desk.json(&["scrub", "demo", "--replica", &copy, "--rate", "1GB/s"]);
    assert_eq!(report[0]["report"]["findings"].as_array().unwrap().len(), 0, "{report:#}");
    assert!(report[0]["report"]["repaired"].as_array().unwrap().len() >= 3, "{report:#}");
    let scrubbed = |path: &std::path::Path| path.to_str().unwrap().contains("/scrub/");
    let after: Vec<_> = desk.files("store/projects/demo").into_iter().filter(|(path, _)| !scrubbed(path)).collect();
    assert!(after == before, "every object is what it was");
    assert!(desk.ok(&["verify"]).contains("demo: sound"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let desk = desk();
    let copy = url(&desk, "copy");
    desk.fails(2, &["mirror", "demo", "copy"], &["is not a store"]);
    desk.fails(4, &["mirror", "nowhere", &copy], &["nowhere"]);
    desk.fails(4, &["mirror", "demo/runn", &copy], &["runn"]);
    desk.fails(4, &["mirror", "file:///nowhere/at/all#demo", &copy], &["no Gigastore store"]);
    desk.fails(2, &["mirror", "DEMO", &copy], &[]);
    desk.ok(&["ckpt", "save", "n.safetensors", "--to", "other/run@1"]);
    desk.ok(&["mirror", "other/run@1", &format!("{copy}#demo")]);
    desk.fails(8, &["mirror", "demo/run@1", &copy], &["other content", "another project"]);
    let said = desk.ok(&["--dry-run", "mirror", "demo", &url(&desk, "third")]);
    assert!(said.contains("would copy demo") && !desk.path("third").exists(), "{said}");
}

#[test]
fn a_file_that_is_pushed_again_is_put_right() {
    let desk = desk();
    let blob = desk.stored("/blobs/");
    let before = fs::read(&blob).unwrap();
    flip(&blob, before.len() / 2);
    desk.fails(7, &["scrub"], &["findings are left"]);
    desk.ok(&["data", "push", "u.parquet", "--to", "demo/data"]);
    assert_eq!(fs::read(&blob).unwrap(), before);
    assert!(desk.ok(&["verify"]).contains("demo: sound"));
    assert!(desk.files("store/projects/demo/damaged").is_empty());
}
