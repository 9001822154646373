//! Servers, writers, collectors and readers of one bucket, in processes of their own, killed with -9 at random; at the
//! end a program that shares no code with them says whether all that was acknowledged is there.
//!
//! | file | what it does |
//! |---|---|
//! | `place.rs` | the bucket: a folder, an S3 server on this machine, or one that the environment names |
//! | `servers.rs` | `gigastore serve`, several times, killed and started again |
//! | `writers.rs`, `readers.rs` | training jobs that save, tag and drop, and those who restore |
//! | `collectors.rs` | `gigastore gc`, several times at once |
//! | `s3.rs` | copies to and from S3, uploads that nobody finished |
//! | `deeds.rs` | what they were told, written down before and after |
//! | `check.py` | the verdict |
//!
//! | variable | what it sets |
//! |---|---|
//! | `GIGASTORE_REALITY_SECONDS` | how long processes are killed, 20 unless set |
//! | `GIGASTORE_REALITY_SEED` | what they are killed by: numbers are the same, processes are not |
//! | `GIGASTORE_REALITY_STORE` | `s3://BUCKET/PREFIX`: stores are made below it, and stay; settings in `AWS_…` |

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

mod collectors;
mod deeds;
mod place;
mod readers;
#[allow(dead_code, reason = "shared with the tests of the command line")]
#[path = "../cli/run.rs"]
mod run;
mod s3;
mod servers;
mod writers;

use std::ffi::OsStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gigastore_tests::model::XorShift;
use gigastore_tests::prepared;

use crate::deeds::Deeds;
use crate::place::Place;
use crate::servers::Servers;

/// Writers at once: more than any machine of ours has cores.
const WRITERS: u64 = 16;

/// Who restores meanwhile.
const READERS: u64 = 2;

/// Who collects meanwhile.
const COLLECTORS: u64 = 2;

/// How long processes are killed, unless the environment says otherwise.
const SECONDS: u64 = 20;

/// Acknowledged saves below which a run says nothing.
const LEAST_SAVES: u64 = 16;

/// Everything that the threads of a run share.
pub(crate) struct Yard {
    pub(crate) place: Place,
    pub(crate) servers: Servers,
    pub(crate) deeds: Deeds,
    /// Until when processes are killed, and things begun.
    pub(crate) until: Instant,
    /// Nobody is killed any more: what is under way must finish.
    pub(crate) calm: AtomicBool,
    pub(crate) kills: AtomicU64,
    /// Collections that came to their end.
    pub(crate) collections: AtomicU64,
    seed: u64,
    trouble: Mutex<Vec<String>>,
}

impl Yard {
    fn new(place: Place, seed: u64, seconds: u64) -> Self {
        let deeds = Deeds::new();
        Self {
            servers: Servers::start(&place, &deeds.log()),
            deeds,
            until: Instant::now() + Duration::from_secs(seconds),
            calm: AtomicBool::new(seconds == 0),
            kills: AtomicU64::new(0),
            collections: AtomicU64::new(0),
            seed,
            trouble: Mutex::default(),
            place,
        }
    }

    /// Takes note of something that must not be.
    pub(crate) fn report(&self, what: String) {
        eprintln!("reality: {what}");
        self.trouble.lock().unwrap().push(what);
    }

    /// Returns the chance of one thread.
    pub(crate) fn chance(&self, who: u64) -> XorShift {
        XorShift::new(self.seed.wrapping_mul(1000).wrapping_add(who))
    }

