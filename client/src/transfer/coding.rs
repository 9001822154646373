//! Whether a pack is coded before it is sent: while the store is the slower of the two.
//!
//! Coding pays where it takes less time than the store would for the bytes that it saves. Neither speed is known
//! beforehand, so both are measured as the save goes: packs go raw while the store has nothing to do, one at a time is
//! coded while it has, and none where coding turned out to be too slow. Must never let raw packs wait for one that is
//! being coded while the store is idle.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gigastore_formats::ambient::Ambient;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Whether slices are stored compressed where that makes them at least 5 % smaller.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    /// They are stored as they are.
    #[default]
    Off,
    /// Where the save is not slower for it: while the store takes bytes more slowly than they are compressed. A save
    /// that is run again may decide otherwise for a pack, and then sends that once more.
    Auto,
    /// However long it takes.
    Always,
}

/// Packs on their way to the store below which it is idle: one is sent while the next is made.
const BUSY_PACKS: usize = 2;

/// How much faster than the store coding must be. Both want the same processors, and what coding saves is a third of
/// the bytes of bf16 weights: below this it was measured to cost more than that.
const FASTER: f64 = 2.0;

/// Decides for the packs of one rank's save. Clones share what they know.
#[derive(Clone)]
pub(crate) struct Compressor {
    wanted: Compression,
    ambient: Arc<dyn Ambient>,
    shared: Arc<Shared>,
}

struct Shared {
    speeds: Mutex<Speeds>,
    /// Rung when the store's work changes.
    changed: Notify,
    /// One pack at a time: those behind it in the queue of the processors would keep raw ones from the store.
    turn: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Speeds {
    /// Packs on their way to the store, and since when there is one.
    sending: usize,
    since: Duration,
    sent: Done,
    coded: Done,
}

/// Bytes, and the time that they took.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    bytes: u64,
    time: Duration,
}

impl Done {
    /// Returns bytes a second, once there are any.
    fn speed(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.bytes as f64 / self.time.as_secs_f64().max(1e-9))
    }
}

