//! What of a checkpoint is written to files: by names and globs, in one file or in several with an index.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use gigastore_client::Coded;
use gigastore_client::checkpoint::export::{ExportError, ExportSpec, Exported};
use gigastore_client::checkpoint::model::LocalModel;
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::wire::FaultCode;
use gigastore_tests::model::Tensor;

use crate::world::{fresh, save_all, spec, tensor, whole};

async fn saved(names: &[&str]) -> (Store, Vec<Tensor>) {
    let store = fresh().await;
    let tensors: Vec<Tensor> = names.iter().map(|name| tensor(name, Dtype::F32, &[16, 64])).collect();
    save_all(&store, spec(1, 1), vec![tensors.iter().map(whole).collect()]).await.unwrap();
    (store, tensors)
}

async fn export(store: &Store, out: &Path, spec: ExportSpec) -> Result<Exported, ExportError> {
    let checkpoint = store.checkpoint(&"p/run@1".parse().unwrap()).await.unwrap();
    checkpoint.export(out, &spec, &Progress::default()).await
}

/// Exports by names; returns the names of the exported tensors.
async fn exported(store: &Store, names: &[&str]) -> Result<BTreeSet<String>, ExportError> {
    let out = tempfile::tempdir().unwrap();
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    export(store, out.path(), ExportSpec { names, ..ExportSpec::default() }).await?;
    let model = LocalModel::open(out.path()).unwrap();
    Ok(model.tensors().iter().map(|tensor| tensor.name.clone()).collect())
}

#[tokio::test]
async fn each_name_or_glob_must_match_something() {
    let (store, _) = saved(&["layers.0.q", "layers.0.k", "layers.1.q", "norm"]).await;
    assert_eq!(exported(&store, &["layers.0.*", "norm"]).await.unwrap().len(), 3);
    for names in [&["layers.0.*", "nrom"][..], &["nrom", "layers.0.*"], &["norm", "nrom*"]] {
        let error = exported(&store, names).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::NotFound, "{error}");
        assert!(error.to_string().contains("\"nrom"), "{error}");
        assert!(error.known().contains(&"norm".to_owned()));
    }
}

#[tokio::test]
async fn a_name_that_is_there_is_not_a_glob() {
    let jax = ["['params']['k']", "['params']['q']", "p", "[x"];
    let (store, _) = saved(&jax).await;
    for name in jax {
        assert_eq!(exported(&store, &[name]).await.unwrap(), BTreeSet::from([name.to_owned()]));
    }
    assert_eq!(exported(&store, &["*params*"]).await.unwrap().len(), 2);
    assert_eq!(exported(&store, &["[y"]).await.unwrap_err().code(), FaultCode::Invalid);
}

#[tokio::test]
async fn a_long_model_goes_into_several_files_with_an_index() {
    let (store, tensors) = saved(&["a", "b", "c", "d", "e"]).await;
    let out = tempfile::tempdir().unwrap();
    // Two tensors of 4 KiB in each file.
    let spec = ExportSpec { max_file_bytes: 10_000, ..ExportSpec::default() };
    let done = export(&store, out.path(), spec).await.unwrap();
    assert_eq!((done.tensors, done.bytes), (5, 5 * 4096));
    let mut names: Vec<String> =
        fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let shards = (1..=3).map(|i| format!("model-{i:05}-of-00003.safetensors"));
    assert_eq!(names, shards.chain(["model.safetensors.index.json".to_owned()]).collect::<Vec<_>>());
    let index = fs::read(out.path().join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["metadata"]["total_size"], 5 * 4096);
    assert_eq!(index["weight_map"]["a"], "model-00001-of-00003.safetensors");
    assert_eq!(index["weight_map"]["e"], "model-00003-of-00003.safetensors");
    let model = LocalModel::open(&out.path().join("model.safetensors.index.json")).unwrap();
    assert_eq!(model.tensors().len(), tensors.len());
    for (read, tensor) in model.tensors().iter().zip(&tensors) {
        assert_eq!((&read.name, read.data.to_vec().unwrap()), (&tensor.name, tensor.data.to_vec()));
    }
}
