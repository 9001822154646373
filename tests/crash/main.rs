//! Processes that share nothing but a store: saving together, killed at every store operation, and going on.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use gigastore_client::Coded;
use gigastore_client::store::Store;
use gigastore_engine::store::OpenMode;
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_formats::wire::{Depth, FaultCode, VerifyRequest};
use gigastore_tests::model::{Size, transformer};
use gigastore_tests::opened::open;
use object_store::local::LocalFileSystem;

fn saver(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saver"));
    command.arg(folder).args(arguments);
    command
}

fn packs_created(output: &Output) -> usize {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}

fn packs_there(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.join("projects/p/packs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "safetensors") {
                found.insert(path);
            }
        }
    }
    found
}

async fn open_folder(folder: &Path) -> Store {
    open(Arc::new(LocalFileSystem::new_with_prefix(folder).unwrap()), OpenMode::Create).await.unwrap()
}

/// Checks that step `step` is there, whole and right.
async fn check_whole(store: &Store, step: u64) {
    let checkpoint = store.checkpoint(&format!("p/run@{step}").parse().unwrap()).await.unwrap();
    let tensors = transformer(step, Size::TINY);
    assert_eq!(checkpoint.tensors().len(), tensors.len());
    for tensor in tensors {
        let bytes = checkpoint.read_whole(SliceKind::Tensor, &tensor.name).await.unwrap();
        assert_eq!(bytes, tensor.data, "{}", tensor.name);
    }
    let request = VerifyRequest { project: "p".parse().unwrap(), name: None, number: None, depth: Depth::Full };
    let report = store.verify(&request, &|_| {}).await.unwrap();
    assert_eq!(report.findings, [], "step {step}");
}

#[tokio::test]
async fn four_processes_save_one_checkpoint_and_any_may_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let ranks: Vec<_> = (0..4)
        .map(|rank| {
            let mut command = saver(folder.path(), &[&rank.to_string(), "4", "7", "job-1"]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for rank in ranks {
        packs_created(&rank.wait_with_output().unwrap());
    }
    let store = open_folder(folder.path()).await;
    check_whole(&store, 7).await;
    let again = saver(folder.path(), &["2", "4", "7", "job-1"]).output().unwrap();
    assert_eq!(packs_created(&again), 0);
    let info = store.project(&"p".parse().unwrap()).await.unwrap();
    assert_eq!((info.seq, info.names[0].live.len()), (1, 1), "one commit, once");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_store_operation_a_save_goes_on_and_sends_only_what_is_missing() {
    for when in ["before", "after"] {
        let mut kills = 0;
        for n in 1.. {
            let folder = tempfile::tempdir().unwrap();
            let n = n.to_string();
            let first = saver(folder.path(), &["0", "1", "3", "job", when, &n]).output().unwrap();
            if first.status.success() {
                break;
            }
            kills += 1;
            let store = open_folder(folder.path()).await;
            // Between the two runs there is the whole checkpoint or none.
            match store.checkpoint(&"p/run@3".parse().unwrap()).await {
                Ok(_) => check_whole(&store, 3).await,
                Err(error) => assert_eq!(error.code(), FaultCode::NotFound, "{when} {n}: {error}"),
            }
            let there = packs_there(folder.path());
            let second = saver(folder.path(), &["0", "1", "3", "job"]).output().unwrap();
            let created = packs_created(&second);
            let after = packs_there(folder.path());
            assert_eq!(created, after.len() - there.len(), "{when} {n}: only what is missing is sent");
            check_whole(&open_folder(folder.path()).await, 3).await;
        }
        assert!(kills > 10, "{kills} operations are too few to have been a save");
    }
}
