//! The client's use of a directory: what one client of a remote store read, the next finds.

use std::sync::Arc;

use gigastore_client::ambient::SystemAmbient;
use gigastore_client::store::{DEFAULT_BUDGET_BYTES, Store};
use gigastore_engine::store::OpenMode;
use gigastore_formats::digest::Digest;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::FaultCode;
use gigastore_tests::faulty::{FaultyStore, Op, Verdict, plan};
use gigastore_tests::model::XorShift;
use gigastore_tests::opened::engine;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::desk::{ROOMY, files};

async fn client(store: &FaultyStore, folder: &std::path::Path) -> Store {
    let engine = engine(Arc::new(store.clone()), OpenMode::Create).await.unwrap();
    Store::over(Arc::new(engine), SystemAmbient::shared(), DEFAULT_BUDGET_BYTES).with_cache(folder, ROOMY)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_read_through_the_directory_and_past_it_where_it_was_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = FaultyStore::new(Arc::clone(&inner));
    let content = XorShift::new(1).bytes(3_000_000);
    let blob = Stored { digest: Digest::of(&content), epoch: 0 };
    let (project, kind) = ("p".parse().unwrap(), ObjectKind::Blob);
    let key = Path::from(format!("projects/p/{}", blob.key(kind)));
    inner.put(&key, content.clone().into()).await.unwrap();
    let range = ByteRange::new(2_000_000, 2_090_000).unwrap();
    let expected = &content[2_000_000..2_090_000];

    // The first read is damaged on its way, and what came is kept.
    let first = client(&store, folder.path()).await;
    store.set_plan(plan::on(Op::Get, "/blobs/", 1, Verdict::Flip(2_000_500)));
    let damaged = first.read_object(&project, kind, &blob, range).await.unwrap();
    assert!(damaged != expected && damaged.len() == expected.len());
    first.cache_settled().await;
    let second = client(&store, folder.path()).await;
    assert_eq!(second.read_object(&project, kind, &blob, range).await.unwrap(), damaged);
    assert!(second.forget_object(&project, kind, &blob, range).await);
    assert_eq!(second.read_object(&project, kind, &blob, range).await.unwrap(), expected);
    second.cache_settled().await;

    let got = store.bytes_got();
    let third = client(&store, folder.path()).await;
    let before = store.count(Op::Get);
    assert_eq!(third.read_object(&project, kind, &blob, range).await.unwrap(), expected);
    assert_eq!(store.count(Op::Get), before);
    assert!(store.bytes_got() - got < 1000, "only the store's marker was read");
    assert_eq!(files(folder.path()).len(), 1);
    assert!(third.cache_trouble().is_none());

    let absent = Stored { digest: Digest::of(b"absent"), epoch: 0 };
    let fault = third.read_object(&project, kind, &absent, range).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Lost, "{fault:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_a_folder_is_read_without_a_cache() {
    let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = format!("file://{}", folder.path().display());
    let store = Store::open(&url, gigastore_client::store::OpenMode::Create).await.unwrap();
    let store = store.with_cache(cache.path(), ROOMY);
    let range = ByteRange::new(0, 1).unwrap();
    let absent = Stored { digest: Digest::of(b"absent"), epoch: 0 };
    assert!(!store.forget_object(&"p".parse().unwrap(), ObjectKind::Blob, &absent, range).await);
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0);
}
