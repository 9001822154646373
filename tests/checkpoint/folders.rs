//! A model's folder is saved with all that lies in it, or refused by the name of what can't be saved.

use std::fs;
use std::path::{Path, PathBuf};

use gigastore_client::checkpoint::export::{ExportError, ExportSpec};
use gigastore_client::checkpoint::model::LocalModel;
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_tests::model::{Tensor, safetensors};
use serde_json::json;

use crate::world::{fresh, spec, tensor};

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Writes a model with an index into `folder`; returns its tensors.
fn indexed(folder: &Path) -> Vec<Tensor> {
    let tensors = vec![tensor("a", Dtype::F32, &[64, 64]), tensor("b", Dtype::F32, &[32])];
    write(folder, "model-1.safetensors", &safetensors(&tensors, &[]));
    let index = json!({ "weight_map": { "a": "model-1.safetensors", "b": "model-1.safetensors" } });
    write(folder, "model.safetensors.index.json", index.to_string().as_bytes());
    tensors
}

async fn saved(folder: &Path) -> Store {
    let model = LocalModel::open(folder).unwrap();
    let store = fresh().await;
    let save = store.begin_save(spec(1, 1), Progress::default()).await.unwrap();
    save.rank(0, model.slices(0, 1).unwrap()).await.unwrap();
    save.finish().await.unwrap();
    store
}

async fn restored(store: &Store, out: &Path, names: &[&str]) -> Result<Vec<PathBuf>, ExportError> {
    let checkpoint = store.checkpoint(&"p/run@1".parse().unwrap()).await.unwrap();
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let spec = ExportSpec { names, ..ExportSpec::default() };
    Ok(checkpoint.export(out, &spec, &Progress::default()).await?.files)
}

#[tokio::test]
async fn safetensors_files_that_are_not_the_model_are_kept_as_they_are() {
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tensors = indexed(folder.path());
    // The same names as the model's own tensors, and a file that is not even sound.
    let others = [
        ("adapter.safetensors", safetensors(&tensors[..1], &[])),
        ("2_Dense/model.safetensors", safetensors(&tensors, &[])),
        ("2_Dense/model.safetensors.index.json", b"{\"weight_map\": {}}".to_vec()),
        ("2_Dense/deeper/broken.safetensors", b"not one".to_vec()),
        ("config.json", b"{}".to_vec()),
    ];
    others.iter().for_each(|(name, bytes)| write(folder.path(), name, bytes));
    let store = saved(folder.path()).await;
    restored(&store, out.path(), &[]).await.unwrap();
    for (name, bytes) in others {
        assert_eq!(fs::read(out.path().join(name)).unwrap(), bytes, "{name}");
    }
    let model = LocalModel::open(&out.path().join("model.safetensors")).unwrap();
    assert_eq!(model.tensors().iter().map(|tensor| &tensor.name[..]).collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
async fn without_an_index_only_the_files_at_the_top_are_the_model() {
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let weights = tensor("w", Dtype::F32, &[8]);
    write(folder.path(), "model.safetensors", &safetensors(std::slice::from_ref(&weights), &[]));
    let below = safetensors(&[weights], &[("format", "pt")]);
    write(folder.path(), "1_Pooling/model.safetensors", &below);
    let store = saved(folder.path()).await;
    restored(&store, out.path(), &[]).await.unwrap();
    assert_eq!(fs::read(out.path().join("1_Pooling/model.safetensors")).unwrap(), below);
}

#[test]
fn what_is_no_file_is_refused_by_its_name() {
    let elsewhere = tempfile::tempdir().unwrap();
    write(elsewhere.path(), "weights.bin", b"123");
    let cases = [
        (elsewhere.path().to_owned(), "a link to a folder"),
        (elsewhere.path().join("nowhere"), "a link that leads to no file"),
    ];
    for (target, what) in cases {
        let folder = tempfile::tempdir().unwrap();
        indexed(folder.path());
        std::os::unix::fs::symlink(&target, folder.path().join("shards")).unwrap();
        let error = LocalModel::open(folder.path()).unwrap_err().to_string();
        for part in ["shards", what, "move it out of the folder"] {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }
    // A link to a file is the file.
    let folder = tempfile::tempdir().unwrap();
    indexed(folder.path());
    std::os::unix::fs::symlink(elsewhere.path().join("weights.bin"), folder.path().join("weights.bin")).unwrap();
    assert_eq!(LocalModel::open(folder.path()).unwrap().files()[0].data.len(), 3);
}

#[tokio::test]
async fn a_file_with_the_name_of_the_exported_model_is_not_overwritten() {
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    indexed(folder.path());
    write(folder.path(), "model.safetensors", b"an older one");
    let store = saved(folder.path()).await;
    let error = restored(&store, &out.path().join("all"), &[]).await.unwrap_err();
    assert!(matches!(error, ExportError::Clash { .. }), "{error}");
    assert!(error.to_string().contains("--names model.safetensors"), "{error}");
    assert!(!out.path().join("all").exists(), "nothing was begun");
    restored(&store, &out.path().join("file"), &["model.safetensors"]).await.unwrap();
    assert_eq!(fs::read(out.path().join("file/model.safetensors")).unwrap(), b"an older one");
    restored(&store, &out.path().join("tensors"), &["a", "b"]).await.unwrap();
    assert_eq!(LocalModel::open(&out.path().join("tensors")).unwrap().tensors().len(), 2);
}

#[test]
fn a_tensor_without_elements_may_have_any_other_dimension() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let header = "{\"empty\":{\"dtype\":\"F32\",\"shape\":[0,1099511627776,1099511627776],\"data_offsets\":[0,0]}}";
    fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    let model = LocalModel::open(&path).unwrap();
    assert_eq!(model.parameters(), 0);
    let slices: usize = (0..3).map(|rank| model.slices(rank, 3).unwrap().len()).sum();
    assert_eq!(slices, 1);
}
