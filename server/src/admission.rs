//! What is let in: no more bytes than memory was given for, and no writes that would fill the disk.
//!
//! Memory is asked for before a body is read: who does not get it in time is sent away with `Retry-After`, and nothing
//! of the body was buffered. Must never let a request hold memory that was not counted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gigastore_formats::wire::{Fault, FaultCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counted in units of 64 KiB, so that a semaphore's permits hold any budget.
const UNIT: u64 = 64 << 10;

/// The part of the memory that is kept for short bodies: an eighth, so that a begin or a commit never waits behind
/// uploads.
const SHORT_SHARE: u64 = 8;

/// The longest body that counts as short: what control calls send.
pub(crate) const SHORT_BYTES: u64 = 1 << 20;

/// Answers up to here come out of the memory for short bodies, longer ones wait with the uploads.
const SHORT_ANSWER_BYTES: u64 = 64 << 10;

/// Verifications at once: each holds four windows of 8 MiB, which are counted nowhere else.
const VERIFICATIONS: usize = 2;

/// What a client that was sent away waits, in seconds.
pub(crate) const RETRY_AFTER_S: u64 = 2;

/// Memory for bodies, and room on the disk.
#[derive(Debug)]
pub(crate) struct Admission {
    long: Arc<Semaphore>,
    long_units: u64,
    short: Arc<Semaphore>,
    short_units: u64,
    verifying: Arc<Semaphore>,
    collecting: Arc<Semaphore>,
    wait: Duration,
    disk: Option<Disk>,
}

/// The disk of the store.
#[derive(Debug)]
struct Disk {
    folder: PathBuf,
    keep: u64,
    reserved: Arc<AtomicU64>,
}

/// Memory that was given; it goes back when the last clone of this is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Admitted {
    /// Returns the same bytes, which hold this memory for as long as any part of them is alive: what is still in the
    /// buffer of a socket counts.
    pub(crate) fn held_by(self, bytes: Bytes) -> Bytes {
        struct Held(Bytes, #[expect(dead_code, reason = "held until the bytes go")] Admitted);
        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        Bytes::from_owner(Held(bytes, self))
    }
}

/// Room on the disk for one write; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    room: Option<(Arc<AtomicU64>, u64)>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some((reserved, len)) = &self.room {
            reserved.fetch_sub(*len, Ordering::Relaxed);
        }
    }
}

impl Admission {
    /// `memory` bytes for bodies, waited for up to `wait`; writes are refused that would leave the disk of the folder
    /// with fewer bytes free than given.
    pub(crate) fn new(memory: u64, wait: Duration, disk: Option<(PathBuf, u64)>) -> Self {
        let units = (memory / UNIT).clamp(2, Semaphore::MAX_PERMITS as u64);
        let short_units = (units / SHORT_SHARE).max(1);
        let long_units = units - short_units;
        let disk = disk.map(|(folder, keep)| Disk { folder, keep, reserved: Arc::default() });
        let semaphore = |permits: u64| Arc::new(Semaphore::new(permits as usize));
        let (long, short) = (semaphore(long_units), semaphore(short_units));
        let (verifying, collecting) = (semaphore(VERIFICATIONS as u64), semaphore(1));
        Self { long, long_units, short, short_units, verifying, collecting, wait, disk }
    }

    /// Returns all the memory there is for long bodies.
    pub(crate) fn all(&self) -> u64 {
        self.long_units * UNIT
    }

    /// Returns the longest body that is taken in one piece: half of the memory, so that two fit.
    pub(crate) fn most(&self) -> u64 {
        self.all() / 2
    }

    /// Returns the bytes in use.
    pub(crate) fn used(&self) -> u64 {
        let free = (self.long.available_permits() + self.short.available_permits()) as u64;
        (self.long_units + self.short_units - free) * UNIT
    }

    /// Waits for memory of `bytes`, or of all there is.
    pub(crate) async fn memory(&self, bytes: u64) -> Result<Admitted, Fault> {
        self.given(&self.long, self.long_units, bytes).await
    }

    /// Waits for memory of a body of `bytes`: short ones have their own, so that they wait behind no upload.
    pub(crate) async fn body(&self, bytes: u64) -> Result<Admitted, Fault> {
        match bytes <= SHORT_BYTES {
            true => self.given(&self.short, self.short_units, bytes).await,
            false => self.memory(bytes).await,
        }
    }

    /// Waits for memory of an answer of `bytes`. Short ones have their own, and fit what the system takes of a socket
    /// whose client does not read: they don't hold it for long.
    pub(crate) async fn answer(&self, bytes: u64) -> Result<Admitted, Fault> {
        match bytes <= SHORT_ANSWER_BYTES {
            true => self.given(&self.short, self.short_units, bytes).await,
            false => self.memory(bytes).await,
        }
    }

    async fn given(&self, from: &Arc<Semaphore>, units: u64, bytes: u64) -> Result<Admitted, Fault> {
        let units = bytes.div_ceil(UNIT).clamp(1, units) as u32;
        let asked = Arc::clone(from).acquire_many_owned(units);
        match tokio::time::timeout(self.wait, asked).await {
            Ok(Ok(permit)) => Ok(Admitted { _permit: Arc::new(permit) }),
            _ => Err(busy("the service is busy: no memory for this request")),
        }
    }

