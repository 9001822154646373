//! Lent bytes copied and hashed, piece after piece: each hashed before it is copied, or after, whichever turns out to
//! be faster here.
//!
//! Whoever comes first waits for the memory, and leaves the piece in the core's caches for the other. Which of the
//! two waits less is the processor's to say: to hash first was 7 % faster on Sapphire Rapids, to copy first 15 % on
//! EPYC. So now and then two pieces are timed, one in either order. Whoever lends votes: bytes that are in the caches
//! already are as fast in both. Must never matter to what is copied, nor to its digest.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::copy::copy;

/// Bytes of a piece: 256 KiB, a group. A core's second-level cache has room for it, twice where it is large.
const WARM_BYTES: usize = 256 << 10;

/// Bytes of a piece of those that are timed: 64 KiB, so that a group has enough of them for a comparison. BLAKE3 takes
/// a fiftieth longer for such.
const TIMED_BYTES: usize = 64 << 10;

/// How far an order can lead: 15 pairs, so that a core that is taken away a few times decides nothing, and an order
/// that was wrong is given up after as many.
const MOST_LEAD: i32 = 15;

/// Of so many transfers one is timed, once an order leads by as much as it can: 64. The slower order in a quarter of
/// one group of these costs a thousandth.
const TIMED: u32 = 64;

/// What is done to a piece first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum First {
    Copy,
    Hash,
}

/// Pairs of pieces of this process, compared.
#[derive(Debug, Default)]
struct Trial {
    transfers: AtomicU32,
    /// Pairs in which to copy first was faster, less the others. While nobody leads, pieces are copied first.
    lead: AtomicI32,
}

/// Cuts `from` into pieces, and copies what is wanted of each: `into.len()` bytes of `from`, those from `at` on. A
/// piece is copied before it is returned, or when the next one is asked for, as the caller has hashed it by then: who
/// stops before the end may miss the last one.
///
/// # Panics
/// Where `from` has not all that is wanted.
pub(super) fn copied<'s>(from: &'s [u8], at: usize, into: &mut [u8]) -> impl Iterator<Item = &'s [u8]> {
    static HERE: Trial = Trial { transfers: AtomicU32::new(0), lead: AtomicI32::new(0) };
    copied_as(&HERE, from, at, into)
}

fn copied_as<'s>(trial: &Trial, from: &'s [u8], mut at: usize, mut into: &mut [u8]) -> impl Iterator<Item = &'s [u8]> {
    assert!(at <= from.len() && into.len() <= from.len() - at, "what is wanted was lent");
    let mut pair = trial.pair();
    let len = if pair.is_some() { TIMED_BYTES } else { WARM_BYTES };
    let mut pieces = from.chunks(len);
    // Returned, and not copied yet.
    let mut later = None;
    std::iter::from_fn(move || {
        if let Some((from, into)) = later.take() {
            copy(from, into);
        }
        pair.iter_mut().for_each(Pair::done);
        let piece = pieces.next()?;
        let (before, rest) = piece.split_at(at.min(piece.len()));
        at -= before.len();
        let from = &rest[..rest.len().min(into.len())];
        let now = into.split_off_mut(..from.len()).unwrap_or_default();
        let timed = pair.as_mut().filter(|_| from.len() == len).and_then(Pair::begin);
        match timed.unwrap_or_else(|| trial.leader()) {
            First::Copy => copy(from, now),
            First::Hash => later = Some((from, now)),
        }
        Some(piece)
    })
}

impl Trial {
    /// Returns the order that was faster more often.
    fn leader(&self) -> First {
        if self.lead.load(Ordering::Relaxed) < 0 { First::Hash } else { First::Copy }
    }

    /// Returns what times two pieces of a transfer, if it is one of those that are timed.
    fn pair(&self) -> Option<Pair<'_>> {
        let number = self.transfers.fetch_add(1, Ordering::Relaxed);
        let lead = self.lead.load(Ordering::Relaxed);
        let timed = lead.abs() < MOST_LEAD || number.is_multiple_of(TIMED);
        // Each vote changes the lead by one: whose turn is first changes with it.
        let (one, other) = if lead % 2 == 0 { (First::Copy, First::Hash) } else { (First::Hash, First::Copy) };
        // The first piece waits for whatever a transfer begins with.
        let turns = [None, Some(one), Some(other)].into_iter();
        timed.then_some(Pair { trial: self, turns, begun: None, copy: None, hash: None })
    }

    fn compare(&self, copy: Duration, hash: Duration) {
        let vote = if copy <= hash { 1 } else { -1 };
        let voted = |lead: i32| Some((lead + vote).clamp(-MOST_LEAD, MOST_LEAD));
        // There is always a next value.
        let _ = self.lead.fetch_update(Ordering::Relaxed, Ordering::Relaxed, voted);
    }
}

