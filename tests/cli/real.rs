//! A real model and a real table, and what other people's readers make of what is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::Path;

use gigastore_tests::prepared::{model, parquet, run_script};
use serde_json::Value;

use crate::run::{Desk, read_safetensors};

fn script(script: &str, arguments: &[&OsStr]) -> Value {
    let printed = run_script(script, arguments).unwrap_or_else(|error| panic!("{error}"));
    serde_json::from_str(&printed).unwrap()
}

fn opened(path: &Path) -> BTreeMap<String, Value> {
    serde_json::from_value(script("open_pack.py", &[path.as_ref()])).unwrap()
}

#[test]
fn a_real_model_comes_back_and_its_store_opens_elsewhere() {
    let desk = Desk::new();
    let model = model().unwrap_or_else(|error| panic!("{error}"));
    let weights = model.join("model.safetensors");
    let folder = model.to_str().unwrap();
    desk.ok(&["ckpt", "save", folder, "--to", "demo/minilm@100", "--ranks", "4"]);
    desk.ok(&["ckpt", "restore", "demo/minilm", "--out", "out"]);
    assert_eq!(opened(&desk.path("out/model.safetensors")), opened(&weights), "as the safetensors library sees them");
    assert_eq!(read_safetensors(&desk.path("out/model.safetensors")), read_safetensors(&weights));
    for name in ["tokenizer.json", "config.json"] {
        assert_eq!(std::fs::read(desk.path("out").join(name)).unwrap(), std::fs::read(model.join(name)).unwrap());
    }

    // Packs by the safetensors library, the manifest by DuckDB, digests by the blake3 package: all agree.
    let mut in_packs = BTreeSet::new();
    for (path, _) in desk.files("store/projects/demo/packs") {
        for (_, entry) in opened(&path) {
            in_packs.insert((entry["blake3"].to_string(), entry["shape"].to_string()));
        }
    }
    let manifest = desk.stored("/manifests/");
    let rows = script("read_manifest.py", &[manifest.as_ref(), "select name, sizes, blake3 from manifest".as_ref()]);
    let rows = rows.as_array().unwrap();
    let shown = desk.json(&["ckpt", "show", "demo/minilm@100"]);
    let slices: Vec<&Value> =
        shown["tensors"].as_array().unwrap().iter().flat_map(|tensor| tensor["slices"].as_array().unwrap()).collect();
    assert_eq!(slices.len(), rows.len());
    for (slice, row) in slices.iter().zip(rows) {
        assert_eq!((&slice["blake3"], &slice["sizes"]), (&row["blake3"], &row["sizes"]), "{row}");
        let entry = (slice["blake3"].to_string(), slice["sizes"].to_string());
        assert!(in_packs.contains(&entry), "{row} is in no pack");
    }
    desk.ok(&["verify", "demo"]);
}

#[test]
fn the_bytes_of_a_slice_hash_to_the_digest_shown() {
    let desk = Desk::new();
    let model = model().unwrap_or_else(|error| panic!("{error}"));
    desk.ok(&["ckpt", "save", model.join("model.safetensors").to_str().unwrap(), "--to", "demo/m@1", "--ranks", "3"]);
    let shown = desk.json(&["ckpt", "show", "demo/m"]);
    let tensor = shown["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .find(|tensor| tensor["name"] == "embeddings.word_embeddings.weight");
    let slice = &tensor.unwrap()["slices"][1];
    let pack = desk.stored(slice["pack"].as_str().unwrap());
    let (start, len) = (slice["offset"].as_u64().unwrap() as usize, slice["stored_bytes"].as_u64().unwrap() as usize);
    let bytes = std::fs::read(pack).unwrap();
    std::fs::write(desk.path("slice"), &bytes[start..start + len]).unwrap();
    let digest = run_script("hash_file.py", &[desk.path("slice").as_ref()]).unwrap();
    assert_eq!(slice["blake3"], digest.trim());
}

#[test]
fn a_real_table_is_stored_as_it_is() {
    let desk = Desk::new();
    let flights = parquet().unwrap_or_else(|error| panic!("{error}"));
    desk.ok(&["data", "push", flights.to_str().unwrap(), "--to", "demo/flights"]);
    let shown = desk.ok(&["data", "show", "demo/flights"]);
    assert!(shown.contains("3000000"), "{shown}");
    desk.ok(&["data", "get", "demo/flights", "--out", "out"]);
    let original = std::fs::read(&flights).unwrap();
    assert!(std::fs::read(desk.path("out/flights-3m.parquet")).unwrap() == original, "other bytes came back");
    assert!(std::fs::read(desk.stored("/blobs/")).unwrap() == original, "other bytes are stored");
    let digest = run_script("hash_file.py", &[flights.as_ref()]).unwrap();
    assert!(shown.contains(digest.trim()), "{shown}");
    let count =
        script("read_manifest.py", &[desk.stored("/blobs/").as_ref(), "select count(*) as n from manifest".as_ref()]);
    assert_eq!(count[0]["n"], 3_000_000, "the stored object is a Parquet file to DuckDB");
}
