//! The least speed of an answer: a peer that sends a byte now and then never stalls, and never ends.
//!
//! Must never give up what a slow link brings in good order, nor count time in which nobody waited for the peer.

use std::time::Duration;

/// Bytes that an answer brings in the time that it may stall, where it has so many: 6 KB/s by default, below any link
/// between a trainer and its store, even one that eight reads share.
pub(super) const PACE_BYTES: usize = 256 << 10;

/// How fast one answer comes.
#[derive(Debug)]
pub(super) struct Pace {
    stall: Duration,
    /// How long was waited for the bytes that count, and how many there are.
    waited: Duration,
    came: usize,
}

impl Pace {
    /// Starts with an answer that has `stall` for every [`PACE_BYTES`].
    pub(super) fn new(stall: Duration) -> Self {
        Self { stall, waited: Duration::ZERO, came: 0 }
    }

    /// Takes down that `bytes` more came after a wait; tells whether they come fast enough.
    pub(super) fn holds(&mut self, bytes: usize, waited: Duration) -> bool {
        self.came += bytes;
        self.waited += waited;
        // A wait that is longer than any may be was that of a process that stood still.
        if self.came >= PACE_BYTES || waited > self.stall {
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        self.waited <= self.stall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(40);

    /// Tells after how many pieces of so many bytes, each after so long, an answer is given up.
    fn given_up(bytes: usize, wait: Duration) -> Option<usize> {
        let mut pace = Pace::new(STALL);
        (0..10_000).find(|_| !pace.holds(bytes, wait))
    }

    #[test]
    fn a_byte_now_and_then_gives_no_more_time() {
        assert_eq!(given_up(1, Duration::from_secs(10)), Some(4));
        assert_eq!(given_up(1, STALL), Some(1));
        assert_eq!(given_up(1, Duration::from_millis(5)), Some(8000));
    }

    #[test]
    fn what_comes_slowly_and_in_good_order_is_taken() {
        assert_eq!(given_up(7_000, Duration::from_secs(1)), None);
        assert_eq!(given_up(PACE_BYTES, STALL), None);
        // The process was stopped meanwhile, not the peer.
        assert_eq!(given_up(1, 2 * STALL), None);
    }
}
