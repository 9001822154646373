//! How many reads are in flight: found by trying, not by a setting.
//!
//! A disk is at its best with a few reads, an object store that gives each request its share with hundreds. The window
//! doubles for as long as that brings more bytes a second, and then stays, with a look further up now and then, and
//! down where the rate falls. Must never grow past what the budget of bytes in flight holds: the reads wait for it.

use std::time::Duration;

/// Reads in flight at first of what is asked of others: enough for both sides of a connection to be busy.
const FIRST: usize = 8;

/// The same of files: enough that a disk is never idle while what it brought is hashed.
const FIRST_OF_FILES: usize = 16;

/// Most reads in flight: 128 of 8 MiB are twice the default budget.
const MOST: usize = 128;

/// A wider window stays only where it brings so much more.
const GAIN: f64 = 1.15;

/// A rate that falls to this share of the best is another state of the world: the search begins anew below.
const LOSS: f64 = 0.6;

/// Rounds between two looks further up.
const LOOK_EVERY: u32 = 16;

/// A window of reads.
#[derive(Debug)]
pub(crate) struct Window {
    size: usize,
    /// The best rate of this search, in bytes a second, and the window that had it.
    best: (f64, usize),
    searching: bool,
    rounds: u32,
    round: Round,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    began: Duration,
    reads: usize,
    bytes: u64,
}

impl Window {
    /// Starts at `now`, a time of the ambient's clock, for reads of files of this machine or of what others have.
    pub(crate) fn new(files: bool, now: Duration) -> Self {
        let round = Round { began: now, reads: 0, bytes: 0 };
        let first = if files { FIRST_OF_FILES } else { FIRST };
        Self { size: first, best: (0.0, first), searching: true, rounds: 0, round }
    }

    /// Returns how many reads may be in flight.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Counts a read of `bytes` that is done.
    pub(crate) fn done(&mut self, bytes: u64, now: Duration) {
        self.round.reads += 1;
        self.round.bytes += bytes;
        // A round is as many reads as are in flight: about the time of one, where each has its share. Longer rounds
        // would spend a short restore on the search.
        if self.round.reads < self.size {
            return;
        }
        let seconds = now.saturating_sub(self.round.began).as_secs_f64().max(1e-6);
        self.judge(self.round.bytes as f64 / seconds);
        self.round = Round { began: now, reads: 0, bytes: 0 };
    }

    fn judge(&mut self, rate: f64) {
        self.rounds += 1;
        if self.searching {
            if rate > self.best.0 * GAIN {
                self.best = (rate, self.size);
                self.size = (self.size * 2).min(MOST);
                self.searching = self.size > self.best.1;
            } else {
                self.searching = false;
                self.size = self.best.1;
            }
            self.rounds = 0;
        } else if rate < self.best.0 * LOSS {
            self.size = (self.size / 2).max(1);
            self.best = (rate, self.size);
            self.rounds = 0;
        } else if self.rounds >= LOOK_EVERY {
            self.best = (rate, self.size);
            self.size = (self.size * 2).min(MOST);
            self.searching = true;
            self.rounds = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u64 = 8 << 20;

    /// Runs reads against a store of `each` bytes a second and request and `all` in total; returns windows over time.
    fn run(each: f64, all: f64, reads: usize) -> Vec<usize> {
        let mut now = 0.0;
        let mut window = Window::new(false, Duration::ZERO);
        (0..reads)
            .map(|_| {
                now += READ as f64 / (each * window.size() as f64).min(all);
                window.done(READ, Duration::from_secs_f64(now));
                window.size()
            })
            .collect()
    }

    #[test]
    fn a_store_that_gives_each_request_its_share_gets_many() {
        let sizes = run(40e6, f64::INFINITY, 256);
        assert!(sizes[60] >= 64, "2 GiB are 256 reads: {sizes:?}");
        assert_eq!(sizes.iter().max(), Some(&MOST));
    }

    #[test]
    fn a_disk_is_left_with_few() {
        let sizes = run(1e9, 2e9, 4000);
        let high = sizes.iter().filter(|size| **size > FIRST).count();
        assert!(sizes.iter().all(|size| *size <= 2 * FIRST), "{sizes:?}");
        assert!(high * 4 < sizes.len(), "{high} of {} windows were over {FIRST}", sizes.len());
    }

    #[test]
    fn a_store_that_slows_down_is_asked_less_and_found_again() {
        let mut window = Window::new(false, Duration::ZERO);
        let mut now = 0.0;
        let mut read = |window: &mut Window, rate: f64| {
            now += READ as f64 / rate;
            window.done(READ, Duration::from_secs_f64(now));
        };
        (0..400).for_each(|_| {
            let rate = window.size() as f64 * 40e6;
            read(&mut window, rate);
        });
        assert_eq!(window.size(), MOST);
        (0..3000).for_each(|_| read(&mut window, 100e6));
        assert!(window.size() <= 64, "{window:?}");
        (0..6000).for_each(|_| {
            let rate = window.size() as f64 * 40e6;
            read(&mut window, rate);
        });
        assert!(window.size() >= 64, "{window:?}");
    }
}
