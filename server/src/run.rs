//! What is served, where, and who may: refuses to start where anyone could read or write.
//!
//! Must never listen beyond this machine without tokens, nor send tokens over an open line unless told that a proxy
//! has the TLS.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use gigastore_engine::Engine;
use gigastore_formats::ambient::Ambient;
use gigastore_formats::collect::DEFAULT_GRACE_MS;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::accept::{is_loopback, serve};
use crate::admission::Admission;
use crate::auth::Gate;
use crate::cache::Cache;
use crate::collect::collect_forever;
use crate::http::{Service, Shared, router};
use crate::manifests::Manifests;
use crate::metrics::Metrics;
use crate::packs::Packs;
use crate::scrubbing::scrub_always;
use crate::tokens::TokenError;

/// Files that a service needs open beside its connections.
const FILES_BESIDE: u64 = 1024;

/// Lets this process have so many files open, as far as the system allows; returns how many it may have. Shells start
/// programs with 1,024, whatever the system's limit is.
pub fn allow_files(wanted: u64) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let allowed = now.current.unwrap_or(u64::MAX);
    let more = wanted.min(now.maximum.unwrap_or(u64::MAX));
    let raised = Rlimit { current: Some(more), maximum: now.maximum };
    if more > allowed && setrlimit(Resource::Nofile, raised).is_ok() { more } else { allowed }
}

/// How a service runs.
#[derive(Debug)]
pub struct Config {
    /// The store.
    pub engine: Engine,
    /// Time, chance, threads.
    pub ambient: Arc<dyn Ambient>,
    /// Where it listens; port 0 takes any that is free.
    pub listen: SocketAddr,
    /// The token file; without one everyone on this machine may do everything.
    pub tokens: Option<PathBuf>,
    /// Certificate and key.
    pub tls: Option<Tls>,
    /// A proxy before it has the TLS.
    pub behind_proxy: bool,
    /// The folder whose disk must keep room, for stores on this machine.
    pub disk: Option<PathBuf>,
    /// Limits.
    pub limits: Limits,
}

/// Certificate and key, as PEM files.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate and those that vouch for it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What a service lets its clients take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of bodies in memory.
    pub memory: u64,
    /// Bytes of objects that are kept in memory; 0 for stores on this machine, whose files the system keeps.
    pub cache: u64,
    /// The folder in which more of them are kept; other services and clients of this machine may use the same.
    pub cache_folder: Option<PathBuf>,
    /// Bytes that all of them may keep there. Several processes stay below it together where it is 256 MiB or more.
    pub cache_disk: u64,
    /// Bytes of decoded manifests that are kept. A row of three dimensions takes some 420 bytes, so that a checkpoint
    /// of a million slices fits into 512 MiB.
    pub manifests: u64,
    /// Bytes that must stay free on the disk of the store.
    pub keep_free: u64,
    /// Whether clients are told where objects can be read without the service: by a signed URL, or a path.
    pub direct: bool,
    /// Connections at once.
    pub connections: usize,
    /// How long a client may take over the head of a request, and stay idle between two.
    pub head: Duration,
    /// How long a client may take to send each MiB of a body.
    pub pace: Duration,
    /// How long a request waits for memory: a burst of uploads passes meanwhile, and no client has given up yet.
    pub admission: Duration,
    /// How long a client may take to read each MiB of what it asked for.
    pub write: Duration,
    /// How long one request waits for a commit that is under way; its client asks again then, and joins it.
    pub commit: Duration,
    /// How long requests in flight have to finish at the end.
    pub drain: Duration,
    /// Bytes a second at which everything stored is verified in the background; `None`: nothing is.
    pub scrub_rate: Option<u64>,
    /// A second store, from which damaged objects are repaired.
    pub replica: Option<Engine>,
    /// How often the service applies the policies of all projects and collects them; `None` for never.
    pub collect_every: Option<Duration>,
    /// Age of a fence before what it condemned is deleted.
    pub collect_grace: Duration,
}

impl Default for Limits {
    /// 128 MiB of bodies, no cache (32 GiB in its folder, where there is one), 512 MiB of manifests, 1 GiB free, 16,384
    /// connections, 30 s for heads and for each MiB of a body or answer, 10 s to wait for memory, 60 s to finish. No
    /// scrub, and no collections, as other services of the same store, or a timer, may have them.
    fn default() -> Self {
        Self {
            memory: 128 << 20,
            cache: 0,
            cache_folder: None,
            cache_disk: 32 << 30,
            manifests: 512 << 20,
            keep_free: 1 << 30,
            direct: false,
            connections: 16_384,
            head: Duration::from_secs(30),
            pace: Duration::from_secs(30),
            admission: Duration::from_secs(10),
            write: Duration::from_secs(30),
            commit: Duration::from_secs(20),
            drain: Duration::from_secs(60),
            scrub_rate: None,
            replica: None,
            collect_every: None,
            collect_grace: Duration::from_millis(DEFAULT_GRACE_MS),
        }
    }
}