    /// Draws after how long a process is killed; `None` for two of three, and for all when it is calm.
    pub(crate) fn doom(&self, chance: &mut XorShift) -> Option<Duration> {
        let doomed = chance.below(3) == 0 && !self.calm.load(Ordering::SeqCst);
        doomed.then(|| Duration::from_millis(chance.below(400)))
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Lets everybody work and die, then checks what is left.
fn live_and_die(place: Place) {
    let seconds = setting("GIGASTORE_REALITY_SECONDS", SECONDS);
    let seed = setting("GIGASTORE_REALITY_SEED", u64::from(std::process::id()));
    let (what, yard) = (place.to_string(), Yard::new(place, seed, seconds));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let yard = &yard;
            scope.spawn(move || writers::write(yard, writer));
        }
        for reader in 0..READERS {
            let yard = &yard;
            scope.spawn(move || readers::read(yard, WRITERS + reader));
        }
        for collector in 0..COLLECTORS {
            let yard = &yard;
            scope.spawn(move || collectors::collect(yard, WRITERS + READERS + collector));
        }
        scope.spawn(|| servers::kill(&yard));
    });
    let (kills, collections) = (yard.kills.load(Ordering::Relaxed), yard.collections.load(Ordering::Relaxed));
    yard.servers.stop();
    let mut trouble = yard.trouble.into_inner().unwrap();
    let said = std::fs::read_to_string(yard.deeds.log()).unwrap();
    trouble.extend(said.lines().filter(|line| line.contains("panicked")).map(str::to_owned));
    assert!(trouble.is_empty(), "{what}, GIGASTORE_REALITY_SEED={seed}: {}", trouble.join("\n"));
    let bucket = yard.place.folder();
    let (deeds, models) = (yard.deeds.file(), yard.deeds.models());
    let arguments = [bucket.path().as_os_str(), deeds.as_os_str(), models.as_os_str()];
    let checked = check(&arguments).unwrap_or_else(|violations| {
        panic!("{what}, GIGASTORE_REALITY_SEED={seed}, kept in {}: {violations}", yard.deeds.keep(&bucket))
    });
    println!("{what}: {seconds} s, {kills} processes killed, {collections} collections: {checked}");
    let saves = yard.deeds.saved();
    assert!(saves >= LEAST_SAVES, "{what}: only {saves} saves were acknowledged");
    assert!(kills > 0 && collections > 0, "{what}: {kills} kills, {collections} collections");
}

/// Runs the checker; returns what it counted, or what it found.
fn check(arguments: &[&OsStr]) -> Result<String, String> {
    let python = prepared::python().unwrap_or_else(|error| panic!("{error}"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reality/check.py");
    let output = std::process::Command::new(python).arg(script).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn what_was_acknowledged_is_in_the_folder() {
    live_and_die(Place::new_folder());
}

#[test]
fn what_was_acknowledged_is_in_the_bucket() {
    live_and_die(Place::bucket());
}

#[test]
fn the_checker_sees_what_is_not_as_it_should_be() {
    let yard = Yard::new(Place::new_folder(), 1, 0);
    writers::save(&yard, 0, 1, &mut yard.chance(0));
    yard.servers.stop();
    let trouble = yard.trouble.into_inner().unwrap();
    assert!(trouble.is_empty(), "{trouble:?}");
    let bucket = yard.place.folder();
    let (deeds, models) = (yard.deeds.file(), yard.deeds.models());
    let arguments = [bucket.path().as_os_str(), deeds.as_os_str(), models.as_os_str()];
    check(&arguments).unwrap();
    for (i, key) in bucket.keys().into_iter().enumerate() {
        let path = bucket.path().join(&key);
        let right = std::fs::read(&path).unwrap();
        let lost = i % 3 == 0;
        match i % 3 {
            0 => std::fs::remove_file(&path).unwrap(),
            1 => run::flip(&path, right.len() / 2),
            _ => std::fs::write(&path, &right[..right.len() - 1]).unwrap(),
        }
        // What an ended save has laid down is needed by nobody.
        let needed = !lost || !key.contains("/saves/");
        assert_eq!(check(&arguments).is_err(), needed, "damage of kind {} of {key}", i % 3);
        std::fs::write(&path, &right).unwrap();
    }
    check(&arguments).unwrap();
    // An acknowledgement that nothing stands behind.
    let lies = yard.deeds.file().with_extension("lies");
    let told = std::fs::read_to_string(yard.deeds.file()).unwrap();
    std::fs::write(&lies, told.replace("\"step\":1", "\"step\":4")).unwrap();
    let error = check(&[bucket.path().as_os_str(), lies.as_os_str(), models.as_os_str()]).unwrap_err();
    assert!(error.contains("took effect 0 times"), "{error}");
}
