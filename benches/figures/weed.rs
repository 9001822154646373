//! A real S3 server on this machine: SeaweedFS, one process for all of its services.
//!
//! Must never outlive the bench, keep anything of one run for the next, or send anything beyond this machine.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gigastore_benches::puts;

use crate::served::program;
use crate::{Plan, Res, setting};

/// The bucket that is there from the start.
pub(crate) const BUCKET: &str = "bench";

/// Who may do everything in it: anyone, so that the limits need no signatures, and one with a key, for those that sign.
const IDENTITIES: &str = r#"{"identities": [
    {"name": "anonymous", "actions": ["Admin", "Read", "Write", "List"]},
    {"name": "bench", "credentials": [{"accessKey": "bench", "secretKey": "bench-secret"}],
     "actions": ["Admin", "Read", "Write", "List"]}
]}"#;

/// The services of the server, each with a port for HTTP and one for its own protocol; S3 is the last.
const SERVICES: [&str; 4] = ["master", "volume", "filer", "s3"];

/// How long it may take to answer; four seconds are common.
const START: Duration = Duration::from_secs(60);

/// Ports that nobody else has, and will not get meanwhile unless they ask for them.
pub(crate) struct Ports(Vec<u16>);

/// A server that runs until it is dropped, with nothing in its bucket at first.
pub(crate) struct Weed {
    child: Child,
    ports: Vec<u16>,
    /// Where it speaks S3.
    pub(crate) address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Ports {
    /// Finds free ports, the same for every server of a bench.
    pub(crate) fn free() -> Res<Self> {
        let held = (0..SERVICES.len() * 2).map(|_| TcpListener::bind(("127.0.0.1", 0)));
        // All are held until the last is found, so that none is found twice.
        let held: Vec<TcpListener> = held.collect::<io::Result<_>>()?;
        let ports = held.iter().map(|one| Ok(one.local_addr()?.port()));
        Ok(Self(ports.collect::<io::Result<_>>()?))
    }
}

impl Weed {
    /// Starts a server in a new folder, and waits until it has made the bucket.
    pub(crate) async fn start(plan: &Plan, Ports(ports): &Ports) -> Res<Self> {
        let server = setting("GIGASTORE_BENCH_WEED")?;
        let folder = plan.folder()?;
        let (data, identities, log) =
            (folder.path().join("data"), folder.path().join("s3.json"), folder.path().join("log"));
        std::fs::create_dir(&data)?;
        std::fs::write(&identities, IDENTITIES)?;
        let mut command = program(&server)?;
        command.args(["-logtostderr", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-volume.max=0"]);
        // Neither tell its makers, nor take ports for services that nobody needs.
        command.args(["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
        command.arg(format!("-dir={}", data.display())).arg(format!("-s3.config={}", identities.display()));
        for (service, pair) in SERVICES.iter().zip(ports.chunks_exact(2)) {
            command.arg(format!("-{service}.port={}", pair[0])).arg(format!("-{service}.port.grpc={}", pair[1]));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let child = command.spawn()?;
        let address = SocketAddr::from(([127, 0, 0, 1], ports[ports.len() - 2]));
        let mut weed = Self { child, ports: ports.clone(), address, _folder: folder };
        let began = Instant::now();
        while let Err(error) = puts(address, &[(format!("/{BUCKET}"), Bytes::new())]).await {
            if began.elapsed() > START || weed.child.try_wait()?.is_some() {
                let log = std::fs::read_to_string(&log)?;
                return Err(format!("the S3 server did not start: {error}; it said:\n{log}").into());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(weed)
    }

    /// Returns the settings by which object_store finds it.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.address);
        let settings = [("AWS_ENDPOINT", endpoint.as_str()), ("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "us-east-1")];
        let keys = [("AWS_ACCESS_KEY_ID", "bench"), ("AWS_SECRET_ACCESS_KEY", "bench-secret")];
        settings.into_iter().chain(keys).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to end. What it left are sockets in the system's folder.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for (service, pair) in SERVICES.iter().zip(self.ports.chunks_exact(2)) {
            let folder = std::env::temp_dir();
            let _ = std::fs::remove_file(folder.join(format!("seaweedfs-{service}-{}.sock", pair[0])));
            let _ = std::fs::remove_file(folder.join(format!("seaweedfs-{service}-grpc-{}.sock", pair[1])));
        }
    }
}