/// Times two pieces of one transfer.
struct Pair<'t> {
    trial: &'t Trial,
    /// What comes first for each piece that is to come; nothing where it is not timed.
    turns: std::array::IntoIter<Option<First>, 3>,
    /// The piece that is under way, if it is timed.
    begun: Option<(First, Instant)>,
    /// What the two took.
    copy: Option<Duration>,
    hash: Option<Duration>,
}

impl Pair<'_> {
    fn begin(&mut self) -> Option<First> {
        let first = self.turns.next().flatten()?;
        self.begun = Some((first, Instant::now()));
        Some(first)
    }

    /// Ends the piece that is under way, if one is.
    fn done(&mut self) {
        if let Some((first, begun)) = self.begun.take() {
            self.took(first, begun.elapsed());
        }
    }

    fn took(&mut self, first: First, time: Duration) {
        match first {
            First::Copy => self.copy = Some(time),
            First::Hash => self.hash = Some(time),
        }
        if let (Some(copy), Some(hash)) = (self.copy, self.hash) {
            self.trial.compare(copy, hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 5 * WARM_BYTES + 77;

    fn led(lead: i32) -> Trial {
        Trial { transfers: 1.into(), lead: lead.into() }
    }

    #[test]
    fn in_either_order_and_in_turns_what_is_wanted_is_copied_and_all_is_seen() {
        const PIECE: usize = WARM_BYTES;
        let from: Vec<u8> = (0..BYTES).map(|i| (i * 31 + i / 255) as u8).collect();
        let parts = [(0, BYTES), (3, PIECE), (PIECE, 2 * PIECE), (2 * PIECE - 1, 2), (BYTES - 90, 90), (BYTES, 0)];
        for lead in [0, 1, MOST_LEAD, -MOST_LEAD] {
            for (at, len) in parts {
                let mut into = vec![0; len];
                assert!(copied_as(&led(lead), &from, at, &mut into).collect::<Vec<_>>().concat() == from);
                assert!(into == from[at..at + len], "{len} bytes at {at}, {lead}");
            }
        }
        assert_eq!(copied(&[], 0, &mut []).count(), 0);
    }

    #[test]
    #[should_panic(expected = "what is wanted was lent")]
    fn what_was_not_lent_is_not_left_out() {
        copied(&[7; 100], 50, &mut [0; 51]).for_each(drop);
    }

    #[test]
    fn the_leader_is_followed() {
        let from = vec![7; BYTES];
        for (lead, copied) in [(MOST_LEAD, 2), (-MOST_LEAD, 1)] {
            let mut into = vec![0; BYTES];
            assert_eq!(copied_as(&led(lead), &from, 0, &mut into).take(2).count(), 2);
            assert!(into.iter().filter(|byte| **byte == 7).count() == copied * WARM_BYTES, "{lead}");
        }
    }

    #[test]
    fn each_transfer_votes_until_an_order_leads_and_then_one_in_many() {
        let (from, mut into) = (vec![7; BYTES], vec![0; BYTES]);
        let trial = Trial::default();
        let lead = || trial.lead.load(Ordering::Relaxed);
        for _ in 0..MOST_LEAD {
            let before = lead();
            copied_as(&trial, &from, 0, &mut into).for_each(drop);
            assert_eq!((lead() - before).abs(), 1);
        }
        for lead in [MOST_LEAD, -MOST_LEAD] {
            let trial = led(lead);
            assert_eq!((0..3 * TIMED).filter(|_| trial.pair().is_some()).count(), 3);
        }
    }

    #[test]
    fn the_order_that_is_faster_more_often_leads_whichever_came_first() {
        let (short, long) = (Duration::from_micros(50), Duration::from_micros(60));
        for (copy, hash, leader) in [(short, long, First::Copy), (long, short, First::Hash)] {
            let trial = Trial::default();
            (0..2).for_each(|_| trial.compare(hash, copy));
            (0..3).for_each(|_| trial.compare(copy, hash));
            assert_eq!(trial.leader(), leader);
            (0..100).for_each(|_| trial.compare(copy, hash));
            assert_eq!(trial.lead.load(Ordering::Relaxed).abs(), MOST_LEAD);
        }
        for (lead, first) in [(0, First::Copy), (1, First::Hash), (-1, First::Hash), (2, First::Copy)] {
            let trial = led(lead);
            let mut pair = trial.pair().unwrap();
            assert_eq!(pair.begin(), None, "the first piece");
            let begun = [pair.begin().unwrap(), pair.begin().unwrap()];
            assert!(begun[0] == first && begun[1] != first && pair.begin().is_none());
            pair.took(begun[0], short);
            assert_eq!(trial.lead.load(Ordering::Relaxed), lead, "one alone says nothing");
            pair.took(begun[1], long);
            let vote = if first == First::Copy { 1 } else { -1 };
            assert_eq!(trial.lead.load(Ordering::Relaxed), lead + vote);
        }
    }
}
