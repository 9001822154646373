//! `gigastore verify`, `ls` and `du`: what is damaged, what it affects, how many bytes there are.

use std::fs;

use gigastore_formats::digest::Digest;
use serde_json::Value;

use crate::run::{Desk, flip};

fn desk() -> Desk {
    let desk = Desk::new();
    desk.model("m", 1);
    fs::write(desk.path("t.parquet"), include_bytes!("../../formats/fixtures/packs-1.parquet")).unwrap();
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/run@1", "--ranks", "2"]);
    desk.ok(&["data", "push", "t.parquet", "--to", "demo/data"]);
    desk
}

fn findings(desk: &Desk, arguments: &[&str]) -> Vec<Value> {
    let said = desk.run(&[&["--format", "json", "verify"], arguments].concat());
    let reports: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    let findings = reports[0]["report"]["findings"].as_array().unwrap().clone();
    assert_eq!(said.code, Some(if findings.is_empty() { 0 } else { 7 }), "{said:?}");
    findings
}

#[test]
fn a_sound_store_is_sound_at_every_depth_and_target() {
    let desk = desk();
    let all: [&[&str]; 6] =
        [&[], &["demo"], &["demo/run"], &["demo/run@1", "--quick"], &["--sample", "5%"], &["demo/data@1"]];
    for arguments in all {
        let said = desk.ok(&[&["verify"], arguments].concat());
        assert!(said.contains("demo: sound"), "{arguments:?}: {said}");
        assert!(findings(&desk, arguments).is_empty());
    }
}

#[test]
fn a_flipped_byte_is_found_wherever_it_lies() {
    for (part, affected) in
        [("/packs/", "model."), ("/blobs/", "t.parquet"), ("/manifests/", "@1"), ("/log/", "record")]
    {
        let desk = desk();
        let path = desk.stored(part);
        let len = fs::metadata(&path).unwrap().len() as usize;
        flip(&path, len / 2);
        let found = findings(&desk, &[]);
        let object = path.strip_prefix(desk.path("store")).unwrap().to_str().unwrap().to_owned();
        let finding = found.iter().find(|finding| finding["object"] == object.as_str());
        let finding = finding.unwrap_or_else(|| panic!("{object} is not in {found:#?}"));
        assert!(finding["affects"].to_string().contains(affected), "{finding}");
        let human = desk.fails(7, &["verify", "demo"], &["findings"]);
        assert!(!human.contains("sound"), "{human}");
    }
}

#[test]
fn a_lost_or_cut_object_is_found_without_reading() {
    let desk = desk();
    let path = desk.stored("/packs/");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[1..]).unwrap();
    assert_eq!(findings(&desk, &["--quick"]).len(), 1);
    fs::remove_file(&path).unwrap();
    let found = findings(&desk, &["demo/run@1", "--quick"]);
    assert!(found[0]["affects"].to_string().contains("model."), "{found:#?}");
    assert!(findings(&desk, &["demo/data", "--quick"]).is_empty(), "the dataset has no part in it");
}

/// Makes a file one that can't be read, whoever tries: a link to itself.
fn unreadable(path: &std::path::Path) {
    fs::remove_file(path).unwrap();
    std::os::unix::fs::symlink(path, path).unwrap();
}

#[test]
fn an_object_that_cannot_be_read_is_a_finding_and_the_rest_goes_on() {
    let desk = desk();
    let (pack, blob) = (desk.stored("/packs/"), desk.stored("/blobs/"));
    unreadable(&pack);
    for depth in [&["--quick"][..], &[]] {
        let found = findings(&desk, depth);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0]["problem"].as_str().unwrap().starts_with("could not be read: "), "{found:#?}");
    }
    let said = desk.run(&["verify"]);
    assert!(said.code == Some(7) && said.stdout.contains("demo: NOT READ"), "{said:?}");
    assert!(said.stderr.contains("could not be read") && !said.stderr.contains("not what was committed"), "{said:?}");
    flip(&blob, 700);
    assert_eq!(findings(&desk, &[]).len(), 2);
    desk.fails(7, &["verify"], &["not what was committed", "1 of the objects could not be read"]);
    unreadable(&desk.path("store/gigastore.json"));
    desk.fails(5, &["verify"], &["gigastore.json"]);
}

#[test]
fn fallback_passes_over_what_cannot_be_read() {
    let desk = desk();
    let old = desk.files("store/projects/demo/packs");
    desk.model("n", 2);
    desk.ok(&["ckpt", "save", "n.safetensors", "--to", "demo/run@2"]);
    let new = desk.files("store/projects/demo/packs").into_iter().find(|file| !old.contains(file)).unwrap();
    unreadable(&new.0);
    let restore = ["ckpt", "restore", "demo/run", "--out", "out"];
    desk.fails(5, &restore, &["packs/"]);
    let said = desk.run(&[&restore[..], &["--fallback"]].concat());
    assert!(said.code == Some(0) && said.stdout.contains("demo/run@1 restored"), "{said:?}");
    assert!(said.stderr.contains("demo/run@2 can't be read and passed over"), "{said:?}");
}

