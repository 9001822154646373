//! Draws that are a pure function of what they are for.
//!
//! Must never take a number from anywhere but its key: the same key gives the same draws on every machine, for ever.

use blake3::OutputReader;

use super::spec::OrderId;

/// Domain of the keys: another version of the algorithm has another one.
const CONTEXT: &str = "gigastore 2026-11 dataset order, algorithm 1";

/// Bytes that are taken from the stream at a time: 4 KiB, at which BLAKE3's output is about as fast as it gets.
const BUFFER_BYTES: usize = 4096;

/// What is drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// The permutation of all row groups of an epoch.
    Groups,
    /// The permutation of a window's documents: the lane's dealing number, and the window's number.
    Documents {
        /// The lane, by the order of dealing.
        lane: u32,
        /// The window of the lane.
        window: u32,
    },
}

/// A stream of uniform draws.
pub(super) struct Draws {
    stream: OutputReader,
    buffer: [u8; BUFFER_BYTES],
    at: usize,
}

impl Draws {
    /// Starts the draws for one purpose in one epoch: the extended output of BLAKE3 in its mode of deriving keys, over
    /// order id, seed, epoch and purpose, all numbers of 64 bits and little-endian.
    pub(super) fn new(order: &OrderId, seed: u64, epoch: u64, purpose: Purpose) -> Self {
        let (kind, lane, window) = match purpose {
            Purpose::Groups => (1u64, 0, 0),
            Purpose::Documents { lane, window } => (2, lane, window),
        };
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(order.digest().as_bytes());
        for number in [seed, epoch, kind, u64::from(lane), u64::from(window)] {
            hasher.update(&number.to_le_bytes());
        }
        Self { stream: hasher.finalize_xof(), buffer: [0; BUFFER_BYTES], at: BUFFER_BYTES }
    }

    /// Draws a number below `n`, which is not 0, each with the same probability. Source: Lemire, "Fast Random Integer
    /// Generation in an Interval", 2019.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        loop {
            let product = u128::from(self.number()) * u128::from(n);
            let (high, low) = ((product >> 64) as u64, product as u64);
            // The remainder is below `n`: it is computed only where it can matter.
            if low >= n || low >= n.wrapping_neg() % n {
                return high;
            }
        }
    }

    /// Draws a permutation of `0..n`: Fisher and Yates, from the last place down to the second.
    pub(super) fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut places: Vec<u32> = (0..n).collect();
        for i in (1..n).rev() {
            let j = self.below(u64::from(i) + 1);
            places.swap(i as usize, j as usize);
        }
        places
    }

    fn number(&mut self) -> u64 {
        if self.at == BUFFER_BYTES {
            self.stream.fill(&mut self.buffer);
            self.at = 0;
        }
        let bytes = &self.buffer[self.at..self.at + 8];
        self.at += 8;
        u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn permutations_hold_every_place_once_and_differ_by_purpose() {
        let order = OrderId::from(Digest::of(b"some files"));
        let draw = |epoch, purpose| Draws::new(&order, 7, epoch, purpose).permutation(1000);
        let first = draw(0, Purpose::Groups);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_eq!(first, draw(0, Purpose::Groups));
        assert_ne!(first, draw(1, Purpose::Groups));
        assert_ne!(first, draw(0, Purpose::Documents { lane: 0, window: 0 }));
        assert_eq!(Draws::new(&order, 7, 0, Purpose::Groups).permutation(0), Vec::<u32>::new());
        assert_eq!(Draws::new(&order, 7, 0, Purpose::Groups).permutation(1), [0]);
    }

    #[test]
    fn draws_whose_low_half_is_too_low_are_thrown_away() {
        let order = OrderId::from(Digest::of(b""));
        // Just above a half: nearly every second draw is one of them.
        let n = (1u128 << 63) + 1;
        let (mut raw, mut draws) =
            (Draws::new(&order, 1, 2, Purpose::Groups), Draws::new(&order, 1, 2, Purpose::Groups));
        let (mut kept, mut thrown) = (0, 0);
        for _ in 0..2_000 {
            let product = u128::from(raw.number()) * n;
            if product % (1 << 64) < ((1 << 64) - n) % n {
                thrown += 1;
                continue;
            }
            kept += 1;
            assert_eq!(u128::from(draws.below(n as u64)), product >> 64);
        }
        assert!(kept > 800 && thrown > 800, "{kept} kept, {thrown} thrown away");
    }

    #[test]
    fn draws_are_uniform() {
        let order = OrderId::from(Digest::of(b""));
        let mut draws = Draws::new(&order, 1, 2, Purpose::Groups);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[draws.below(7) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
    }
}
