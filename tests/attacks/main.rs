//! Damage of every kind to every byte of a small store: seen by `verify` and by every read that touches it, or
//! harmless; never wrong data, never a panic.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use gigastore_client::Coded;
use gigastore_client::checkpoint::{Compression, SaveSpec};
use gigastore_client::dataset::PushSpec;
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_engine::store::OpenMode;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_formats::wire::{Depth, FaultCode, VerifyRequest};
use gigastore_tests::model::{Size, Tensor, transformer};
use gigastore_tests::opened::{open, save};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

/// A store with a raw and a compressed checkpoint, a dataset and tags.
struct Victim {
    objects: Arc<InMemory>,
    keys: Vec<(Path, Bytes)>,
    checkpoints: Vec<(&'static str, Vec<Tensor>)>,
    table: Bytes,
}

/// What came of reading everything of a damaged store.
#[derive(PartialEq, Eq, Debug)]
enum Read {
    Right,
    Refused,
}

/// Tags that make the log long enough for one folded state.
const TAGS_TO_FOLD: usize = 64;

/// Stores attacked at once: a flip costs a full read and a full verification.
const WORKERS: usize = 4;

const SIZE: Size = Size { layers: 1, width: 4, vocabulary: 8 };

impl Victim {
    async fn new(tags: usize) -> Self {
        let objects = Arc::new(InMemory::new());
        let store = open(Arc::<InMemory>::clone(&objects), OpenMode::Create).await.unwrap();
        let tensors = transformer(1, SIZE);
        let spec = |run: &str, ranks| SaveSpec::new("p".parse().unwrap(), run.parse().unwrap(), 1, ranks);
        save(&store, spec("run", 2), &tensors).await.unwrap();
        let coded = [Tensor { dtype: Dtype::F32, data: vec![7; 8192].into(), shape: vec![2048], ..tensors[0].clone() }];
        save(&store, SaveSpec { compress: Compression::Always, ..spec("zip", 1) }, &coded).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.parquet");
        let table = include_bytes!("../../formats/fixtures/packs-1.parquet");
        std::fs::write(&file, table).unwrap();
        let (project, name) = ("p".parse().unwrap(), "data".parse().unwrap());
        let push = PushSpec::new(project, name);
        store.push(&push, &[file], &Progress::default()).await.unwrap();
        for i in 0..tags {
            let tag = format!("t{i}").parse().unwrap();
            store.set_tag(&"p/run@1".parse().unwrap(), &tag).await.unwrap();
        }
        let checkpoints = vec![("p/run@t0", tensors), ("p/zip@1", coded.to_vec())];
        let keys = contents(&objects).await;
        let folded = keys.iter().any(|(key, _)| key.as_ref().contains("/folded/"));
        assert_eq!(folded, tags >= TAGS_TO_FOLD, "folded state");
        Self { objects, keys, checkpoints, table: Bytes::from_static(table) }
    }

    /// Returns the same store in objects of its own.
    async fn copy(&self) -> Self {
        let objects = Arc::new(InMemory::new());
        for (key, bytes) in &self.keys {
            objects.put(key, bytes.clone().into()).await.unwrap();
        }
        let (keys, checkpoints) = (self.keys.clone(), self.checkpoints.clone());
        Self { objects, keys, checkpoints, table: self.table.clone() }
    }

    /// Puts other bytes in the place of an object, looks at everything, and puts it right again.
    async fn attack(&self, key: &Path, bytes: Option<Bytes>, what: &str) {
        match bytes {
            Some(bytes) => self.objects.put(key, bytes.into()).await.map(|_| ()).unwrap(),
            None => self.objects.delete(key).await.unwrap(),
        }
        let read = self.read_all().await;
        let seen = self.verify().await;
        let harmless = key.as_ref().contains("/folded/") || key.as_ref().contains("/saves/");
        assert!(seen || (harmless && read == Read::Right), "{what} of {key}: verify saw nothing, read {read:?}");
        let (_, right) = self.keys.iter().find(|(other, _)| other == key).unwrap();
        self.objects.put(key, right.clone().into()).await.unwrap();
    }

    async fn open(&self) -> Result<Store, FaultCode> {
        let opened = open(Arc::<InMemory>::clone(&self.objects), OpenMode::Existing).await;
        opened.map_err(|error| gigastore_formats::wire::Fault::from(&error).code)
    }

