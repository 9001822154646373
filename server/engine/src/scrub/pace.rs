//! Bytes as they are read: counted, and held to a rate.
//!
//! Must never hold a read up that is under way: who has read waits before the next.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gigastore_formats::ambient::Ambient;

/// Longest wait after one read, at a rate so low that it would be longer: an hour. A rate of a byte a second is a
/// mistake, and must not overflow a clock.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Counts the bytes of a verification and keeps them below a rate.
pub(super) struct Meter<'a> {
    ambient: &'a dyn Ambient,
    /// Bytes a second.
    rate: Option<u64>,
    /// When all that was read so far may have been read.
    due: Mutex<Duration>,
    tell: &'a (dyn Fn(u64) + Send + Sync),
}

impl<'a> Meter<'a> {
    /// Tells of all bytes by `tell`; `rate` is in bytes a second.
    pub(super) fn new(ambient: &'a dyn Ambient, rate: Option<u64>, tell: &'a (dyn Fn(u64) + Send + Sync)) -> Self {
        Self { ambient, rate, due: Mutex::default(), tell }
    }

    /// Counts bytes that were read, and waits as long as the rate wants.
    pub(super) async fn read(&self, bytes: u64) {
        (self.tell)(bytes);
        self.wait(bytes).await;
    }

    /// Waits for bytes that are no progress: those that are looked at a second time.
    pub(super) async fn wait(&self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
        let takes = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)).min(LONGEST_WAIT);
        let now = self.ambient.monotonic();
        let wait = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            *due = (*due).max(now).saturating_add(takes);
            due.saturating_sub(now)
        };
        if !wait.is_zero() {
            self.ambient.sleep(wait).await;
        }
    }
}
