//! `gigastore ckpt`: save, restore, list, show, compare, tag.

use std::fs;

use gigastore_tests::model::{Tensor, safetensors};
use serde_json::{Value, json};

use crate::run::{Desk, Said, flip, read_safetensors};

fn expected(tensors: &[Tensor]) -> Vec<(String, Vec<u8>)> {
    tensors.iter().map(|tensor| (tensor.name.clone(), tensor.data.to_vec())).collect()
}

#[test]
fn what_was_saved_by_four_ranks_is_restored_whole_and_by_name() {
    let desk = Desk::new();
    let tensors = desk.model("m", 1);
    let saved = desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/run@100", "--ranks", "4", "--tag", "best"]);
    assert!(saved.starts_with("demo/run@100 saved 47 tensors"), "{saved}");
    desk.ok(&["ckpt", "restore", "demo/run@best", "--out", "whole"]);
    assert_eq!(read_safetensors(&desk.path("whole/model.safetensors")), expected(&tensors));

    desk.ok(&["ckpt", "restore", "demo/run", "--out", "some", "--names", "model.layers.1.*", "optimizer.step"]);
    let mut some = expected(&tensors);
    some.retain(|(name, _)| name.starts_with("model.layers.1.") || name == "optimizer.step");
    assert_eq!(read_safetensors(&desk.path("some/model.safetensors")), some);

    desk.fails(8, &["ckpt", "restore", "demo/run", "--out", "whole"], &["model.safetensors", "--overwrite"]);
    desk.ok(&["ckpt", "restore", "demo/run", "--out", "whole", "--overwrite"]);
}

#[test]
fn the_same_content_again_sends_nothing_and_other_content_is_a_conflict() {
    let desk = Desk::new();
    desk.model("m", 1);
    desk.model("n", 2);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/run@1", "--ranks", "4"]);
    for ranks in ["4", "3", "1"] {
        let again = desk.json(&["ckpt", "save", "m.safetensors", "--to", "demo/run@1", "--ranks", ranks]);
        assert_eq!((&again["existed"], &again["sent_bytes"]), (&json!(true), &json!(0)), "{ranks} ranks");
    }
    let before = desk.files("store/projects/demo/log");
    for ranks in ["4", "3"] {
        let arguments = ["ckpt", "save", "n.safetensors", "--to", "demo/run@1", "--ranks", ranks];
        desk.fails(8, &arguments, &["run@1", "other content", "another step"]);
    }
    assert_eq!(desk.files("store/projects/demo/log"), before);
    let next = desk.json(&["ckpt", "save", "m.safetensors", "--to", "demo/run@2", "--ranks", "4"]);
    assert_eq!((&next["existed"], &next["sent_bytes"]), (&json!(false), &json!(0)), "all of it is shared");
}

