//! A store of everything: each of its objects cut, zeroed, deleted, and swapped with each other one. All is read and
//! verified each time, whatever the object was for.

use std::sync::Arc;

use bytes::Bytes;
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
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;

use crate::scene::contents;

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

const SIZE: Size = Size { layers: 1, width: 4, vocabulary: 8 };

impl Victim {
    async fn new() -> Self {
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
        store.set_tag(&"p/run@1".parse().unwrap(), &"t0".parse().unwrap()).await.unwrap();
        let checkpoints = vec![("p/run@t0", tensors), ("p/zip@1", coded.to_vec())];
        let keys = contents(&objects).await;
        Self { objects, keys, checkpoints, table: Bytes::from_static(table) }
    }

    /// Puts other bytes in the place of an object, looks at everything, and puts it right again.
    async fn attack(&self, key: &Path, bytes: Option<Bytes>, what: &str) {
        match bytes {
            Some(bytes) => self.objects.put(key, bytes.into()).await.map(|_| ()).unwrap(),
            None => self.objects.delete(key).await.unwrap(),
        }
        let read = self.read_all().await;
        let seen = self.verify().await;
        let harmless = key.as_ref().contains("/saves/");
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

#[tokio::test(flavor = "multi_thread")]
async fn cut_zeroed_deleted_and_swapped_objects_are_seen_or_harmless() {
    let victim = Victim::new().await;
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
