//! Stores that are slower than this machine: many clients at once, many requests at once.
//!
//! Must never tell the product how slow the store is.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use gigastore_client::ambient::SystemAmbient;
use gigastore_client::checkpoint::{Compression, Wanted};
use gigastore_client::store::{DEFAULT_BUDGET_BYTES, Store};
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::sink::Sink;
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_server::{Config, Limits, Server};
use tokio::runtime::Runtime;

use crate::clock::{Pairs, median};
use crate::served::REMOTE_CACHE_BYTES;
use crate::state::{State, TARGET};
use crate::stores::{Limited, Pace};
use crate::{Plan, Res};

/// Clients that restore at once.
const CLIENTS: usize = 16;

/// What the store behind the service gives in all, in bytes a second: less than one client could take.
const STORE_SPEED: f64 = 200e6;

/// What a store gives to each request, and what many requests together should reach, in bytes a second.
const REQUEST_SPEED: f64 = 40e6;
const REACHABLE_SPEED: f64 = 1.2e9;

/// How long a service may take to end.
const END: Duration = Duration::from_secs(10);

/// `fanout.16clients`: bytes read from the store for each byte of the checkpoint.
pub(crate) async fn fanout(plan: &Plan) -> Res<()> {
    let state = State::transformer(plan.bytes())?;
    let store = Limited::memory(Pace { reads: Some(STORE_SPEED), ..Pace::default() });
    state.save(&[over(&store).await?], Compression::Off).await?;
    let mut read = Vec::new();
    for run in 0..plan.runs() {
        eprintln!("bench: fanout.16clients, run {}", run + 1);
        // A new service knows nothing, and its folder is empty.
        let folder = plan.folder()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let url = served(&runtime, &store, folder.path()).await?;
        store.take_read();
        try_join_all((0..CLIENTS).map(|_| compared(&state, &url))).await?;
        read.push(store.take_read() as f64 / 1e9);
        // What the service still does in its folder ends with its threads.
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(END)).await?;
        folder.close()?;
    }
    let (value, unique) = (median(&read), state.bytes() as f64 / 1e9);
    let note = "bytes read from a store that gives 0.2 GB/s in all; limit: the checkpoint's bytes";
    plan.report("fanout.16clients", note, |row, note| row.beside(value, unique, value / unique, note))
}

/// Starts a service over a store on threads of its own; returns its URL.
async fn served(runtime: &Runtime, store: &Limited, cache: &Path) -> Res<String> {
    let cache_folder = Some(cache.to_owned());
    let limits = Limits { cache: REMOTE_CACHE_BYTES, cache_folder, ..Limits::default() };
    let (engine, ambient) = (store.engine().await?, SystemAmbient::shared());
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config { engine, ambient, listen, tokens: None, tls: None, behind_proxy: false, disk: None, limits };
    let server = runtime.spawn(Server::bind(config)).await??;
    let url = server.url();
    runtime.spawn(server.run(std::future::pending()));
    Ok(url)
}

/// Restores all of it with a client of its own, and compares it as it comes: 16 times the state has no room in memory.
async fn compared(state: &State, url: &str) -> Res<()> {
    let store = Store::connect(url, None)?;
    let sinks: Vec<Arc<Expected>> = state.tensors.iter().map(|tensor| Expected::of(&tensor.data)).collect();
    let wanted = state.tensors.iter().zip(&sinks).map(|(tensor, sink)| {
        let (name, sink) = (tensor.id.name().to_owned(), Arc::<Expected>::clone(sink));
        Wanted { kind: SliceKind::Tensor, name, area: None, sink }
    });
    store.restore(&TARGET.parse()?, wanted.collect(), &Progress::default()).await?;
    match sinks.iter().zip(&state.tensors).find(|(sink, _)| sink.given.load(Ordering::Relaxed) != sink.len()) {
        Some((_, tensor)) => Err(format!("{} did not come whole", tensor.id).into()),
        None => Ok(()),
    }
}

/// Takes what it expects, and nothing else.
struct Expected {
    data: Bytes,
    given: AtomicU64,
}

impl Expected {
    fn of(data: &Bytes) -> Arc<Self> {
        Arc::new(Self { data: data.clone(), given: AtomicU64::new(0) })
    }
}

impl Sink for Expected {
    fn len(&self) -> u64 {
        self.data.len() as u64
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = offset as usize;
        if self.data.get(start..start + bytes.len()) != Some(bytes) {
            return Err(io::Error::other("other bytes than were saved"));
        }
        self.given.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// `restore.adaptive`: how much of what a store gives to many requests is found without being told.
pub(crate) async fn adaptive(plan: &Plan) -> Res<()> {
    let state = State::transformer(plan.bytes())?;
    let objects = Limited::memory(Pace { request: Some(REQUEST_SPEED), ..Pace::default() });
    state.save(&[over(&objects).await?], Compression::Off).await?;
    let (mut buffers, mut pairs) = (state.buffers(), Pairs::default());
    let limit = state.bytes() as f64 / REACHABLE_SPEED;
    for run in 0..plan.runs() {
        eprintln!("bench: restore.adaptive, run {}", run + 1);
        // A new client has learned nothing yet.
        pairs.push(limit, state.restore(&over(&objects).await?, &mut buffers).await?.seconds);
    }
    pairs.report(plan, "restore.adaptive", state.bytes(), "a store that gives 40 MB/s to each request; limit: 1.2 GB/s")
}

/// Opens a client over a store, as another process would.
async fn over(objects: &Limited) -> Res<Store> {
    Ok(Store::over(Arc::new(objects.engine().await?), SystemAmbient::shared(), DEFAULT_BUDGET_BYTES))
}
