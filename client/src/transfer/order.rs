//! Lent bytes copied and hashed, piece after piece: each hashed before it is copied, or after, whichever turns out to
//! be faster here.
//!
//! Whoever comes first waits for the memory, and leaves the piece in the core's caches for the other. Which of the two
//! waits less is the processor's to say: to hash first was 7 % faster on Sapphire Rapids, to copy first 15 % on EPYC.
//! So the first pieces of a process take turns, and are timed. Must never matter to what is copied, nor to its digest.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::copy::copy;

/// Bytes of a piece: 256 KiB, a small part of a core's own cache.
const PIECE_BYTES: usize = 256 << 10;

/// Pairs of pieces that are compared: an odd number, and enough that a core that is taken away a few times decides
/// nothing. Some 2 ms.
const PAIRS: u32 = 15;

/// What is done to a piece first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum First {
    Copy,
    Hash,
}

/// What the pieces of this process said so far.
#[derive(Debug, Default)]
struct Trial {
    /// Transfers that took part: every other one begins with the other order, as its first piece is slower.
    begun: AtomicU32,
    pairs: AtomicU32,
    /// Pairs in which to copy first was faster, less the others.
    lead: AtomicI32,
}

/// Cuts `from` into pieces, and copies what is wanted of each as it is asked for, or as the next one is: when whoever
/// asks has hashed it. Wanted are `into.len()` bytes from `at` on.
pub(super) fn copied<'s>(from: &'s [u8], at: usize, into: &mut [u8]) -> impl Iterator<Item = &'s [u8]> {
    static HERE: Trial = Trial { begun: AtomicU32::new(0), pairs: AtomicU32::new(0), lead: AtomicI32::new(0) };
    copied_as(&HERE, from, at, into)
}

fn copied_as<'s>(trial: &Trial, from: &'s [u8], mut at: usize, mut into: &mut [u8]) -> impl Iterator<Item = &'s [u8]> {
    let mut pieces = from.chunks(PIECE_BYTES);
    let mut laps = trial.laps();
    let mut hashed = None;
    std::iter::from_fn(move || {
        if let Some((from, into)) = hashed.take() {
            copy(from, into);
        }
        laps.iter_mut().for_each(Laps::done);
        let piece = pieces.next()?;
        let (before, rest) = piece.split_at(at.min(piece.len()));
        at -= before.len();
        let from = &rest[..rest.len().min(into.len())];
        let now = into.split_off_mut(..from.len()).unwrap_or_default();
        let timed = laps.as_mut().filter(|_| from.len() == PIECE_BYTES);
        match timed.map_or_else(|| trial.winner(), Laps::begin) {
            First::Copy => copy(from, now),
            First::Hash => hashed = Some((from, now)),
        }
        Some(piece)
    })
}

impl Trial {
    /// Returns the order that was faster more often.
    fn winner(&self) -> First {
        if self.lead.load(Ordering::Relaxed) < 0 { First::Hash } else { First::Copy }
    }

    /// Returns what times the pieces of a transfer, as long as more are wanted.
    fn laps(&self) -> Option<Laps<'_>> {
        let wanted = self.pairs.load(Ordering::Relaxed) < PAIRS;
        wanted.then(|| {
            let next =
                if self.begun.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { First::Copy } else { First::Hash };
            Laps { trial: self, next, begun: None, before: None }
        })
    }

    fn compare(&self, copy: Duration, hash: Duration) {
        // Transfers that began before the last pair was full may add some more.
        self.pairs.fetch_add(1, Ordering::Relaxed);
        self.lead.fetch_add(if copy <= hash { 1 } else { -1 }, Ordering::Relaxed);
    }
}

/// Times the pieces of one transfer, which take turns.
struct Laps<'t> {
    trial: &'t Trial,
    /// What comes first for the next piece.
    next: First,
    /// When the piece that is under way began.
    begun: Option<Instant>,
    /// What the first piece of a pair took.
    before: Option<Duration>,
}

