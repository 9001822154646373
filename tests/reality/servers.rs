//! Services on the same bucket, killed one at a time and started again at the same address.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Yard;
use crate::place::{Place, kill as end};

/// Services at once.
const SERVERS: usize = 3;

/// Services that run until they are stopped.
pub(crate) struct Servers(Mutex<Vec<Server>>);

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts one that appends what it says to `log`.
    fn start(place: &Place, address: SocketAddr, log: &Path) -> Self {
        let listen = address.to_string();
        let arguments = ["serve", "--listen", &listen, "--log", "quiet", "--keep-free", "0"];
        let mut command = place.command(place.url(), &arguments);
        let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut child = command.stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some((_, address)) = line.trim().rsplit_once("://") else {
            panic!("a service did not start: {line:?}");
        };
        Self { child, address: address.parse().unwrap() }
    }
}

impl Servers {
    pub(crate) fn start(place: &Place, log: &Path) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self(Mutex::new((0..SERVERS).map(|_| Server::start(place, any, log)).collect()))
    }

    /// Returns the URLs of all, the `first` of them first.
    pub(crate) fn urls(&self, first: u64) -> String {
        let mut servers: Vec<_> = self.lock().iter().map(|server| format!("http://{}", server.address)).collect();
        servers.rotate_left(first as usize % SERVERS);
        servers.join(",")
    }

    /// Kills them all.
    pub(crate) fn stop(&self) {
        self.lock().drain(..).for_each(|mut server| end(&mut server.child));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Server>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Kills services until it is time for calm.
pub(crate) fn kill(yard: &Yard) {
    let mut chance = yard.chance(1000);
    while Instant::now() < yard.until {
        std::thread::sleep(Duration::from_millis(300 + chance.below(900)));
        let which = chance.below(SERVERS as u64) as usize;
        let address = {
            let mut servers = yard.servers.lock();
            end(&mut servers[which].child);
            servers[which].address
        };
        yard.kills.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(chance.below(300)));
        let started = Server::start(&yard.place, address, &yard.deeds.log());
        yard.servers.lock()[which] = started;
    }
    yard.calm.store(true, Ordering::SeqCst);
}
