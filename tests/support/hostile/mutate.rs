//! Bytes that are like others: what a fuzzer does where it can't see which code they reach.
//!
//! Must never draw a number but from the given stream, so that a number gives a case again.

use crate::model::XorShift;

/// Longest input.
const MOST_BYTES: usize = 64 << 10;

/// Numbers at which lengths and offsets go wrong.
const EDGES: [u64; 12] = [0, 1, 7, 8, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, i64::MAX as u64, u64::MAX];

/// Returns one of the seeds with some changes.
pub fn mutated(random: &mut XorShift, seeds: &[Vec<u8>]) -> Vec<u8> {
    let pick = |random: &mut XorShift| &seeds[random.below(seeds.len() as u64) as usize];
    let mut bytes = pick(random).clone();
    for _ in 0..=random.below(6) {
        let other = pick(random);
        change(random, &mut bytes, other);
        bytes.truncate(MOST_BYTES);
    }
    bytes
}

fn change(random: &mut XorShift, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(bytes.len() as u64 + 1) as usize;
    let len = (1 << random.below(9)) as usize;
    let end = (at + len).min(bytes.len());
    match random.below(10) {
        0 | 1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        2 if at < bytes.len() => bytes[at] = random.next_u64() as u8,
        3 => {
            let edge = EDGES[random.below(EDGES.len() as u64) as usize].to_le_bytes();
            let width = (1 << random.below(4)) as usize;
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&edge[..end - at]);
        }
        4 => {
            let edge = EDGES[random.below(EDGES.len() as u64) as usize].to_string();
            bytes.splice(at..at, edge.bytes());
        }
        5 => drop(bytes.drain(at..end)),
        6 => {
            let copied = bytes[at..end].to_vec();
            let to = random.below(bytes.len() as u64 + 1) as usize;
            bytes.splice(to..to, copied);
        }
        7 => {
            let from = random.below(other.len() as u64 + 1) as usize;
            let taken = &other[from..(from + len).min(other.len())];
            bytes.splice(at..end, taken.iter().copied());
        }
        8 => bytes.truncate(at),
        _ => bytes
            .splice(at..at, [b'"', b'\\', b'/', b'%', 0, 0xff, b'\r', b'\n'][random.below(8) as usize..].to_vec())
            .for_each(drop),
    }
}
