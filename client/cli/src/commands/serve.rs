//! `gigastore serve`
//!
//! Must never cut off a request that is in flight when it is told to stop, unless it takes too long.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use gigastore_client::transport::embedded::open;
use gigastore_engine::store::OpenMode;
use gigastore_server::Tls;
use serde_json::json;

use crate::context::Globals;
use crate::duration::duration;
use crate::failure::Failure;
use crate::output::{say, say_json, would};
use crate::rate::rate;
use crate::service;

/// Put the store behind HTTP
///
/// Workers then use --store http://HOST:PORT with a token, and need no credentials of the bucket.
/// Without --tokens it listens on this machine only, and everyone on it may do everything. Any
/// number of services may run on one store. SIGTERM and Ctrl-C finish what is in flight.
///
/// Examples:
///
///   gigastore --store file:///data/store serve
///
///   gigastore --store s3://bucket/prefix serve --listen 0.0.0.0:7443 --tokens tokens.json
///       --tls-cert cert.pem --tls-key key.pem
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Serve {
    /// Where to listen; port 0 takes any that is free
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
    /// The token file (see `gigastore token`); read again when it changes
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Certificate and those that vouch for it, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A proxy before this service has the TLS
    #[arg(long)]
    behind_proxy: bool,
    /// Memory for bodies of requests and answers, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(64..1 << 20))]
    memory: u64,
    /// Memory for objects that are read again, in MiB; default: 512, and 0 for stores on this machine
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(0..1 << 30))]
    cache: Option<u64>,
    /// Folder for more of them, on a disk of this machine; other services and clients of it may use the same
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// What that folder may hold, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 32 << 10, requires = "cache_dir",
          value_parser = clap::value_parser!(u64).range(256..1 << 30))]
    cache_disk: u64,
    /// Memory for decoded manifests, from which plans are made, in MiB: 512 keep a million slices
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(0..1 << 30))]
    manifests: u64,
    /// Room that stays free on the disk of the store, in MiB: below it writes are refused
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(0..1 << 40))]
    keep_free: u64,
    /// Let clients read objects past the service, by signed URLs or paths; they verify all the same
    #[arg(long)]
    direct_reads: bool,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    connections: usize,
    /// How long requests in flight have to finish at the end
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    drain: u64,
    /// Verify everything stored in the background, reading so many bytes a second, and repair what can be repaired (see
    /// `gigastore scrub`); a pass a day. Default: off
    #[arg(long, value_name = "BYTES/S", value_parser = rate)]
    scrub_rate: Option<u64>,
    /// A second store with the same projects, from which damaged objects are repaired
    #[arg(long, value_name = "URL")]
    scrub_replica: Option<String>,
    /// Apply the policies of all projects and collect them so often, such as 6h (see `gigastore retain` and `gc`)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    collect_every: Option<Duration>,
    /// Age of a fence before what it condemned is deleted
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration, requires = "collect_every")]
    collect_grace: Duration,
    /// How the log is written, to stderr
    #[arg(long, value_enum, default_value = "text")]
    log: Log,
}

/// Forms of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Log {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
    /// Warnings and errors only, as lines for people.
    Quiet,
}

impl Serve {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let url = globals.url()?;
        if globals.dry_run {
            would(globals.format, &format!("serve {url} at {}", self.listen));
            return Ok(());
        }
        start_log(self.log, globals.quiet);
        let mut config = service::config(url, self.listen).await?;
        config.tokens = self.tokens;
        config.tls = self.tls_cert.zip(self.tls_key).map(|(certificate, key)| Tls { certificate, key });
        config.behind_proxy = self.behind_proxy;
        let limits = &mut config.limits;
        limits.memory = self.memory << 20;
        limits.manifests = self.manifests << 20;
        limits.keep_free = self.keep_free << 20;
        limits.direct = self.direct_reads;
        limits.connections = self.connections.max(1);
        limits.drain = Duration::from_secs(self.drain);
        limits.collect_every = self.collect_every;
        limits.collect_grace = self.collect_grace;
        limits.cache = self.cache.map_or(limits.cache, |mib| mib << 20);
        limits.cache_folder = self.cache_dir;
        limits.cache_disk = self.cache_disk << 20;
        limits.scrub_rate = self.scrub_rate;
        if let Some(replica) = &self.scrub_replica {
            limits.replica = Some(open(replica, OpenMode::Existing, &config.ambient).await?);
        }
        // Before anybody is told that it serves: who was told may end it at once.
        let stop = stop_signal()?;
        let server = service::bind(config).await?;
        let address = server.url();
        if globals.json() {
            say_json(&json!({ "url": address, "store": url }));
        } else {
            say(&format_args!("serving {url} at {address}"));
        }
        server.run(stop).await;
        Ok(())
    }
}

/// Waits for SIGTERM or SIGINT.
fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error| Failure::local("signals can't be handled", &error);
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate()).map_err(failed)?, signal(SignalKind::interrupt()).map_err(failed)?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn start_log(log: Log, quiet: bool) {
    use tracing_subscriber::filter::LevelFilter;
    let level = if quiet || log == Log::Quiet { LevelFilter::WARN } else { LevelFilter::INFO };
    let lines = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    match log {
        Log::Json => lines.json().flatten_event(true).init(),
        Log::Text | Log::Quiet => lines.with_ansi(false).init(),
    }
}