#[test]
fn lists_and_trees_show_what_there_is() {
    let desk = Desk::new();
    let tensors = desk.model("m", 1);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/a@1", "--ranks", "2", "--meta", "lr=0.1"]);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/b@7"]);
    desk.ok(&["ckpt", "tag", "demo/b", "good"]);
    assert_eq!(desk.ok(&["ls"]), "demo\n");
    let table = desk.ok(&["ckpt", "ls", "demo"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..3], ["run", "step", "size"]);
    assert_eq!((rows[1][..2].to_vec(), rows[2][..2].to_vec()), (vec!["a", "1"], vec!["b", "7"]));
    assert!(rows[2].contains(&"good") && rows[2].contains(&"latest"), "{table}");
    assert_eq!(desk.json(&["ckpt", "ls", "demo/b"]).as_array().unwrap().len(), 1);

    let shown = desk.ok(&["ckpt", "show", "demo/a@1"]);
    for part in ["lr = 0.1", "safetensors:format = pt", "4096x256", "F8_E4M3", "attn", "2 slices", "parameters"] {
        assert!(shown.contains(part), "{part:?} is not in:\n{shown}");
    }
    let document = desk.json(&["ckpt", "show", "demo/a@1"]);
    let listed: Vec<(&str, &str, u64)> = document["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tensor| (text(&tensor["name"]), text(&tensor["dtype"]), tensor["bytes"].as_u64().unwrap()))
        .collect();
    let there: Vec<(&str, &str, u64)> =
        tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.dtype.as_str(), tensor.data.len() as u64)).collect();
    assert_eq!(listed, there);
    let slices = desk.ok(&["ckpt", "show", "demo/a@1", "--slices"]);
    assert!(slices.contains("model.embed.weight[2048:4096,0:256]"), "{slices}");
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn a_diff_says_what_changed_and_what_is_shared() {
    let desk = Desk::new();
    let mut tensors = desk.model("m", 1);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/run@1"]);
    let changed = tensors.iter_mut().find(|tensor| tensor.name == "model.layers.2.norm.weight").unwrap();
    changed.data = vec![1; changed.data.len()].into();
    tensors.remove(0);
    fs::write(desk.path("n.safetensors"), safetensors(&tensors, &[])).unwrap();
    desk.ok(&["ckpt", "save", "n.safetensors", "--to", "demo/run@2"]);
    let human = desk.ok(&["ckpt", "diff", "demo/run@1", "demo/run@2"]);
    assert!(human.contains("model.layers.2.norm.weight") && human.contains("shared in the store"), "{human}");
    let diff = desk.json(&["ckpt", "diff", "demo/run@1", "demo/run@2"]);
    let changes: Vec<(&str, &str)> = diff["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (text(&change["change"]), text(&change["name"])))
        .collect();
    assert_eq!(changes, [("removed", "model.adapter.empty"), ("changed", "model.layers.2.norm.weight")]);
    let (stored, shared) = (diff["stored_bytes"].as_u64().unwrap(), diff["shared_stored_bytes"].as_u64().unwrap());
    assert_eq!(stored - shared, 256 * 4, "all but the changed tensor");
    let same = desk.ok(&["ckpt", "diff", "demo/run@1", "demo/run@1"]);
    assert!(same.contains("hold the same"), "{same}");
}

#[test]
fn fallback_takes_the_newest_step_that_verifies_and_says_so() {
    let desk = Desk::new();
    let tensors = desk.model("m", 1);
    desk.model("n", 2);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/run@1"]);
    let old = desk.files("store/projects/demo/packs");
    desk.ok(&["ckpt", "save", "n.safetensors", "--to", "demo/run@2"]);
    let new = desk.files("store/projects/demo/packs").into_iter().find(|file| !old.contains(file)).unwrap();
    flip(&new.0, new.1.len() / 2);
    let restore = ["ckpt", "restore", "demo/run", "--out", "out"];
    desk.fails(7, &restore, &["integrity failure", "tensor", "packs/"]);
    assert_eq!(desk.files("out"), [], "nothing half-restored");
    let said = desk.run(&[&restore[..], &["--fallback"]].concat());
    // Reads of the damaged step were made again, in vain: they say nothing of the one that was restored.
    assert!(!said.stderr.contains("came damaged"), "{said:?}");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("demo/run@2 is damaged") && said.stdout.contains("demo/run@1 restored"), "{said:?}");
    assert_eq!(read_safetensors(&desk.path("out/model.safetensors")), expected(&tensors));
    flip(&old[0].0, old[0].1.len() / 2);
    desk.fails(7, &["ckpt", "restore", "demo/run", "--out", "o", "--fallback"], &["no step of demo/run verifies"]);
}