impl Laps<'_> {
    fn begin(&mut self) -> First {
        self.begun = Some(Instant::now());
        let now = self.next;
        self.next = if now == First::Copy { First::Hash } else { First::Copy };
        now
    }

    /// Ends the piece that is under way, if one is.
    fn done(&mut self) {
        if let Some(begun) = self.begun.take() {
            self.took(begun.elapsed());
        }
    }

    fn took(&mut self, took: Duration) {
        match (self.before.take(), self.next) {
            (None, _) => self.before = Some(took),
            // What comes next is what the piece before had.
            (Some(copy), First::Copy) => self.trial.compare(copy, took),
            (Some(hash), First::Hash) => self.trial.compare(took, hash),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 5 * PIECE_BYTES + 77;

    fn ended(lead: i32) -> Trial {
        Trial { pairs: PAIRS.into(), lead: lead.into(), ..Trial::default() }
    }

    #[test]
    fn in_either_order_and_in_turns_what_is_wanted_is_copied_and_all_is_seen() {
        const PIECE: usize = PIECE_BYTES;
        let from: Vec<u8> = (0..BYTES).map(|i| (i * 31 + i / 255) as u8).collect();
        let parts = [(0, BYTES), (3, PIECE), (PIECE, 2 * PIECE), (2 * PIECE - 1, 2), (BYTES - 90, 90), (BYTES, 0)];
        for trial in [Trial::default(), ended(1), ended(-1)] {
            for (at, len) in parts.into_iter().chain(parts) {
                let mut into = vec![0; len];
                assert!(copied_as(&trial, &from, at, &mut into).collect::<Vec<_>>().concat() == from);
                assert!(into == from[at..at + len], "{len} bytes at {at}, {trial:?}");
            }
        }
        assert_eq!(copied(&[], 0, &mut []).count(), 0);
    }

    #[test]
    fn what_is_given_up_half_way_is_copied_only_as_far_as_it_was_seen() {
        let from = vec![7; BYTES];
        for (trial, copied) in [(ended(1), 2), (ended(-1), 1)] {
            let mut into = vec![0; BYTES];
            assert_eq!(copied_as(&trial, &from, 0, &mut into).take(2).count(), 2);
            assert!(into.iter().filter(|byte| **byte == 7).count() == copied * PIECE_BYTES, "{trial:?}");
        }
    }

    #[test]
    fn pieces_take_turns_until_enough_were_compared() {
        let (from, trial) = (vec![7; BYTES], Trial::default());
        let mut into = vec![0; BYTES];
        // Two pairs each: the fifth piece has no other, and what is left over is not timed.
        for transfers in 1..=8 {
            copied_as(&trial, &from, 0, &mut into).for_each(drop);
            assert_eq!(trial.pairs.load(Ordering::Relaxed), 2 * transfers);
        }
        assert!(trial.laps().is_none() && trial.begun.load(Ordering::Relaxed) == 8);
        copied_as(&trial, &from, 0, &mut into).for_each(drop);
        assert_eq!(trial.pairs.load(Ordering::Relaxed), 16);
    }

    #[test]
    fn the_order_that_is_faster_more_often_wins_whichever_came_first() {
        let (short, long) = (Duration::from_micros(50), Duration::from_micros(60));
        for (copy, hash, winner) in [(short, long, First::Copy), (long, short, First::Hash)] {
            let trial = Trial::default();
            for _ in 0..2 {
                trial.compare(hash, copy);
            }
            for _ in 0..3 {
                trial.compare(copy, hash);
            }
            assert_eq!(trial.winner(), winner);
        }
        for first in [First::Copy, First::Hash] {
            let trial = Trial::default();
            let mut laps = Laps { trial: &trial, next: first, begun: None, before: None };
            assert_eq!(laps.begin(), first);
            laps.took(short);
            assert_ne!(laps.begin(), first);
            laps.took(long);
            assert_eq!(trial.winner(), first);
        }
    }
}
