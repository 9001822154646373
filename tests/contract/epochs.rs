//! Commits beside fences: what a commit refers to is safe from every collection, or the commit is refused.
//!
//! The fences are appended by hand: each says that a collector has been there.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use gigastore_engine::store::OpenMode;
use gigastore_engine::{CommitError, Engine, UploadError};
use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::dataset::{DatasetMeta, FileRow, write_dataset};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::record::{Action, Entry, Record, TxnId};
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::{Committed, DatasetRequest, Fault, FaultCode};
use gigastore_tests::opened::engine;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

fn project() -> ProjectName {
    "p".parse().unwrap()
}

fn data() -> Name {
    "data".parse().unwrap()
}

/// Appends a fence to the log of project `p`, as a collector would.
pub(crate) async fn fence(below: &dyn ObjectStore) {
    let (mut seq, mut prev, mut epoch) = (1, Record::origin(), 0);
    loop {
        let key = Path::from(format!("projects/p/log/{seq:020}.json"));
        let Ok(found) = below.get(&key).await else {
            let entry = Entry {
                txn: TxnId::derive(&[b"fence", &[epoch as u8]]),
                time: 0,
                action: Action::Fence { epoch: epoch + 1 },
            };
            let record = Record { seq, prev, entries: vec![entry] };
            below.put(&key, record.seal().0.into()).await.unwrap();
            return;
        };
        let (record, digest) = Record::unseal(&found.bytes().await.unwrap(), seq, prev).unwrap();
        let fences = record.entries.iter().filter(|entry| matches!(entry.action, Action::Fence { .. }));
        epoch += fences.count() as u64;
        (seq, prev) = (seq + 1, digest);
    }
}

/// Stores a file of one group under `epoch` and returns its row.
async fn file(engine: &Engine, path: &str, epoch: u64) -> FileRow {
    let content = Bytes::from(format!("content of {path}"));
    let tree = GroupTree::of(&content);
    let pieces = futures::stream::iter([Ok(content)]).boxed();
    let blob = engine.put_blob(&project(), epoch, tree.clone(), pieces).await.unwrap();
    let (bytes, schema) = (tree.len(), Digest::of(b"schema"));
    FileRow {
        path: path.to_owned(),
        blob,
        bytes,
        rows: 0,
        schema,
        row_groups: Vec::new(),
        tree,
        tokens: Vec::new(),
        lengths: Vec::new(),
        removed: Vec::new(),
    }
}

async fn commit(
    engine: &Engine,
    version: u64,
    parent: Option<u64>,
    rows: &[&FileRow],
) -> Result<Committed, Arc<CommitError>> {
    let meta = DatasetMeta { name: data(), version, parent, metadata: BTreeMap::new(), tokens: None, lineage: None };
    let rows: Vec<FileRow> = rows.iter().map(|row| (*row).clone()).collect();
    let manifest = write_dataset(&meta, &rows).unwrap();
    let txn = TxnId::derive(&[b"push", Digest::of(&manifest).as_bytes()]);
    // The client's own idea of the epoch is that of its first upload; nothing may rest on it.
    let request = DatasetRequest { project: project(), txn, epoch: 0, tag: None };
    engine.commit_dataset(&request, manifest.into()).await
}

fn code(result: Result<Committed, Arc<CommitError>>) -> FaultCode {
    Fault::from(&*result.unwrap_err()).code
}

#[tokio::test]
async fn only_files_that_the_parent_really_has_outlive_their_epoch() {
    let below: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let engine = engine(Arc::clone(&below), OpenMode::Create).await.unwrap();
    let (kept, loose) = (file(&engine, "a", 0).await, file(&engine, "b", 0).await);
    commit(&engine, 1, None, &[&kept]).await.unwrap();
    for _ in 0..2 {
        fence(&*below).await;
    }
    let new = file(&engine, "c", 2).await;
    // `b` may be collected at any moment: the parent does not have it, whatever the manifest says.
    assert_eq!(code(commit(&engine, 2, Some(1), &[&kept, &loose, &new]).await), FaultCode::Conflict);
    assert_eq!(code(commit(&engine, 2, None, &[&kept, &new]).await), FaultCode::Conflict, "no parent, nothing kept");
    let committed = commit(&engine, 2, Some(1), &[&kept, &new]).await.unwrap();
    let manifest = committed.info.commit.manifest.object;
    assert_eq!(manifest.epoch, 2, "the manifest is stored under the project's epoch, not the client's");
    // The same bytes under another name are another object, which nobody keeps.
    let renamed = FileRow { blob: Stored { epoch: 1, ..kept.blob }, ..kept.clone() };
    for _ in 0..2 {
        fence(&*below).await;
    }
    assert!(commit(&engine, 3, Some(2), &[&renamed]).await.is_err(), "another object");
    commit(&engine, 3, Some(2), &[&kept]).await.unwrap();
}

#[tokio::test]
async fn files_of_an_epoch_that_is_not_reached_are_refused() {
    let below: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let engine = engine(Arc::clone(&below), OpenMode::Create).await.unwrap();
    let (old, mut early) = (file(&engine, "a", 0).await, file(&engine, "b", 0).await);
    // No upload makes such a key; somebody who writes to the bucket may.
    let key = |row: &FileRow| Path::from(format!("projects/p/{}", row.blob.key(ObjectKind::Blob)));
    let content = below.get(&key(&early)).await.unwrap().bytes().await.unwrap();
    early.blob.epoch = 7;
    below.put(&key(&early), content.clone().into()).await.unwrap();
    let pieces = futures::stream::iter([Ok(content)]).boxed();
    let refused = engine.put_blob(&project(), 7, early.tree.clone(), pieces).await.unwrap_err();
    assert!(matches!(refused, UploadError::Epoch { epoch: 7, newest: 0, .. }), "{refused}");
    assert_eq!(code(commit(&engine, 1, None, &[&old, &early]).await), FaultCode::Invalid);
    commit(&engine, 1, None, &[&old]).await.unwrap();
}
