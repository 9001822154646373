//! A service in a process of its own: started, stopped, killed, and started again at the same address.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use gigastore_tests::memory::{Watch, status_kib};
use gigastore_tests::raw::ask;

use crate::run::{Desk, Said};

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running service; it is killed when this is dropped.
pub(crate) struct Service {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Service {
    /// Starts a service over the desk's store at any free port.
    pub(crate) fn start(desk: &Desk, more: &[&str]) -> Self {
        Self::start_at(desk, SocketAddr::from(([127, 0, 0, 1], 0)), more)
    }

    /// Starts a service over the desk's store at `address`.
    pub(crate) fn start_at(desk: &Desk, address: SocketAddr, more: &[&str]) -> Self {
        let listen = address.to_string();
        let arguments = ["serve", "--listen", &listen, "--log", "quiet", "--keep-free", "0"];
        Self::spawn(desk.command(&[&arguments, more].concat()))
    }

    /// Starts `command`, which must be a service, and waits until it listens.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some((_, url)) = line.trim().rsplit_once("://") else {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("the service did not start: {line}{said}");
        };
        Self { child, address: url.parse().unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM.
    pub(crate) fn stop(&self) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// A field of `/proc/PID/status` in KiB.
    pub(crate) fn memory_kib(&self, field: &str) -> u64 {
        status_kib(self.child.id(), field).unwrap_or(0)
    }

    /// Looks at its memory until that is asked for.
    pub(crate) fn watch_memory(&self) -> Watch {
        Watch::of(self.child.id(), "RssAnon")
    }

    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text = ask(self.address, "GET", "/metrics", &[], b"").await.unwrap().text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a process to end; kills it where it does not.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > until {
            child.kill().unwrap();
            panic!("process {} did not end", child.id());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a command of the desk against another store.
pub(crate) fn against(desk: &Desk, store: &str, arguments: &[&str]) -> Said {
    Said::of(desk.command(arguments).env("GIGASTORE_STORE", store).output().unwrap())
}

/// Tells whether a file of this kind is below a folder, and not one that is being written.
pub(crate) fn has(folder: &Path, part: &str, count: usize) -> bool {
    let (mut folders, mut found) = (vec![folder.to_owned()], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.contains(part) && !name.contains('#') {
                // Files that are being written have a name with `#`.
                found += 1;
            }
        }
    }
    found >= count
}
