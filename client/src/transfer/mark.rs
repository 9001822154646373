//! Marks of memory that somebody else may write to: is it still what was hashed? For a small part of a hash's cost.
//!
//! A mark finds writes that nobody meant, as of a trainer that goes on too early, and not an adversary's: the memory is
//! the caller's own. Must never stand for a digest.

/// Words of 64 bits that are taken at once: eight, a line of the caches, so that eight multiplications overlap.
const LANES: usize = 8;

/// An odd number with as many ones as zeros: to multiply by it loses nothing, and each bit reaches many.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns the mark of some bytes. Each word goes into a lane by `(lane ^ word) * FACTOR`, which maps lanes one to one:
/// a change of one word always changes the mark, changes of several do but for one time in 2^64.
pub(crate) fn mark(bytes: &[u8]) -> u64 {
    let mut lanes = [0_u64; LANES];
    let (lines, rest) = bytes.as_chunks::<{ LANES * 8 }>();
    for line in lines {
        let (words, _) = line.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR).rotate_left(29);
        }
    }
    let tail = rest.iter().map(|byte| u64::from(*byte));
    lanes
        .into_iter()
        .chain(tail)
        .chain([bytes.len() as u64])
        .fold(0, |mark, word| (mark ^ word).wrapping_mul(FACTOR).rotate_left(29))
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
        let mut swapped = bytes.clone();
        swapped.swap(0, 64);
        assert_ne!(mark(&swapped), mark(&bytes));
    }
}