    /// Tells whether `verify`, or opening before it, sees damage.
    async fn verify(&self) -> bool {
        let Ok(store) = self.open().await else { return true };
        let request = VerifyRequest { project: "p".parse().unwrap(), name: None, number: None, depth: Depth::Full };
        match store.verify(&request, &|_| {}).await {
            Ok(report) => !report.findings.is_empty(),
            Err(_) => true,
        }
    }

    async fn read_all(&self) -> Read {
        match self.try_read_all().await {
            Ok(()) => Read::Right,
            Err(code) => {
                let known = matches!(
                    code,
                    FaultCode::Integrity
                        | FaultCode::Lost
                        | FaultCode::NotFound
                        | FaultCode::NewerFormat
                        | FaultCode::Invalid
                );
                assert!(known, "damage came out as {code:?}");
                Read::Refused
            }
        }
    }

    /// Reads everything; panics on wrong data.
    async fn try_read_all(&self) -> Result<(), FaultCode> {
        let store = self.open().await?;
        for (target, tensors) in &self.checkpoints {
            let checkpoint = store.checkpoint(&target.parse().unwrap()).await.map_err(|error| error.code())?;
            store.timeline(&target.parse().unwrap()).await.map_err(|error| error.code())?;
            for tensor in tensors {
                let bytes = checkpoint.read_whole(SliceKind::Tensor, &tensor.name).await.map_err(|e| e.code())?;
                assert_eq!(bytes, tensor.data, "wrong data of {}", tensor.name);
            }
        }
        let dataset = store.dataset(&"p/data@1".parse().unwrap()).await.map_err(|error| error.code())?;
        let bytes = dataset.read("t.parquet", None, &Progress::default()).await.map_err(|error| error.code())?;
        assert_eq!(bytes, self.table, "wrong data of a file");
        Ok(())
    }
}

/// Returns every object of a store, by key.
async fn contents(objects: &InMemory) -> Vec<(Path, Bytes)> {
    let listed: Vec<_> = objects.list(None).map_ok(|meta| meta.location).try_collect().await.unwrap();
    let mut keys = Vec::new();
    for key in listed {
        let bytes = objects.get(&key).await.unwrap().bytes().await.unwrap();
        keys.push((key, bytes));
    }
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    keys
}

/// Flips every byte of the objects that `chosen` picks, one at a time; returns how many.
async fn flip_each(victim: Victim, chosen: fn(&Path) -> bool) -> usize {
    let work = (0..WORKERS).map(|worker| {
        let copied = victim.copy();
        async move {
            let victim = copied.await;
            let flip = async move {
                let mut flips = 0;
                for (key, bytes) in victim.keys.iter().filter(|(key, _)| chosen(key)) {
                    for at in (worker..bytes.len()).step_by(WORKERS) {
                        let mut damaged = bytes.to_vec();
                        damaged[at] ^= [0x01, 0x80, 0xff][at % 3];
                        victim.attack(key, Some(damaged.into()), &format!("flip of byte {at}")).await;
                        flips += 1;
                    }
                }
                flips
            };
            tokio::spawn(flip).await.unwrap()
        }
    });
    futures::future::join_all(work).await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_byte_is_seen_or_harmless() {
    let victim = Victim::new(1).await;
    let bytes: usize = victim.keys.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(flip_each(victim, |_| true).await, bytes, "each byte once");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_byte_of_folded_state_is_seen_or_harmless() {
    let victim = Victim::new(TAGS_TO_FOLD).await;
    let flips = flip_each(victim, |key| key.as_ref().contains("/folded/")).await;
    assert!(flips > 1_000, "only {flips} bytes of folded state");
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_zeroed_deleted_and_swapped_objects_are_seen_or_harmless() {
    let victim = Victim::new(1).await;
    let newest = victim.keys.iter().rfind(|(key, _)| key.as_ref().contains("/log/")).unwrap().0.clone();
    for (key, bytes) in &victim.keys {
        for len in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            victim.attack(key, Some(bytes.slice(..len)), &format!("cut at {len}")).await;
        }
        victim.attack(key, Some([bytes.as_ref(), b"x"].concat().into()), "one byte more").await;
        victim.attack(key, Some(vec![0; bytes.len()].into()), "zeros").await;
        // The newest record may be deleted unseen by anyone who was not told of it; all others leave a gap.
        if *key != newest {
            victim.attack(key, None, "deletion").await;
        }
        for (other, others) in victim.keys.iter().filter(|(other, others)| other != key && others != bytes) {
            victim.attack(key, Some(others.clone()), &format!("content of {other}")).await;
        }
    }
}
