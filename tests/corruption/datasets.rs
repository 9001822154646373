//! Files and manifests of datasets.

use std::path::Path as FilePath;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gigastore_client::Coded;
use gigastore_client::dataset::PushSpec;
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_engine::Engine;
use gigastore_formats::wire::FaultCode;

use crate::checkpoints::create;
use crate::scene::{Must, Reader, Scene, contents, named, others};

/// A table and a file of tokens, each of some KiB.
const FILES: [(&str, &[u8]); 2] = [
    ("table.parquet", include_bytes!("../../formats/fixtures/packs-1.parquet")),
    ("other.parquet", include_bytes!("../../formats/fixtures/timeline-1.parquet")),
];

/// Reads every file of a version, whole and in its middle.
struct Files(Vec<(&'static str, &'static [u8])>);

#[async_trait]
impl Reader for Files {
    async fn read(&self, _: &Engine, store: &Store) -> Result<(), FaultCode> {
        let dataset = store.dataset(&"p/data@1".parse().unwrap()).await.map_err(|error| error.code())?;
        for (path, content) in &self.0 {
            let read = dataset.read(path, None, &Progress::default()).await.map_err(|error| error.code())?;
            assert_eq!(read, Bytes::from_static(content), "wrong data of {path}");
        }
        Ok(())
    }
}

pub(crate) async fn scenes() -> Vec<Scene> {
    let (objects, store) = create().await;
    let folder = tempfile::tempdir().unwrap();
    push(&store, folder.path(), "data", FILES[0]).await;
    push(&store, folder.path(), "twin", FILES[1]).await;
    let all = Arc::new(contents(&objects).await);
    let dataset = store.resolve(&"p/data@1".parse().unwrap()).await.unwrap();
    let manifest = dataset.commit.manifest.object.digest.to_string();
    let blob = gigastore_formats::digest::Digest::of(FILES[0].1).to_string();
    let mut found = Vec::new();
    for (kind, name) in [("dataset manifest", manifest), ("dataset file", blob)] {
        let (key, _) = named(&all, &name).pop().unwrap();
        let reader = Arc::new(Files(vec![FILES[0]]));
        let (objects, others, must) = (Arc::clone(&all), others(&all, &key), Must::Found);
        found.push(Scene { kind, objects, key, others, reader, must, stride: 1, needed: true });
    }
    found
}

async fn push(store: &Store, folder: &FilePath, name: &str, (path, content): (&str, &[u8])) {
    let file = folder.join(path);
    std::fs::write(&file, content).unwrap();
    let spec = PushSpec::new("p".parse().unwrap(), name.parse().unwrap());
    store.push(&spec, &[file], &Progress::default()).await.unwrap();
}