#[test]
fn two_processes_save_one_checkpoint_and_a_missing_one_is_named() {
    let desk = Desk::new();
    let tensors = desk.model("m", 1);
    let rank = |rank: &str| {
        let common = ["ckpt", "save", "m.safetensors", "--to", "demo/run@1", "--ranks", "2", "--attempt", "job"];
        desk.command(&[&common[..], &["--rank", rank, "--deadline", "60"]].concat())
    };
    let (first, second) = (rank("0").spawn().unwrap(), rank("1").spawn().unwrap());
    for child in [first, second] {
        let said = Said::of(child.wait_with_output().unwrap());
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    desk.ok(&["ckpt", "restore", "demo/run@1", "--out", "out"]);
    assert_eq!(read_safetensors(&desk.path("out/model.safetensors")), expected(&tensors));
    let alone = ["ckpt", "save", "m.safetensors", "--to", "demo/run@2", "--ranks", "3", "--rank", "1"];
    desk.fails(5, &[&alone[..], &["--attempt", "job", "--deadline", "0"]].concat(), &["0, 2"]);
    desk.fails(2, &alone, &["--attempt"]);
    desk.fails(2, &[&alone[..7], &["--rank", "3", "--attempt", "job"]].concat(), &["--rank"]);
}

#[test]
fn a_model_in_shards_comes_back_with_its_other_files() {
    let desk = Desk::new();
    let tensors = desk.model("unused", 1);
    fs::create_dir(desk.path("model")).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(desk.path("model").join(name), bytes).unwrap();
    write("model-1.safetensors", &safetensors(&tensors[..20], &[]));
    write("model-2.safetensors", &safetensors(&tensors[20..], &[]));
    let file = |i: usize| if i < 20 { "model-1.safetensors" } else { "model-2.safetensors" };
    let map: serde_json::Map<String, Value> =
        tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), json!(file(i)))).collect();
    let index = json!({ "metadata": {}, "weight_map": map }).to_string();
    write("model.safetensors.index.json", index.as_bytes());
    write("config.json", b"{\"layers\": 4}");
    desk.ok(&["ckpt", "save", "model", "--to", "demo/folder@1"]);
    desk.ok(&["ckpt", "restore", "demo/folder", "--out", "out"]);
    assert_eq!(read_safetensors(&desk.path("out/model.safetensors")), expected(&tensors));
    assert_eq!(fs::read(desk.path("out/config.json")).unwrap(), b"{\"layers\": 4}");
    desk.ok(&["ckpt", "save", "model/model.safetensors.index.json", "--to", "demo/index@1", "--ranks", "3"]);
    assert_eq!(desk.json(&["ckpt", "show", "demo/index"])["tensors"].as_array().unwrap().len(), tensors.len());
    // What was restored is a model like any other.
    let again = desk.json(&["ckpt", "save", "out", "--to", "demo/folder@1", "--ranks", "2"]);
    assert_eq!((&again["existed"], &again["sent_bytes"]), (&json!(true), &json!(0)));
}

#[test]
fn dry_runs_change_nothing() {
    let desk = Desk::new();
    desk.model("m", 1);
    fs::write(desk.path("t.parquet"), include_bytes!("../../formats/fixtures/packs-1.parquet")).unwrap();
    assert!(desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/run@1", "--dry-run"]).contains("would save 47"));
    desk.ok(&["data", "push", "t.parquet", "--to", "demo/data", "--dry-run"]);
    assert!(!desk.path("store").exists());
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/run@1"]);
    desk.ok(&["data", "push", "t.parquet", "--to", "demo/data"]);
    let before = desk.files("store");
    desk.ok(&["ckpt", "tag", "demo/run@1", "best", "--dry-run"]);
    desk.ok(&["ckpt", "restore", "demo/run@1", "--out", "out", "--dry-run"]);
    desk.ok(&["data", "get", "demo/data", "--out", "out", "--dry-run"]);
    let would = desk.json(&["ckpt", "save", "m.safetensors", "--to", "demo/run@2", "--dry-run"]);
    assert!(text(&would["would"]).starts_with("save 47 tensors"), "{would}");
    assert_eq!(desk.files("store"), before);
    assert!(!desk.path("out").exists());
}

#[test]
fn a_timeline_tells_phases_and_ranks_the_slowest_first() {
    let desk = Desk::new();
    desk.model("m", 1);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/run@5", "--ranks", "3"]);
    let told = desk.ok(&["ckpt", "show", "demo/run@5", "--timeline"]);
    assert!(told.starts_with("demo/run@5: 3 ranks, the slowest is rank "), "{told}");
    for word in ["stage", "hash", "exists", "upload", "total", "join", "commit", "committer", "median", "#"] {
        assert!(told.contains(word), "{word:?} is not in:\n{told}");
    }
    assert!(told.lines().all(|line| line.chars().count() <= 100), "{told}");
    let document = desk.json(&["ckpt", "show", "demo/run", "--timeline"]);
    let ranks = document["ranks"].as_array().unwrap();
    let took: Vec<u64> = ranks.iter().map(|rank| rank["spans"][0]["wall_us"].as_u64().unwrap()).collect();
    assert_eq!(took.len(), 3);
    assert!(took.is_sorted_by(|a, b| a >= b), "{document:#}");
    let slowest = document["phases"].as_array().unwrap().iter().find(|phase| phase["phase"] == "total").unwrap();
    assert_eq!((&slowest["slowest_rank"], &slowest["max_us"]), (&ranks[0]["rank"], &json!(took[0])));
    desk.fails(2, &["ckpt", "show", "demo/run", "--timeline", "--slices"], &["--slices"]);
}
