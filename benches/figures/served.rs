//! Processes beside the bench: services, the server of the limit, and the groups of rows.
//!
//! Each is this program again, told its role, and is killed by the system when the process that started it ends, so
//! that none outlives a bench that is killed. Must never do anything that the real service would not do.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use gigastore_benches::{PIECE_BYTES, serve_bodies};
use gigastore_client::ambient::SystemAmbient;
use gigastore_client::store::Store;
use gigastore_engine::Engine;
use gigastore_engine::store::{OpenMode, StoreUrl};
use gigastore_server::{Config, Limits, Server};
use gigastore_tests::weed::{Ports, Weed};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::clock::processor_seconds;
use crate::state::noise;
use crate::{Plan, Res, setting};

/// Bytes of objects that `gigastore serve` keeps in memory where the store is on another machine.
pub(crate) const REMOTE_CACHE_BYTES: u64 = 512 << 20;

/// Bodies that the limit's server gives in turn: 256 MiB, more than any cache of processors.
const BODIES: usize = 32;

/// A process that serves until it is dropped.
pub(crate) struct Served {
    child: Child,
    /// Where it answers: an address, or a URL.
    pub(crate) at: String,
}

impl Served {
    /// Starts a service over the store at `url`, with so many bytes of cache in memory; where the store is on another
    /// machine, with a folder for more of them, and with the settings by which it is found.
    pub(crate) fn service(url: &str, cache: u64, remote: Option<(&Path, Vec<(String, String)>)>) -> Res<Self> {
        let (folder, settings) =
            remote.map_or((String::new(), Vec::new()), |(folder, settings)| (folder.display().to_string(), settings));
        Self::start(&["service", url, &cache.to_string(), &folder], settings)
    }

    /// Starts the server of the limit.
    pub(crate) fn bodies() -> Res<Self> {
        Self::start(&["bodies"], Vec::new())
    }

    /// Returns the paths that the limit's server knows.
    pub(crate) fn paths() -> Vec<String> {
        (0..BODIES).map(|i| format!("/{i}")).collect()
    }

    /// Returns a store that nobody shares, as another process would have it.
    pub(crate) fn store(&self) -> Res<Store> {
        Ok(Store::connect(&self.at, None)?)
    }

    /// Returns the seconds that processors have worked for it.
    pub(crate) fn processor_seconds(&self) -> Res<f64> {
        processor_seconds(self.child.id())
    }

    fn start(role: &[&str], settings: Vec<(String, String)>) -> Res<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.envs(settings);
        command.arg("--role").args(role).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut at = String::new();
        BufReader::new(child.stdout.take().ok_or("a pipe was asked for")?).read_line(&mut at)?;
        match at.trim() {
            "" => Err(format!("the process of {role:?} did not start: {}", child.wait()?).into()),
            at => Ok(Self { at: at.to_owned(), child }),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Plays a role in this process; `measure` measures a group of rows.
pub(crate) fn play(role: &str, rest: &[String], measure: impl FnOnce(&str, &[String]) -> Res<()>) -> Res<()> {
    // Of a role's main thread only: what it starts in its turn ends with it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match (role, rest) {
        ("measure", [group, names @ ..]) => measure(group, names),
        ("service", [url, cache, folder]) => serve(async { service(url, cache.parse()?, folder).await }),
        ("bodies", []) => serve(async {
            let memory = noise(BODIES * PIECE_BYTES);
            let bodies: Vec<Bytes> =
                (0..BODIES).map(|i| memory.slice(i * PIECE_BYTES..(i + 1) * PIECE_BYTES)).collect();
            let (address, served) = serve_bodies(bodies).await?;
            tokio::spawn(served);
            Ok(address.to_string())
        }),
        ("program", [program, arguments @ ..]) => Err(Command::new(program).args(arguments).exec().into()),
        _ => Err(format!("there is no role {role} with {rest:?}").into()),
    }
}

/// Returns the command that becomes another program, which is killed when this process ends.
pub(crate) fn program(path: &Path) -> Res<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--role", "program"]).arg(path);
    Ok(command)
}

/// Starts an S3 server with nothing in its bucket.
pub(crate) fn weed(plan: &Plan, ports: &Ports) -> Res<Weed> {
    Ok(Weed::start(program(&setting("GIGASTORE_BENCH_WEED")?)?, plan.folder()?, ports)?)
}

/// Starts something, prints its address, and lets it serve until it is killed.
fn serve(start: impl Future<Output = Res<String>>) -> Res<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    println!("{}", runtime.block_on(start)?);
    runtime.block_on(std::future::pending())
}

/// Serves the store at `url` as `gigastore serve` does; returns the service's URL.
async fn service(url: &str, cache: u64, folder: &str) -> Res<String> {
    let url: StoreUrl = url.parse()?;
    let ambient = SystemAmbient::shared();
    let settings =
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    let engine = Engine::open(&url, OpenMode::Create, settings, Arc::clone(&ambient)).await?;
    let cache_folder = (!folder.is_empty()).then(|| folder.into());
    let (disk, limits) = (url.folder(), Limits { cache, cache_folder, ..Limits::default() });
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config { engine, ambient, listen, tokens: None, tls: None, behind_proxy: false, disk, limits };
    let server = Server::bind(config).await?;
    let url = server.url();
    tokio::spawn(server.run(std::future::pending()));
    Ok(url)
}