    /// Lets one more verification begin, or sends its client away: it lasts too long to be waited for.
    pub(crate) fn verification(&self) -> Result<Admitted, Fault> {
        let permit = Arc::clone(&self.verifying).try_acquire_owned();
        let permit =
            permit.map_err(|_| busy(format!("the service is busy: {VERIFICATIONS} verifications are running")));
        Ok(Admitted { _permit: Arc::new(permit?) })
    }

    /// Lets a collection begin where none runs.
    pub(crate) fn collection(&self) -> Result<Admitted, Fault> {
        let permit = Arc::clone(&self.collecting).try_acquire_owned();
        let permit = permit.map_err(|_| busy("the service is busy: a collection is running"))?;
        Ok(Admitted { _permit: Arc::new(permit) })
    }

    /// Waits until no collection runs.
    pub(crate) async fn collection_turn(&self) -> Admitted {
        let permit = Arc::clone(&self.collecting).acquire_owned().await.expect("the semaphore is never closed");
        Admitted { _permit: Arc::new(permit) }
    }

    /// Refuses writes where the disk is nearly full.
    pub(crate) fn check_disk(&self) -> Result<(), Fault> {
        self.reserve(0).map(drop)
    }

    /// Reserves room for a write of `len` bytes, or refuses it where it would nearly fill the disk. What of it is
    /// written already counts twice until the write ends, which errs on the side of room.
    pub(crate) fn reserve(&self, len: u64) -> Result<Reserved, Fault> {
        let Some(disk) = &self.disk else { return Ok(Reserved { room: None }) };
        // Reserved before it is compared: of two that come at once, each sees the other.
        let before = disk.reserved.fetch_add(len, Ordering::Relaxed);
        let room = Reserved { room: Some((Arc::clone(&disk.reserved), len)) };
        let free = match rustix::fs::statvfs(&disk.folder) {
            Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
            // A disk that can't be asked is found out by the write itself.
            Err(_) => return Ok(room),
        };
        let needed = disk.keep.saturating_add(before).saturating_add(len);
        if free >= needed {
            return Ok(room);
        }
        Err(Fault {
            expected: Some(format!("at least {needed} bytes free")),
            actual: Some(format!("{free} bytes free")),
            hint: Some("free space on the disk of the store, or lower --keep-free".to_owned()),
            ..Fault::of(
                FaultCode::StoreFull,
                format!("the store is nearly full: {free} bytes free, this write needs {needed}; reads go on"),
            )
        })
    }
}

fn busy(message: impl Into<String>) -> Fault {
    Fault {
        hint: Some(format!("the client retries by itself; try again in {RETRY_AFTER_S} s")),
        ..Fault::of(FaultCode::Unavailable, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_gets_no_memory_is_sent_away_and_may_come_again() {
        let admission = Admission::new(8 << 20, Duration::from_millis(20), None);
        let held = admission.memory(6900 << 10).await.unwrap();
        let busy = admission.memory(2 << 20).await.unwrap_err();
        assert_eq!(busy.code, FaultCode::Unavailable);
        drop(held);
        assert_eq!(admission.used(), 0);
        let all = admission.memory(u64::MAX).await.unwrap();
        assert_eq!(admission.used(), 7 << 20);
        assert!(admission.body(2 << 20).await.is_err(), "a long body waits");
        let short = (admission.body(1000).await.unwrap(), admission.answer(1000).await.unwrap());
        assert_eq!(admission.used(), (7 << 20) + (128 << 10));
        drop((all, short));
        assert_eq!(admission.used(), 0);
    }

    #[tokio::test]
    async fn bytes_hold_their_memory_until_the_last_part_of_them_is_gone() {
        let admission = Admission::new(8 << 20, Duration::from_millis(20), None);
        let bytes = admission.answer(1 << 20).await.unwrap().held_by(Bytes::from(vec![7; 1 << 20]));
        let part = bytes.slice(5..6);
        drop(bytes);
        assert_eq!((admission.used(), &part[..]), (1 << 20, &[7][..]));
        drop(part);
        assert_eq!(admission.used(), 0);
    }

    #[test]
    fn only_so_many_verifications_run_at_once() {
        let admission = Admission::new(1, Duration::ZERO, None);
        let running = (admission.verification().unwrap(), admission.verification().unwrap());
        assert_eq!(admission.verification().unwrap_err().code, FaultCode::Unavailable);
        drop(running);
        assert!(admission.verification().is_ok());
    }

    #[test]
    fn a_disk_with_little_room_takes_no_writes() {
        let at = |keep| Admission::new(1, Duration::ZERO, Some((std::env::temp_dir(), keep)));
        assert!(at(0).check_disk().is_ok());
        assert_eq!(at(u64::MAX).check_disk().unwrap_err().code, FaultCode::StoreFull);
        let disk = rustix::fs::statvfs(std::env::temp_dir()).unwrap();
        let (admission, most) = (at(0), disk.f_bavail * disk.f_frsize / 4 * 3);
        let first = admission.reserve(most).unwrap();
        assert_eq!(admission.reserve(most).unwrap_err().code, FaultCode::StoreFull, "its room is taken");
        drop(first);
        assert!(admission.reserve(most).is_ok(), "it is free again, and that of the refused write too");
    }
}
