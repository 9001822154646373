//! A real S3 server on this machine: SeaweedFS, one process for all of its services.
//!
//! Must never keep anything of one run for the next, or send anything beyond this machine.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gigastore_tests::prepared;

/// The bucket that is there from the start.
pub(crate) const BUCKET: &str = "reality";

/// Who may make the bucket, and who may do everything in it.
const IDENTITIES: &str = r#"{"identities": [
    {"name": "anonymous", "actions": ["Admin"]},
    {"name": "reality", "credentials": [{"accessKey": "reality", "secretKey": "reality-secret"}],
     "actions": ["Admin", "Read", "Write", "List"]}
]}"#;

/// The services of the server, each with a port for HTTP and one for its own protocol; S3 is the last.
const SERVICES: [&str; 4] = ["master", "volume", "filer", "s3"];

/// How long it may take to answer; four seconds are common.
const START: Duration = Duration::from_secs(60);

/// A server that runs until it is dropped, with nothing in its bucket at first.
pub(crate) struct Weed {
    child: Child,
    ports: Vec<u16>,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Weed {
    /// Starts a server in a new folder, and waits until it has made the bucket.
    pub(crate) fn start() -> Self {
        // All are held until the last is found, so that none is found twice.
        let held: Vec<_> = (0..SERVICES.len() * 2).map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap()).collect();
        let ports: Vec<u16> = held.iter().map(|one| one.local_addr().unwrap().port()).collect();
        drop(held);
        let python = prepared::python().unwrap_or_else(|error| panic!("{error}"));
        let folder = tempfile::tempdir().unwrap();
        let (data, identities, log) =
            (folder.path().join("data"), folder.path().join("s3.json"), folder.path().join("log"));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(&identities, IDENTITIES).unwrap();
        let mut command = Command::new(python.with_file_name("weed"));
        command.args(["-logtostderr", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-volume.max=0"]);
        // Neither tell its makers, nor take ports for services that nobody needs.
        command.args(["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
        command.arg(format!("-dir={}", data.display())).arg(format!("-s3.config={}", identities.display()));
        for (service, pair) in SERVICES.iter().zip(ports.chunks_exact(2)) {
            command.arg(format!("-{service}.port={}", pair[0])).arg(format!("-{service}.port.grpc={}", pair[1]));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        let child = command.spawn().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], ports[ports.len() - 2]));
        let mut weed = Self { child, ports, address, _folder: folder };
        let began = Instant::now();
        while !weed.makes_bucket() {
            let ended = weed.child.try_wait().unwrap();
            if began.elapsed() > START || ended.is_some() {
                panic!("the S3 server did not start: {}", std::fs::read_to_string(&log).unwrap());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        weed
    }

    fn makes_bucket(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(self.address)?;
            let head = format!("PUT /{BUCKET} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n", self.address);
            stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            std::io::Result::Ok(answer.starts_with("HTTP/1.1 200"))
        };
        ask().unwrap_or(false)
    }

    /// Returns the settings by which it is found.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.address);
        let settings = [("AWS_ENDPOINT", endpoint.as_str()), ("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "us-east-1")];
        let keys = [("AWS_ACCESS_KEY_ID", "reality"), ("AWS_SECRET_ACCESS_KEY", "reality-secret")];
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
