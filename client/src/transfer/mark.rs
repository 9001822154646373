//! Marks of memory that somebody else may write to: is it still what was hashed? For a small part of a hash's cost.
//!
//! A mark finds writes that nobody meant, as of a trainer that goes on too early, and not an adversary's: the memory is
//! the caller's own. Rust promises nothing of memory that is written to meanwhile; what is relied on is that a volatile
//! read of a word is one load. Must never stand for a digest.

#![allow(unsafe_code, reason = "what somebody else may write to is read once only by volatile reads")]

/// Words of 64 bits that are taken at once: eight, a line of the caches, so that eight multiplications overlap.
const LANES: usize = 8;

/// An odd number with as many ones as zeros: to multiply by it loses nothing, and each bit reaches many.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// A mark of the lines so far. Each word goes into a lane by `(lane ^ word) * FACTOR`, which maps lanes one to one: a
/// change of one word always changes the mark, changes of several do but for one time in 2^64.
struct Lanes([u64; LANES]);

impl Lanes {
    #[inline]
    fn take(&mut self, line: impl Iterator<Item = u64>) {
        for (lane, word) in self.0.iter_mut().zip(line) {
            *lane = (*lane ^ word).wrapping_mul(FACTOR).rotate_left(29);
        }
    }

    /// Returns the mark of `len` bytes that end with `rest`, which is less than a line.
    fn end(self, rest: &[u8], len: usize) -> u64 {
        let rest = rest.iter().map(|byte| u64::from(*byte));
        let all = self.0.into_iter().chain(rest).chain([len as u64]);
        all.fold(0, |mark, word| (mark ^ word).wrapping_mul(FACTOR).rotate_left(29))
    }
}

/// Returns the mark of some bytes.
pub(crate) fn mark(bytes: &[u8]) -> u64 {
    let mut lanes = Lanes([0; LANES]);
    let (lines, rest) = bytes.as_chunks::<{ LANES * 8 }>();
    for line in lines {
        lanes.take(line.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)));
    }
    lanes.end(rest, bytes.len())
}

/// Copies `from` into `into`, and returns the mark of the copy, for no more than the copy costs: each byte is read
/// once, so that what somebody writes to `from` meanwhile is in both or in neither.
///
/// # Panics
/// Where they do not have as many bytes.
pub(crate) fn copy_marked(from: &[u8], into: &mut [u8]) -> u64 {
    assert_eq!(from.len(), into.len(), "a copy is as long");
    let mut lanes = Lanes([0; LANES]);
    let (lines, rest) = from.as_chunks::<{ LANES * 8 }>();
    let (copies, copy_of_rest) = into.as_chunks_mut::<{ LANES * 8 }>();
    for (line, copy) in lines.iter().zip(copies) {
        let words = line.as_chunks::<8>().0.iter().zip(copy.as_chunks_mut::<8>().0);
        lanes.take(words.map(|(word, copy)| {
            *copy = read_once(word);
            u64::from_le_bytes(*copy)
        }));
    }
    for (byte, copy) in rest.iter().zip(copy_of_rest.iter_mut()) {
        // SAFETY: a reference is to a byte that can be read.
        *copy = unsafe { std::ptr::from_ref(byte).read_volatile() };
    }
    lanes.end(copy_of_rest, from.len())
}

/// Reads a word that somebody else may write to: once, whatever the compiler would rather do.
#[inline]
fn read_once(word: &[u8; 8]) -> [u8; 8] {
    /// Eight bytes at any address.
    #[repr(C, packed)]
    struct Word(u64);
    // SAFETY: the reference is to eight bytes that can be read; the type takes them at any address, whatever they are.
    unsafe { std::ptr::from_ref(word).cast::<Word>().read_volatile() }.0.to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_counts_and_so_do_order_and_length() {
        let bytes: Vec<u8> = (0..200_u32).map(|i| (i * 7 + i / 16) as u8).collect();
        for len in [0, 1, 7, 8, 63, 64, 65, 128, 200] {
            let whole = mark(&bytes[..len]);
            for bit in 0..len * 8 {
                let mut changed = bytes[..len].to_vec();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(mark(&changed), whole, "bit {bit} of {len} bytes");
            }
            let longer = [&bytes[..len], &[0]].concat();
            assert_ne!(mark(&longer), whole);
        }
        for (len, at, to) in [(0, 0, 0), (7, 1, 0), (64, 0, 3), (65, 5, 1), (128, 8, 9), (190, 7, 2)] {
            let mut copies = [0xaa; 200];
            assert_eq!(copy_marked(&bytes[at..at + len], &mut copies[to..to + len]), mark(&bytes[at..at + len]));
            assert_eq!(copies[to..to + len], bytes[at..at + len]);
            assert!(copies[..to].iter().chain(&copies[to + len..]).all(|byte| *byte == 0xaa));
        }
        let mut swapped = bytes.clone();
        swapped.swap(0, 64);
        assert_ne!(mark(&swapped), mark(&bytes));
    }
}
