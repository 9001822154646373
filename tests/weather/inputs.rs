//! Local models that are broken, contradict each other, or change while they are read.

use std::fs;
use std::path::{Path, PathBuf};

use gigastore_client::Coded;
use gigastore_client::checkpoint::SaveSpec;
use gigastore_client::checkpoint::model::{LocalModel, ModelError};
use gigastore_client::checkpoint::save::SaveError;
use gigastore_client::store::{OpenMode, Store};
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::wire::FaultCode;
use gigastore_tests::model::{Size, Tensor, safetensors, transformer};
use serde_json::{Value, json};

/// Writes a safetensors file of this header and data.
fn raw(path: &Path, header: &[u8], data: usize) {
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &vec![7; data]].concat();
    fs::write(path, bytes).unwrap();
}

fn refused(path: &Path, parts: &[&str]) -> ModelError {
    let error = LocalModel::open(path).map(|_| ()).unwrap_err();
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    error
}

#[test]
fn a_truncated_file_says_how_long_it_should_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let whole = safetensors(&transformer(1, Size::TINY), &[]);
    for len in [0, 1, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        let error = refused(&path, &["model.safetensors"]);
        assert_eq!(error.code(), FaultCode::Invalid, "cut at {len}: {error}");
    }
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    refused(&path, &[&whole.len().to_string(), &(whole.len() - 1).to_string()]);
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    refused(&path, &["model.safetensors"]);
}

#[test]
fn every_flipped_byte_of_a_header_is_refused_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tensors = transformer(1, Size { layers: 1, width: 4, vocabulary: 8 });
    let whole = safetensors(&tensors, &[("format", "pt")]);
    let header_len = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    let mut refusals = 0;
    for at in 0..header_len {
        for bit in [0x01, 0x10, 0x80] {
            let mut flipped = whole.clone();
            flipped[at] ^= bit;
            fs::write(&path, &flipped).unwrap();
            // What is still sound (another name, another type of the same size) is read as it stands.
            match LocalModel::open(&path) {
                Ok(model) => assert!(model.bytes() <= whole.len() as u64),
                Err(error) => {
                    assert!(error.to_string().contains("model.safetensors"), "{error}");
                    refusals += 1;
                }
            }
        }
    }
    assert!(refusals > header_len, "only {refusals} refusals");
}

#[test]
fn headers_that_lie_are_refused_without_memory_for_their_promises() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let entry =
        |shape: Value, start: u64, end: u64| json!({ "dtype": "U8", "shape": shape, "data_offsets": [start, end] });
    let many = u64::MAX;
    let headers: Vec<(&str, Vec<u8>)> = vec![
        ("no JSON", b"{]".to_vec()),
        ("not an object", b"[1, 2]".to_vec()),
        ("not UTF-8", b"{\"a\xff\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}".to_vec()),
        ("deep", format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes()),
        ("unknown type", json!({ "a": { "dtype": "U7", "shape": [8], "data_offsets": [0, 8] } }).to_string().into()),
        ("a gap", json!({ "a": entry(json!([4]), 0, 4), "b": entry(json!([2]), 6, 8) }).to_string().into()),
        ("an overlap", json!({ "a": entry(json!([6]), 0, 6), "b": entry(json!([4]), 4, 8) }).to_string().into()),
        ("past the end", json!({ "a": entry(json!([16]), 0, 16) }).to_string().into()),
        ("backwards", json!({ "a": entry(json!([8]), 8, 0) }).to_string().into()),
        ("shape and bytes differ", json!({ "a": entry(json!([9]), 0, 8) }).to_string().into()),
        ("a shape past 2^64", json!({ "a": entry(json!([many, many, many]), 0, 8) }).to_string().into()),
        ("offsets past 2^64", json!({ "a": entry(json!([8]), many - 8, many) }).to_string().into()),
        ("twice", format!("{{\"a\":{},\"a\":{}}}", entry(json!([4]), 0, 4), entry(json!([4]), 4, 8)).into_bytes()),
    ];
    for (what, header) in headers {
        raw(&path, &header, 8);
        let error = LocalModel::open(&path).map(|_| ()).expect_err(what);
        assert_eq!(error.code(), FaultCode::Invalid, "{what}: {error}");
        assert!(error.to_string().contains("model.safetensors"), "{what}: {error}");
    }
    for promised in [u64::MAX, 1 << 63, 1 << 40, 1 << 27] {
        fs::write(&path, [&promised.to_le_bytes()[..], b"{}"].concat()).unwrap();
        refused(&path, &["model.safetensors"]);
    }
}

