//! The least speed of an answer: a peer that sends a byte now and then never stalls, and never ends.
//!
//! Must never give up what a slow link brings in good order.

use std::time::{Duration, Instant};

/// Bytes that an answer brings in the time that it may stall, where it has so many: 6 KB/s by default, below any link
/// between a trainer and its store, even one that eight reads share.
const PACE_BYTES: usize = 256 << 10;

/// How fast one answer comes.
#[derive(Debug)]
pub(super) struct Pace {
    stall: Duration,
    /// When the bytes that count began to come.
    since: Instant,
    came: usize,
}

impl Pace {
    /// Starts with an answer that has `stall` for every [`PACE_BYTES`].
    pub(super) fn new(stall: Duration) -> Self {
        Self { stall, since: Instant::now(), came: 0 }
    }

    /// Takes down that `bytes` more came; tells whether they come fast enough.
    pub(super) fn holds(&mut self, bytes: usize) -> bool {
        self.came += bytes;
        if self.came >= PACE_BYTES {
            (self.since, self.came) = (Instant::now(), 0);
            return true;
        }
        self.since.elapsed() <= self.stall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_now_and_then_gives_no_more_time() {
        let mut pace = Pace::new(Duration::from_millis(40));
        assert!((0..100).all(|_| pace.holds(1)));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!pace.holds(1));
        // A piece that is large enough is worth the time it took.
        assert!(pace.holds(PACE_BYTES) && pace.holds(1));
    }
}
