//! Many pushes that append to one dataset: each stands on all that were committed before it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::join_all;
use gigastore_client::dataset::PushSpec;
use gigastore_client::transfer::progress::Progress;
use gigastore_engine::store::OpenMode;
use gigastore_tests::opened::open;
use object_store::ObjectStore;
use object_store::memory::InMemory;

const TABLE: &[u8] = include_bytes!("../../formats/fixtures/packs-1.parquet");

/// Files pushed at once, each by a client of its own.
const FILES: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn appends_that_race_lose_no_file() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let below: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let files: Vec<PathBuf> = (0..FILES).map(|i| folder.path().join(format!("{round}-{i:02}.parquet"))).collect();
        files.iter().for_each(|file| fs::write(file, TABLE).unwrap());
        let pushes = files.iter().map(|file| {
            let (below, file) = (Arc::clone(&below), file.clone());
            tokio::spawn(async move {
                let store = open(below, OpenMode::Create).await.unwrap();
                let (project, name) = ("p".parse().unwrap(), "data".parse().unwrap());
                let spec = PushSpec { append: true, ..PushSpec::new(project, name) };
                store.push(&spec, &[file], &Progress::default()).await.unwrap();
            })
        });
        join_all(pushes).await.into_iter().for_each(|pushed| pushed.unwrap());
        let store = open(below, OpenMode::Existing).await.unwrap();
        let newest = store.dataset(&"p/data".parse().unwrap()).await.unwrap();
        assert_eq!((newest.files().len(), newest.info().commit.number), (FILES, FILES as u64), "round {round}");
    }
}