impl Speeds {
    fn raw_is_better(&self) -> bool {
        let slow = || Some(self.coded.speed()? < FASTER * self.sent.speed()?);
        self.sending < BUSY_PACKS || slow().unwrap_or(false)
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl Compressor {
    pub(crate) fn new(wanted: Compression, ambient: &Arc<dyn Ambient>) -> Self {
        let (speeds, changed, turn) = (Mutex::default(), Notify::new(), Arc::new(Semaphore::new(1)));
        Self { wanted, ambient: Arc::clone(ambient), shared: Arc::new(Shared { speeds, changed, turn }) }
    }

    /// Tells whether any pack may be coded.
    pub(crate) fn codes(&self) -> bool {
        self.wanted != Compression::Off
    }

    /// Decides for a pack that is ready to be coded or sent; may wait for either to make sense.
    pub(crate) async fn decide(&self) -> Decided {
        match self.wanted {
            Compression::Off => return self.raw(),
            Compression::Always => return self.decided(true, None),
            Compression::Auto => {}
        }
        loop {
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if self.speeds().raw_is_better() {
                return self.raw();
            }
            tokio::select! {
                biased;
                turn = Arc::clone(&self.shared.turn).acquire_owned() => {
                    let turn = turn.expect("the semaphore is never closed");
                    if !self.speeds().raw_is_better() {
                        return self.decided(true, Some(turn));
                    }
                }
                () = changed => {}
            }
        }
    }

    /// Decides for a pack that can't be coded.
    pub(crate) fn raw(&self) -> Decided {
        let mut decided = self.decided(false, None);
        decided.send();
        decided
    }

    fn decided(&self, code: bool, turn: Option<OwnedSemaphorePermit>) -> Decided {
        Decided { code, turn, began: self.ambient.monotonic(), sending: false, compressor: self.clone() }
    }

    fn speeds(&self) -> MutexGuard<'_, Speeds> {
        self.shared.speeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was decided for a pack; it counts as on its way until this is dropped.
pub(crate) struct Decided {
    /// Whether its slices are to be coded.
    pub(crate) code: bool,
    turn: Option<OwnedSemaphorePermit>,
    began: Duration,
    sending: bool,
    compressor: Compressor,
}

impl Decided {
    /// Says that slices of `bytes` were coded: from now on the pack is on its way.
    pub(crate) fn coded(&mut self, bytes: u64) {
        if self.turn.take().is_some() {
            let mut speeds = self.compressor.speeds();
            speeds.coded.bytes += bytes;
            // Slices that do not get smaller cost a sample only, and say nothing of the others.
            if bytes > 0 {
                speeds.coded.time += self.compressor.ambient.monotonic().saturating_sub(self.began);
            }
        }
        self.send();
    }

    /// Says that `bytes` of it are in the store, sent or there before.
    pub(crate) fn sent(&self, bytes: u64) {
        self.compressor.speeds().sent.bytes += bytes;
    }

    fn send(&mut self) {
        if !std::mem::replace(&mut self.sending, true) {
            self.change(|sending| sending + 1);
        }
    }

    fn change(&self, packs: impl FnOnce(usize) -> usize) {
        let mut speeds = self.compressor.speeds();
        let now = self.compressor.ambient.monotonic();
        if speeds.sending > 0 {
            let since = speeds.since;
            speeds.sent.time += now.saturating_sub(since);
        }
        (speeds.sending, speeds.since) = (packs(speeds.sending), now);
        drop(speeds);
        self.compressor.shared.changed.notify_waiters();
    }
}

impl Drop for Decided {
    fn drop(&mut self) {
        if self.sending {
            self.change(|sending| sending - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ambient::SystemAmbient;

    const MB: u64 = 1_000_000;

    fn compressor(wanted: Compression) -> Compressor {
        Compressor::new(wanted, &SystemAmbient::shared())
    }

    async fn waits(compressor: &Compressor) -> bool {
        tokio::time::timeout(Duration::from_millis(50), compressor.decide()).await.is_err()
    }

    #[tokio::test]
    async fn an_idle_store_gets_raw_packs_and_a_busy_one_a_coded_one() {
        let compressor = compressor(Compression::Auto);
        let (first, second) = (compressor.decide().await, compressor.decide().await);
        let mut third = compressor.decide().await;
        assert_eq!([first.code, second.code, third.code], [false, false, true]);
        assert!(waits(&compressor).await, "one is coded at a time");
        third.coded(64 * MB);
        assert!(compressor.decide().await.code);
        drop((first, second, third));
        assert!(!compressor.decide().await.code, "the store is idle");
    }

    #[tokio::test]
    async fn whoever_waits_for_a_turn_is_sent_when_the_store_is_idle() {
        let compressor = compressor(Compression::Auto);
        let (first, second) = (compressor.decide().await, compressor.decide().await);
        let third = compressor.decide().await;
        let waiting = compressor.clone();
        let fourth = tokio::spawn(async move { waiting.decide().await.code });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(third.code && !fourth.is_finished());
        drop((first, second));
        assert!(!fourth.await.unwrap());
    }

    #[tokio::test]
    async fn coding_that_is_not_much_faster_than_the_store_is_given_up() {
        for (faster, coded) in [(1, false), (8, true)] {
            let compressor = compressor(Compression::Auto);
            let packs = [compressor.decide().await, compressor.decide().await];
            let second = Duration::from_secs(1);
            *compressor.speeds() = Speeds {
                sending: 2,
                since: compressor.ambient.monotonic(),
                sent: Done { bytes: 200 * MB, time: second },
                coded: Done { bytes: faster * 200 * MB, time: second },
            };
            assert_eq!(compressor.decide().await.code, coded, "{faster}");
            drop(packs);
        }
    }

    #[tokio::test]
    async fn who_wants_it_in_any_case_does_not_wait() {
        for (wanted, code) in [(Compression::Always, true), (Compression::Off, false)] {
            let compressor = compressor(wanted);
            let mut packs = Vec::new();
            for _ in 0..5 {
                packs.push(compressor.decide().await);
            }
            assert!(packs.iter().all(|pack| pack.code == code));
        }
    }
}