#[test]
fn sizes_are_those_on_disk() {
    let desk = desk();
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/copy@1", "--ranks", "2"]);
    let du = desk.json(&["du"]);
    let on_disk = |part: &str| -> u64 {
        let files = desk.files("store").into_iter().filter(|(path, _)| path.to_str().unwrap().contains(part));
        files.map(|(_, bytes)| bytes.len() as u64).sum()
    };
    assert_eq!(du["stored_bytes"], on_disk("/packs/") + on_disk("/blobs/") + on_disk("/manifests/"));
    let of = |name: &str, key: &str| -> u64 {
        let all = du["names"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap()[key].as_u64().unwrap()
    };
    assert_eq!((of("run", "own_bytes"), of("run", "shared_bytes")), (0, on_disk("/packs/")), "a copy shares all");
    assert_eq!(of("data", "own_bytes"), on_disk("/blobs/"));
    assert_eq!((of("run", "shared_by_steps_bytes"), of("copy", "shared_by_steps_bytes")), (0, 0));
    assert!(desk.ok(&["du", "demo"]).contains("demo/copy"));
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/alone@1", "--meta", "a=b"]);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/alone@2"]);
    let du = desk.json(&["du"]);
    let alone = du["names"].as_array().unwrap().iter().find(|one| one["name"] == "alone").unwrap();
    assert_eq!(alone["live"], 2);
    let stored = alone["own_bytes"].as_u64().unwrap() + alone["shared_bytes"].as_u64().unwrap();
    assert_eq!(alone["shared_by_steps_bytes"], stored, "the second step refers to the packs of the first");
}

#[test]
fn a_first_save_that_was_not_finished_hides_no_other_project() {
    let desk = Desk::new();
    desk.model("m", 1);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "aaa/x@1"]);
    let alone = ["--ranks", "2", "--rank", "0", "--attempt", "j", "--deadline", "0"];
    desk.fails(5, &[&["ckpt", "save", "m.safetensors", "--to", "bbb/x@1"], &alone[..]].concat(), &["1 of 2 ranks"]);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "ccc/x@1"]);
    for command in ["verify", "du"] {
        let said = desk.run(&[command]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.stdout.contains("aaa") && said.stdout.contains("ccc"), "{said:?}");
        assert!(said.stderr.contains("bbb: nothing is committed"), "{said:?}");
        desk.fails(4, &[command, "bbb"], &["bbb"]);
    }
}

/// What `b3sum` prints for files.
fn b3sums(folder: &std::path::Path, names: &[&str]) -> String {
    let line = |name: &&str| format!("{}  {name}\n", Digest::of(&fs::read(folder.join(name)).unwrap()));
    names.iter().map(line).collect()
}

#[test]
fn files_are_compared_with_what_b3sum_has_printed() {
    let desk = desk();
    desk.ok(&["ckpt", "restore", "demo/run@1", "--out", "out"]);
    fs::write(desk.path("sums.txt"), b3sums(&desk.path("out"), &["model.safetensors"])).unwrap();
    let said = desk.ok(&["verify", "demo/run@1", "--against", "sums.txt"]);
    assert!(said.contains("1 of 1 listed files are the same"), "{said}");
    fs::write(desk.path("data.txt"), b3sums(&desk.path(""), &["t.parquet"]).replace("  ", "  ./")).unwrap();
    let report = desk.json(&["verify", "gigastore://demo/data", "--against", "data.txt"]);
    assert_eq!((&report["same"][0], report["different"].as_array().unwrap().len()), (&"t.parquet".into(), 0));

    let other = format!("{}  model.safetensors\n{}  more.bin\n", Digest::of(b"other"), Digest::of(b"x"));
    fs::write(desk.path("other.txt"), other).unwrap();
    let said = desk.run(&["--format", "json", "verify", "demo/run", "--against", "other.txt"]);
    assert_eq!(said.code, Some(7), "{said:?}");
    let report: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(report["different"].as_array().unwrap().len(), 2, "{report:#}");
    assert!(report["different"][1]["actual"].is_null(), "{report:#}");
    // Damage is found by the store's own hashes before anything is compared.
    let pack = desk.stored("/packs/");
    flip(&pack, fs::metadata(&pack).unwrap().len() as usize / 2);
    desk.fails(7, &["verify", "demo/run", "--against", "sums.txt"], &["integrity failure"]);
    desk.fails(2, &["verify", "--against", "sums.txt"], &["--against"]);
    desk.fails(2, &["verify", "demo", "--against", "sums.txt"], &["one checkpoint or dataset version"]);
    fs::write(desk.path("bad.txt"), "nonsense\n").unwrap();
    desk.fails(1, &["verify", "demo/run", "--against", "bad.txt"], &["line 1"]);
}
