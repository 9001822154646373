//! Callers that go away in the middle of a read: others must not wait for what nobody does any more.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use gigastore_client::checkpoint::SaveSpec;
use gigastore_engine::store::OpenMode;
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::record::TxnId;
use gigastore_tests::model::{Size, transformer};
use gigastore_tests::opened::{engine, open, save};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Longer than anything here takes that is not stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gate: who comes while it is closed waits, and is counted.
#[derive(Clone, Debug)]
struct Gate {
    closed: Arc<watch::Sender<bool>>,
    waiting: Arc<watch::Sender<usize>>,
}

impl Gate {
    fn open() -> Self {
        Self { closed: Arc::new(watch::channel(false).0), waiting: Arc::new(watch::channel(0).0) }
    }

    fn set(&self, closed: bool) {
        self.closed.send_replace(closed);
    }

    async fn pass(&self) {
        if *self.closed.borrow() {
            self.waiting.send_modify(|waiting| *waiting += 1);
            self.closed.subscribe().wait_for(|closed| !closed).await.unwrap();
        }
    }

    async fn somebody_waits(&self) {
        self.waiting.subscribe().wait_for(|waiting| *waiting > 0).await.unwrap();
    }
}

/// A store whose reads and creations pass gates.
#[derive(Clone, Debug)]
struct Gated {
    inner: Arc<InMemory>,
    reads: Gate,
    writes: Gate,
}

impl fmt::Display for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gated")
    }
}

#[async_trait]
impl ObjectStore for Gated {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.writes.pass().await;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.reads.pass().await;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_commit_does_not_wait_for_a_read_that_was_given_up() {
    let (reads, writes) = (Gate::open(), Gate::open());
    let gated = Gated { inner: Arc::default(), reads: reads.clone(), writes: writes.clone() };
    let store = open(Arc::new(gated.clone()), OpenMode::Create).await.unwrap();
    let project: ProjectName = "p".parse().unwrap();
    save(&store, SaveSpec::new(project.clone(), "run".parse().unwrap(), 1, 1), &transformer(1, Size::TINY))
        .await
        .unwrap();
    let engine = engine(Arc::new(gated), OpenMode::Existing).await.unwrap();
    let (run, tag): (Name, Name) = ("run".parse().unwrap(), "best".parse().unwrap());
    engine.state(&project).await.unwrap();
    // The record of a tag is on its way.
    writes.set(true);
    let tagging = {
        let (engine, project) = (engine.clone(), project.clone());
        tokio::spawn(async move { engine.set_tag(&project, TxnId::derive(&[b"tag"]), &run, &tag, 1).await })
    };
    timeout(PATIENCE, writes.somebody_waits()).await.unwrap();
    // Somebody reads the log, and goes away before the store answers.
    reads.set(true);
    let reading = {
        let (engine, project) = (engine.clone(), project.clone());
        tokio::spawn(async move { engine.state(&project).await })
    };
    timeout(PATIENCE, reads.somebody_waits()).await.unwrap();
    reading.abort();
    assert!(reading.await.unwrap_err().is_cancelled());
    writes.set(false);
    sleep(Duration::from_millis(50)).await;
    reads.set(false);
    let tagged = timeout(PATIENCE, tagging).await.expect("the tag waits for the read that was given up");
    assert_eq!(tagged.unwrap().unwrap().commit.number, 1);
}