#[test]
fn an_index_that_is_wrong_names_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, tensors: &[Tensor]| {
        fs::write(folder.path().join(name), safetensors(tensors, &[])).unwrap();
    };
    let tensors = transformer(1, Size::TINY);
    write("one.safetensors", &tensors[..10]);
    write("two.safetensors", &tensors[10..]);
    let path = folder.path().join("model.safetensors.index.json");
    let index = |map: Value| fs::write(&path, json!({ "metadata": {}, "weight_map": map }).to_string()).unwrap();
    let map = |rest: &str| -> Value {
        let file = |i: usize| if i < 10 { "one.safetensors" } else { rest };
        tensors
            .iter()
            .enumerate()
            .map(|(i, tensor)| (tensor.name.clone(), json!(file(i))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    index(map("two.safetensors"));
    assert_eq!(LocalModel::open(&path).unwrap().tensors().len(), tensors.len());
    index(map("three.safetensors"));
    let error = refused(&path, &["three.safetensors"]);
    assert_eq!(error.code(), FaultCode::NotFound, "{error}");
    index(map("../two.safetensors"));
    refused(&path, &["../two.safetensors"]);
    let mut more = map("two.safetensors");
    more["ghost"] = json!("two.safetensors");
    index(more);
    refused(&path, &["ghost", "two.safetensors"]);
    fs::write(&path, "{\"weight_map\": 7}").unwrap();
    refused(&path, &["index.json"]);

    write("three.safetensors", &tensors[9..12]);
    fs::remove_file(&path).unwrap();
    let error = refused(folder.path(), &[&tensors[9].name, "one.safetensors", "three.safetensors"]);
    assert_eq!(error.code(), FaultCode::Invalid, "two files with the same tensor: {error}");
    let empty = tempfile::tempdir().unwrap();
    refused(empty.path(), &["no safetensors file in"]);
}

/// Saves a file that `change` changes once its header was read.
async fn save_while(change: impl FnOnce(&PathBuf)) -> (Result<(), SaveError>, Store, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, safetensors(&transformer(1, Size::SMALL), &[])).unwrap();
    let model = LocalModel::open(&path).unwrap();
    change(&path);
    let store = Store::open(&format!("file://{}/store", folder.path().display()), OpenMode::Create).await.unwrap();
    let spec = SaveSpec::new("p".parse().unwrap(), "run".parse().unwrap(), 1, 1);
    let save = store.begin_save(spec, Progress::default()).await.unwrap();
    let done = save.rank(0, model.slices(0, 1).unwrap()).await;
    let done = match done {
        Ok(()) => save.finish().await.map(|_| ()),
        Err(error) => Err(error),
    };
    (done, store, folder)
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_saved_is_refused() {
    type Change = fn(&PathBuf);
    let changes: [(&str, Change); 4] = [
        ("shrinks", |path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(100_000).unwrap()),
        ("grows", |path| {
            let len = fs::metadata(path).unwrap().len();
            fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len + 1).unwrap();
        }),
        ("is emptied", |path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap()),
        ("is written to", |path| {
            use std::os::unix::fs::FileExt;
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.write_all_at(b"changed", 50_000).unwrap();
            // As a later write would be: some file systems keep times in whole ticks.
            file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(2)).unwrap();
        }),
    ];
    for (what, change) in changes {
        let (done, store, _folder) = save_while(change).await;
        let error = done.expect_err(what);
        let text = error.to_string();
        for part in ["model.safetensors", "changed", "bytes"] {
            assert!(text.contains(part), "{what}: {part:?} is not in: {text}");
        }
        let hidden = store.checkpoint(&"p/run@1".parse().unwrap()).await.unwrap_err();
        assert_eq!(hidden.code(), FaultCode::NotFound, "{what}");
    }
    let (done, _, _folder) = save_while(|_| ()).await;
    done.unwrap();
}

#[tokio::test]
async fn a_file_replaced_under_its_name_is_saved_as_it_was_opened() {
    // Editors and trainers replace files by renaming: the file that was opened stays whole.
    let (done, store, _folder) = save_while(|path| {
        let other = path.with_extension("new");
        fs::write(&other, safetensors(&transformer(2, Size::SMALL), &[])).unwrap();
        fs::rename(&other, path).unwrap();
    })
    .await;
    done.unwrap();
    let checkpoint = store.checkpoint(&"p/run@1".parse().unwrap()).await.unwrap();
    for tensor in transformer(1, Size::SMALL) {
        let kind = gigastore_formats::tensor::slice::SliceKind::Tensor;
        assert_eq!(checkpoint.read_whole(kind, &tensor.name).await.unwrap(), tensor.data, "{}", tensor.name);
    }
}
