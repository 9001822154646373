//! A store, opened by its URL: where every use of the client starts.
//!
//! Must never hold what is known of a checkpoint or dataset: those have their own types.

mod upkeep;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gigastore_formats::ambient::Ambient;
use gigastore_formats::damage::DamageMark;
use gigastore_formats::name::{Name, ProjectName, Target};
use gigastore_formats::record::Record;
use gigastore_formats::wire::{
    CommitInfo, Fault, FaultCode, Probe, ProjectInfo, RebuildReport, ScrubReport, ScrubRequest, VerifyReport,
    VerifyRequest,
};

#[cfg(feature = "embedded")]
pub use gigastore_engine::store::StoreUrl;

use crate::ambient::SystemAmbient;
use crate::cached::Cached;
use crate::transfer::budget::Budget;
use crate::transfer::buffer::BufferPool;
use crate::transfer::turns::Turns;
use crate::transport::http::Http;
use crate::transport::{OnVerify, Transport};

/// Memory of bytes in flight of one process, unless set: 512 MiB hold eight packs of files of the default size, enough
/// to keep a disk or a few connections and all hashing threads busy.
pub const DEFAULT_BUDGET_BYTES: u64 = 512 << 20;

/// Bytes of memory that files of datasets were read to, and that is kept when nobody uses it: 512 MiB, twice what a
/// stream reads ahead unless set. The system may take it.
pub const KEPT_BYTES: u64 = 512 << 20;

/// Whether a store that is not there yet is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// It must be there.
    Existing,
    /// It is created where it is not there.
    Create,
}

