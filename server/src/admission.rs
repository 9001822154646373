//! What is let in: no more bytes than memory was given for, and no writes that would fill the disk.
//!
//! Memory is asked for before a body is read: who does not get it in time is sent away with `Retry-After`, and nothing
//! of the body was buffered. Must never let a request hold memory that was not counted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gigastore_formats::wire::{Fault, FaultCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counted in units of 64 KiB, so that a semaphore's permits hold any budget.
const UNIT: u64 = 64 << 10;

/// What a client that was sent away waits, in seconds.
pub(crate) const RETRY_AFTER_S: u64 = 2;

/// Memory for bodies, and room on the disk.
#[derive(Debug)]
pub(crate) struct Admission {
    memory: Arc<Semaphore>,
    units: u64,
    wait: Duration,
    disk: Option<(PathBuf, u64)>,
}

/// Memory that was given; it goes back when this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    _permit: OwnedSemaphorePermit,
}

impl Admission {
    /// `memory` bytes for bodies, waited for up to `wait`; writes are refused while the disk of the folder has fewer
    /// bytes free than given.
    pub(crate) fn new(memory: u64, wait: Duration, disk: Option<(PathBuf, u64)>) -> Self {
        let units = (memory / UNIT).clamp(1, Semaphore::MAX_PERMITS as u64);
        Self { memory: Arc::new(Semaphore::new(units as usize)), units, wait, disk }
    }

    /// Returns the longest body that is taken in one piece: half of the memory, so that two fit.
    pub(crate) fn most(&self) -> u64 {
        self.units * UNIT / 2
    }

    /// Returns the bytes in use.
    pub(crate) fn used(&self) -> u64 {
        (self.units - self.memory.available_permits() as u64) * UNIT
    }

    /// Waits for memory of `bytes`, or of all there is.
    pub(crate) async fn memory(&self, bytes: u64) -> Result<Admitted, Fault> {
        let units = bytes.div_ceil(UNIT).clamp(1, self.units) as u32;
        let asked = Arc::clone(&self.memory).acquire_many_owned(units);
        match tokio::time::timeout(self.wait, asked).await {
            Ok(Ok(permit)) => Ok(Admitted { _permit: permit }),
            _ => Err(Fault {
                hint: Some(format!("the client retries by itself; try again in {RETRY_AFTER_S} s")),
                ..Fault::of(FaultCode::Unavailable, "the service is busy: no memory for this request")
            }),
        }
    }

    /// Refuses writes where the disk is nearly full.
    pub(crate) fn check_disk(&self) -> Result<(), Fault> {
        let Some((folder, keep)) = &self.disk else { return Ok(()) };
        let free = match rustix::fs::statvfs(folder) {
            Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
            // A disk that can't be asked is found out by the write itself.
            Err(_) => return Ok(()),
        };
        if free >= *keep {
            return Ok(());
        }
        Err(Fault {
            expected: Some(format!("at least {keep} bytes free")),
            actual: Some(format!("{free} bytes free")),
            hint: Some("free space on the disk of the store, or lower --keep-free".to_owned()),
            ..Fault::of(
                FaultCode::StoreFull,
                format!("the store is nearly full: {free} bytes free, writes need {keep}; reads go on"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_gets_no_memory_is_sent_away_and_may_come_again() {
        let admission = Admission::new(1 << 20, Duration::from_millis(20), None);
        let held = admission.memory(900 << 10).await.unwrap();
        let busy = admission.memory(200 << 10).await.unwrap_err();
        assert_eq!(busy.code, FaultCode::Unavailable);
        drop(held);
        assert_eq!(admission.used(), 0);
        let all = admission.memory(u64::MAX).await.unwrap();
        assert_eq!(admission.used(), 1 << 20);
        drop(all);
    }

    #[test]
    fn a_disk_with_little_room_takes_no_writes() {
        assert!(Admission::new(1, Duration::ZERO, Some((std::env::temp_dir(), 0))).check_disk().is_ok());
        let full = Admission::new(1, Duration::ZERO, Some((std::env::temp_dir(), u64::MAX))).check_disk().unwrap_err();
        assert_eq!(full.code, FaultCode::StoreFull);
    }
}
