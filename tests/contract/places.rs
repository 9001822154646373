//! The places that a store may lie in, and the macro that runs every case of the contract on each of them.
//!
//! A new kind of store, or of transport, is one more `Place` and one more line in the macro.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gigastore_client::ambient::SystemAmbient;
use gigastore_client::store::{DEFAULT_BUDGET_BYTES, Store};
use gigastore_client::transport::Transport;
use gigastore_client::transport::http::Http;
use gigastore_engine::Engine;
use gigastore_engine::store::OpenMode;
use gigastore_formats::wire::Fault;
use gigastore_server::Limits;
use gigastore_tests::opened::{engine, serve};
use object_store::memory::InMemory;

/// A place for one store, fresh and empty.
#[async_trait]
pub(crate) trait Place: Send + Sync {
    /// Opens the store there, as another process would.
    async fn try_open(&self, mode: OpenMode) -> Result<Arc<dyn Transport>, Fault>;

    /// Opens the store there; creates it.
    async fn transport(&self) -> Arc<dyn Transport> {
        self.try_open(OpenMode::Create).await.unwrap()
    }

    /// Opens the store there, for a client; creates it.
    async fn store(&self) -> Store {
        Store::over(self.transport().await, SystemAmbient::shared(), DEFAULT_BUDGET_BYTES)
    }
}

/// In memory.
pub(crate) struct Memory(Arc<InMemory>);

/// In a folder that is removed at the end, with all syncing on.
pub(crate) struct Folder(tempfile::TempDir);

impl Memory {
    pub(crate) fn new() -> Self {
        Self(Arc::new(InMemory::new()))
    }
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

impl Memory {
    async fn engine(&self, mode: OpenMode) -> Result<Engine, Fault> {
        engine(Arc::<InMemory>::clone(&self.0), mode).await.map_err(|error| Fault::from(&error))
    }
}

impl Folder {
    async fn engine(&self, mode: OpenMode) -> Result<Engine, Fault> {
        let url = format!("file://{}/store", self.0.path().display()).parse().unwrap();
        Engine::open(&url, mode, [], SystemAmbient::shared()).await.map_err(|error| Fault::from(&error))
    }
}

#[async_trait]
impl Place for Memory {
    async fn try_open(&self, mode: OpenMode) -> Result<Arc<dyn Transport>, Fault> {
        Ok(Arc::new(self.engine(mode).await?))
    }
}

#[async_trait]
impl Place for Folder {
    async fn try_open(&self, mode: OpenMode) -> Result<Arc<dyn Transport>, Fault> {
        Ok(Arc::new(self.engine(mode).await?))
    }
}

/// In memory, behind services: one for each time it is opened.
pub(crate) struct ServedMemory(Memory);

/// In a folder, behind services: one for each time it is opened.
pub(crate) struct ServedFolder(Folder);

/// In memory that services read through a cache.
pub(crate) struct CachedMemory(Memory);

impl ServedMemory {
    pub(crate) fn new() -> Self {
        Self(Memory::new())
    }
}

impl ServedFolder {
    pub(crate) fn new() -> Self {
        Self(Folder::new())
    }
}

impl CachedMemory {
    pub(crate) fn new() -> Self {
        Self(Memory::new())
    }
}

#[async_trait]
impl Place for ServedMemory {
    async fn try_open(&self, mode: OpenMode) -> Result<Arc<dyn Transport>, Fault> {
        served(self.0.engine(mode).await?, Limits::default()).await
    }
}

#[async_trait]
impl Place for ServedFolder {
    async fn try_open(&self, mode: OpenMode) -> Result<Arc<dyn Transport>, Fault> {
        served(self.0.engine(mode).await?, Limits::default()).await
    }
}

#[async_trait]
impl Place for CachedMemory {
    async fn try_open(&self, mode: OpenMode) -> Result<Arc<dyn Transport>, Fault> {
        served(self.0.engine(mode).await?, Limits { cache: 3 << 20, ..Limits::default() }).await
    }
}

/// In memory, behind services that wait for no commit: their clients ask again until it is done.
pub(crate) struct Impatient(Memory);

impl Impatient {
    pub(crate) fn new() -> Self {
        Self(Memory::new())
    }
}

#[async_trait]
impl Place for Impatient {
    async fn try_open(&self, mode: OpenMode) -> Result<Arc<dyn Transport>, Fault> {
        served(self.0.engine(mode).await?, Limits { commit: Duration::from_millis(4), ..Limits::default() }).await
    }
}

async fn served(engine: Engine, limits: Limits) -> Result<Arc<dyn Transport>, Fault> {
    let url = serve(engine, None, limits).await.unwrap();
    Ok(Arc::new(Http::new(&url, None, SystemAmbient::shared())?))
}

/// Makes a test of each case on each place.
macro_rules! on_every_place {
    (@ $module:ident $place:ident $($case:ident)*) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(&crate::places::$place::new()).await;
            })*
        }
    };
    ($($case:ident)*) => {
        crate::places::on_every_place!(@ in_memory Memory $($case)*);
        crate::places::on_every_place!(@ in_a_folder Folder $($case)*);
        crate::places::on_every_place!(@ in_served_memory ServedMemory $($case)*);
        crate::places::on_every_place!(@ in_a_served_folder ServedFolder $($case)*);
        crate::places::on_every_place!(@ in_cached_memory CachedMemory $($case)*);
        crate::places::on_every_place!(@ in_impatient_memory Impatient $($case)*);
    };
}

pub(crate) use on_every_place;