/// An open store. Cheap to clone; clones share connections, caches and the budget of bytes in flight.
#[derive(Clone)]
pub struct Store {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) ambient: Arc<dyn Ambient>,
    pub(crate) budget: Budget,
    pub(crate) turns: Turns,
    /// What files of datasets are read to.
    pub(crate) buffers: BufferPool,
    /// Objects of a store on another machine, kept on this one.
    pub(crate) cached: Option<Cached>,
    refetched: Arc<AtomicU64>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("url", &self.url()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store at `url`: `http(s)://HOST:PORT` for a service (several endpoints of one, separated by commas),
    /// else in this process: `file:///DIR`, `s3://BUCKET/PREFIX`, `gs://…`, `az://…`, `memory:///`.
    ///
    /// A service is asked with the token in `GIGASTORE_TOKEN`. Cloud stores take their settings from the environment,
    /// by object_store's own keys (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, `GOOGLE_SERVICE_ACCOUNT`,
    /// `AZURE_STORAGE_ACCOUNT_NAME`, …). What is read of a store on another machine is kept in the folder that
    /// `GIGASTORE_CACHE` names, up to `GIGASTORE_CACHE_BYTES` (32 GiB unless set). Needs a tokio runtime.
    pub async fn open(url: &str, mode: OpenMode) -> Result<Self, Fault> {
        Self::open_in(SystemAmbient::shared(), url, mode, None).await
    }

    /// As [`open`](Self::open), with the clock, randomness and threads of `ambient`, and a token for a service that
    /// goes before the one in the environment.
    pub async fn open_in(
        ambient: Arc<dyn Ambient>,
        url: &str,
        mode: OpenMode,
        token: Option<String>,
    ) -> Result<Self, Fault> {
        let transport = if url.starts_with("http://") || url.starts_with("https://") {
            let token = token.or_else(|| std::env::var("GIGASTORE_TOKEN").ok());
            Arc::new(Http::new(url, token, Arc::clone(&ambient))?)
        } else {
            Self::embedded(url, mode, &ambient).await?
        };
        Self::over(transport, ambient, DEFAULT_BUDGET_BYTES).with_cache_of_environment()
    }

    /// Uses the service behind `endpoints`, which asks for `token`; no cache. Nothing is sent yet.
    pub fn connect(endpoints: &str, token: Option<String>) -> Result<Self, Fault> {
        let ambient = SystemAmbient::shared();
        let http = Http::new(endpoints, token, Arc::clone(&ambient))?;
        Ok(Self::over(Arc::new(http), ambient, DEFAULT_BUDGET_BYTES))
    }

    #[cfg(feature = "embedded")]
    async fn embedded(url: &str, mode: OpenMode, ambient: &Arc<dyn Ambient>) -> Result<Arc<dyn Transport>, Fault> {
        use gigastore_engine::store::OpenMode as Engines;
        let mode = match mode {
            OpenMode::Existing => Engines::Existing,
            OpenMode::Create => Engines::Create,
        };
        Ok(Arc::new(crate::transport::embedded::open(url, mode, ambient).await?))
    }

    #[cfg(not(feature = "embedded"))]
    async fn embedded(url: &str, _: OpenMode, _: &Arc<dyn Ambient>) -> Result<Arc<dyn Transport>, Fault> {
        Err(Fault::of(FaultCode::Invalid, format!("{url:?}: this build reaches services only (http:// or https://)")))
    }

    /// Uses a transport that is open already, with an ambient and a budget of bytes in flight of the caller's choice.
    pub fn over(transport: Arc<dyn Transport>, ambient: Arc<dyn Ambient>, budget_bytes: u64) -> Self {
        let (budget, buffers) = (Budget::new(budget_bytes), BufferPool::holding(KEPT_BYTES));
        Self { transport, ambient, budget, turns: Turns::default(), buffers, cached: None, refetched: Arc::default() }
    }

    /// Uses memory together with other stores of this process: what one does not need any more, another need not ask
    /// the system for.
    pub fn with_buffers(self, buffers: BufferPool) -> Self {
        Self { buffers, ..self }
    }

    /// Returns the store's URL.
    pub fn url(&self) -> &str {
        self.transport.url()
    }

    /// Returns how many reads did not match their hashes and were made once more, past all that keeps bytes, by this
    /// store and its clones. Those that then matched cost time and nothing else; more than a few say that a network,
    /// a cache or a disk damages what passes.
    pub fn refetched(&self) -> u64 {
        self.refetched.load(Ordering::Relaxed)
    }

    pub(crate) fn count_refetch(&self) {
        self.refetched.fetch_add(1, Ordering::Relaxed);
    }

    /// Lists the projects.
    pub async fn projects(&self) -> Result<Vec<ProjectName>, Fault> {
        self.transport.projects().await
    }

    /// Describes a project: runs, datasets, steps, versions, tags.
    pub async fn project(&self, project: &ProjectName) -> Result<ProjectInfo, Fault> {
        self.transport.project(project).await
    }

    /// Finds the live commit that a target means; `latest` where it names none.
    pub async fn resolve(&self, target: &Target) -> Result<CommitInfo, Fault> {
        self.transport.resolve(target).await
    }

    /// Points a tag at the live commit that a target means.
    pub async fn set_tag(&self, target: &Target, tag: &Name) -> Result<CommitInfo, Fault> {
        let number = self.resolve(target).await?.commit.number;
        let txn = self.new_txn("tag");
        self.transport.set_tag(&target.project, txn, &target.name, tag, number).await
    }

    /// Returns the log's records after number `after`; waits up to `wait` for one. None came where there are none.
    pub async fn records(&self, project: &ProjectName, after: u64, wait: Duration) -> Result<Vec<Record>, Fault> {
        self.transport.records(project, after, wait).await
    }

    /// Tries the store out: reach, conditional creation, clock, throughput with `bytes` bytes.
    pub async fn probe(&self, bytes: u64) -> Result<Probe, Fault> {
        self.transport.probe(bytes).await
    }

    /// Verifies what a project stores; damage is in the report, not an error.
    pub async fn verify(&self, request: &VerifyRequest, progress: OnVerify<'_>) -> Result<VerifyReport, Fault> {
        self.transport.verify(request, progress).await
    }

    /// Verifies every object of a project at a bounded rate, marks what is damaged, and repairs what it can: from other
    /// objects that hold the same bytes, and from the store at the URL `replica`, which is opened in this process. A
    /// pass that was interrupted goes on where it was.
    pub async fn scrub(
        &self,
        request: &ScrubRequest,
        replica: Option<&str>,
        progress: OnVerify<'_>,
    ) -> Result<ScrubReport, Fault> {
        self.transport.scrub(request, replica, progress).await
    }

    /// Makes the log of a project anew from manifests and packs, where every record is lost; with `dry_run` only says
    /// what it would hold. For stores that are opened in this process.
    pub async fn rebuild_log(&self, project: &ProjectName, dry_run: bool) -> Result<RebuildReport, Fault> {
        self.transport.rebuild_log(project, dry_run).await
    }

    /// Lists the objects of a project that are marked as damaged, with what was found.
    pub async fn damaged(&self, project: &ProjectName) -> Result<Vec<DamageMark>, Fault> {
        self.transport.damaged(project).await
    }

    /// Explains an object that is not there: its commit was dropped meanwhile (gone), or the store lost it.
    pub(crate) async fn lost_or_gone(&self, target: &Target, bound: &CommitInfo, fault: Fault) -> Fault {
        if fault.code != FaultCode::Lost {
            return fault;
        }
        match self.resolve(target).await {
            Ok(now) if now.seq == bound.seq => fault,
            Ok(_) => gone(target, fault),
            Err(error) if error.code == FaultCode::NotFound => gone(target, fault),
            // Whether it was dropped is not known; that an object is missing is.
            Err(_) => fault,
        }
    }
}

fn gone(target: &Target, fault: Fault) -> Fault {
    let message = format!("{target} was dropped while it was being read, and its objects are collected");
    Fault { code: FaultCode::Gone, message, object: fault.object, ..fault }
}
