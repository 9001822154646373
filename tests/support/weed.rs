//! A real S3 server on this machine: SeaweedFS, one process for all of its services.
//!
//! Must never outlive who started it, keep anything of one run for the next, or send anything beyond this machine.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The bucket that is there from the start.
pub const BUCKET: &str = "gigastore";

/// The key that may do everything, and its secret.
const KEY: (&str, &str) = ("test", "test-secret");

/// Who may do everything: anyone, so that limits of a bench need no signatures, and one with a key, for those that
/// sign.
const IDENTITIES: &str = r#"{"identities": [
    {"name": "anonymous", "actions": ["Admin", "Read", "Write", "List"]},
    {"name": "test", "credentials": [{"accessKey": "test", "secretKey": "test-secret"}],
     "actions": ["Admin", "Read", "Write", "List"]}
]}"#;

/// The services of the server, each with a port for HTTP and one for its own protocol; S3 is the last.
const SERVICES: [&str; 4] = ["master", "volume", "filer", "s3"];

/// How long it may take to answer; four seconds are common.
const START: Duration = Duration::from_secs(60);

/// Ports that nobody else has, and will not get meanwhile unless they ask for them.
#[derive(Debug)]
pub struct Ports(Vec<u16>);

/// A server that runs until it is dropped, with nothing in its bucket at first.
#[derive(Debug)]
pub struct Weed {
    child: Child,
    ports: Vec<u16>,
    /// Where it speaks S3.
    pub address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Ports {
    /// Finds free ports, for one server after another.
    pub fn free() -> io::Result<Self> {
        let held = (0..SERVICES.len() * 2).map(|_| TcpListener::bind(("127.0.0.1", 0)));
        // All are held until the last is found, so that none is found twice.
        let held: Vec<TcpListener> = held.collect::<io::Result<_>>()?;
        let ports = held.iter().map(|one| Ok(one.local_addr()?.port()));
        Ok(Self(ports.collect::<io::Result<_>>()?))
    }
}

impl Weed {
    /// Starts the server that `command` is with its data in `folder`, which is removed with it, and waits until it has
    /// made the bucket.
    pub fn start(mut command: Command, folder: tempfile::TempDir, Ports(ports): &Ports) -> io::Result<Self> {
        let (data, identities, log) =
            (folder.path().join("data"), folder.path().join("s3.json"), folder.path().join("log"));
        std::fs::create_dir(&data)?;
        std::fs::write(&identities, IDENTITIES)?;
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
        while let Err(error) = weed.make_bucket() {
            if began.elapsed() > START || weed.child.try_wait()?.is_some() {
                let said = std::fs::read_to_string(&log)?;
                return Err(io::Error::other(format!("the S3 server did not start: {error}; it said:\n{said}")));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(weed)
    }

    fn make_bucket(&self) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        let head = format!("PUT /{BUCKET} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n", self.address);
        stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        match answer.starts_with("HTTP/1.1 200") {
            true => Ok(()),
            false => Err(io::Error::other(answer)),
        }
    }

    /// Returns the settings by which object_store finds it.
    pub fn settings(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.address);
        let settings = [("AWS_ENDPOINT", endpoint.as_str()), ("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "us-east-1")];
        let keys = [("AWS_ACCESS_KEY_ID", KEY.0), ("AWS_SECRET_ACCESS_KEY", KEY.1)];
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