/// Why a service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Anyone could reach it.
    #[error(
        "without a token file the service listens to this machine only, not on {listen}: make tokens with `gigastore \
         token create` and pass --tokens FILE, or listen on 127.0.0.1"
    )]
    Open {
        /// The address.
        listen: SocketAddr,
    },
    /// Tokens would cross the network in the clear.
    #[error(
        "on {listen} tokens would cross the network unencrypted: pass --tls-cert and --tls-key, or --behind-proxy \
         where a proxy has the TLS"
    )]
    Clear {
        /// The address.
        listen: SocketAddr,
    },
    /// The token file can't be used.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// Certificate or key can't be used.
    #[error("TLS with {file}: {reason}")]
    Tls {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The address can't be had.
    #[error("can't listen on {listen}: {source}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A service that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    service: Shared,
    tls: Option<TlsAcceptor>,
    limits: Limits,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("url", &self.url()).finish_non_exhaustive()
    }
}

impl Server {
    /// Checks the configuration and starts to listen. Connections wait until [`run`](Self::run).
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let listen = config.listen;
        if !is_loopback(&listen) {
            if config.tokens.is_none() {
                return Err(StartError::Open { listen });
            }
            if config.tls.is_none() && !config.behind_proxy {
                return Err(StartError::Clear { listen });
            }
        }
        // Beside connections: files of the store, the log, and what the runtime has open.
        let wanted = config.limits.connections as u64 + FILES_BESIDE;
        let files = allow_files(wanted);
        if files < wanted {
            tracing::warn!(files, "the system allows fewer files than connections: later ones wait (see ulimit -Hn)");
        }
        // Without tokens the address is all that protects: a page in a browser on this machine must not get in under a
        // name of its own. A proxy passes on what names it was asked by.
        let guard = config.tokens.is_none() && !config.behind_proxy;
        let gate = Gate::new(Arc::clone(&config.ambient), config.tokens)?;
        let tls = config.tls.as_ref().map(acceptor).transpose()?;
        let failed = |source| StartError::Listen { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let disk = config.disk.map(|folder| (folder, config.limits.keep_free));
        // What is encrypted here passes through memory of this process, and a store with a cache is on another machine.
        let cached = config.limits.cache > 0 || config.limits.cache_folder.is_some();
        let maps = (tls.is_none() && !cached).then(Arc::default);
        let cache = Arc::new(Cache::new(config.engine.clone(), &config.ambient, &config.limits));
        let service = Arc::new(Service {
            engine: config.engine,
            replica: config.limits.replica.clone(),
            ambient: config.ambient,
            admission: Admission::new(config.limits.memory, config.limits.admission, disk),
            metrics: Metrics::new(&cache, &gate),
            gate: Arc::new(gate),
            cache,
            manifests: Manifests::new(config.limits.manifests),
            packs: Packs::new(),
            maps,
            connections: AtomicU64::new(0),
            secure: tls.is_some() || config.behind_proxy,
            direct: config.limits.direct,
            pace: config.limits.pace,
            commit: config.limits.commit,
            only_host: guard.then_some(address.ip()),
            ready: Default::default(),
        });
        Ok(Self { listener, address, service, tls, limits: config.limits })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves until `stop`, then finishes what is in flight.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let follow = tokio::spawn(Arc::clone(&self.service.gate).follow());
        let Limits { collect_every, collect_grace, scrub_rate, .. } = self.limits;
        let shared = || Arc::clone(&self.service);
        let scrub = scrub_rate.map(|rate| tokio::spawn(scrub_always(shared(), rate)));
        let collect = collect_every.map(|every| tokio::spawn(collect_forever(shared(), every, collect_grace)));
        let routes = router(Arc::clone(&self.service));
        serve(self.listener, routes, self.service, self.tls, self.limits, stop).await;
        // Wherever they are: a collection or a scrub may be cut off anywhere.
        [Some(follow), scrub, collect].into_iter().flatten().for_each(|task| task.abort());
    }
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, StartError> {
    let refuse = |file: &PathBuf, reason: String| StartError::Tls { file: file.display().to_string(), reason };
    let certificates = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| refuse(&tls.certificate, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| refuse(&tls.key, error.to_string()))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key);
    let config = config.map_err(|error| refuse(&tls.certificate, error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
