//! Many pieces of memory into one buffer, as fast as memory takes them: on several cores, with stores that go past the
//! caches.
//!
//! An ordinary store first reads the line that it overwrites, and drives out of the caches what the caller works on.
//! The system's `memcpy` avoids both only above some tens of MiB, which few tensors have: below, it was measured at
//! half the speed. Must never allocate for each piece.

#![allow(unsafe_code, reason = "stores past the caches are intrinsics")]

use std::sync::{Mutex, PoisonError};

use gigastore_formats::ambient::Ambient;

/// Bytes that one thread takes at a time: 8 MiB, some 2 ms, so that a slow core keeps the others waiting no longer.
const PIECE_BYTES: usize = 8 << 20;

/// Threads that copy at once, at most: 8 fill the memory channels of one socket; more only take turns.
pub(crate) const COPY_THREADS: usize = 8;

/// Pieces shorter than this are copied with ordinary stores: 4 KiB, as a few lines are not worth a barrier.
const SHORT_BYTES: usize = 4 << 10;

/// Bytes of a line of the caches of x86-64.
#[cfg(target_arch = "x86_64")]
const LINE_BYTES: usize = 64;

/// Copies all of `from`, in order, into `into`, on up to 8 threads.
///
/// # Panics
/// Where they do not have as many bytes.
pub fn gather(ambient: &dyn Ambient, from: &[&[u8]], into: &mut [u8]) {
    let bytes: usize = from.iter().map(|part| part.len()).sum();
    assert_eq!(bytes, into.len(), "what is gathered fills its buffer");
    // Where in `from` each piece starts: the part, and the byte of it.
    let mut starts = Vec::with_capacity(bytes.div_ceil(PIECE_BYTES));
    let mut before = 0;
    for (i, part) in from.iter().enumerate() {
        while starts.len() * PIECE_BYTES < before + part.len() {
            starts.push((i, starts.len() * PIECE_BYTES - before));
        }
        before += part.len();
    }
    in_pieces(ambient, into, |number, mut piece| {
        let (first, mut skipped) = starts[number];
        for part in &from[first..] {
            let part = &part[skipped..];
            let (now, rest) = piece.split_at_mut(part.len().min(piece.len()));
            copy(&part[..now.len()], now);
            (piece, skipped) = (rest, 0);
            if piece.is_empty() {
                break;
            }
        }
    });
}

/// Calls `each` with every piece of `whole` and its number, on up to [`COPY_THREADS`] threads.
pub(crate) fn in_pieces(ambient: &dyn Ambient, whole: &mut [u8], each: impl Fn(usize, &mut [u8]) + Sync) {
    let threads = whole.len().div_ceil(PIECE_BYTES).min(COPY_THREADS);
    let pieces = Mutex::new(whole.chunks_mut(PIECE_BYTES).enumerate());
    ambient.together(threads, &|| {
        loop {
            let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, piece)) = next else { return };
            each(number, piece);
        }
    });
}

/// Copies `from` into `into`, which is as long.
pub(crate) fn copy(from: &[u8], into: &mut [u8]) {
    if cfg!(target_arch = "x86_64") && into.len() >= SHORT_BYTES {
        past_caches(from, into);
    } else {
        into.copy_from_slice(from);
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn past_caches(from: &[u8], into: &mut [u8]) {
    into.copy_from_slice(from);
}

#[cfg(target_arch = "x86_64")]
fn past_caches(from: &[u8], into: &mut [u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};

    assert_eq!(from.len(), into.len(), "both have the same bytes");
    let head = into.as_ptr().align_offset(LINE_BYTES).min(into.len());
    let body = (into.len() - head) / LINE_BYTES * LINE_BYTES;
    let (from_head, from) = from.split_at(head);
    let (into_head, into) = into.split_at_mut(head);
    let (from_body, from_tail) = from.split_at(body);
    let (into_body, into_tail) = into.split_at_mut(body);
    into_head.copy_from_slice(from_head);
    into_tail.copy_from_slice(from_tail);
    for (from, into) in from_body.chunks_exact(LINE_BYTES).zip(into_body.chunks_exact_mut(LINE_BYTES)) {
        let (from, into) = (from.as_ptr().cast::<__m128i>(), into.as_mut_ptr().cast::<__m128i>());
        // SAFETY: SSE2 is part of x86-64. Each of `from` and `into` is the start of 64 bytes that are ours to read and
        // to write, four times 16; loads take any alignment, and the body of `into` was cut to start at a line, so that
        // all its stores are aligned.
        unsafe {
            let (a, b) = (_mm_loadu_si128(from), _mm_loadu_si128(from.add(1)));
            let (c, d) = (_mm_loadu_si128(from.add(2)), _mm_loadu_si128(from.add(3)));
            _mm_stream_si128(into, a);
            _mm_stream_si128(into.add(1), b);
            _mm_stream_si128(into.add(2), c);
            _mm_stream_si128(into.add(3), d);
        }
    }
    // Such stores are ordered with nothing: before another thread is told of the bytes, they must have arrived.
    // SAFETY: SSE is part of x86-64; the instruction has no operands.
    #[allow(unused_unsafe, reason = "newer compilers know it for safe")]
    unsafe {
        _mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ambient::SystemAmbient;

    #[test]
    fn every_length_and_alignment_arrives_and_nothing_beside_it() {
        let from: Vec<u8> = (0..20_000u32).map(|i| (i * 31 + i / 256) as u8).collect();
        for len in [0, 1, 63, 64, 65, 4095, 4096, 4097, 8191, 12_345] {
            for (at, to) in [(0, 0), (1, 0), (0, 1), (3, 61), (64, 7)] {
                let mut into = vec![0xAA; 20_000];
                copy(&from[at..at + len], &mut into[to..to + len]);
                assert_eq!(into[to..to + len], from[at..at + len], "{len} bytes from {at} to {to}");
                assert!(into[..to].iter().chain(&into[to + len..]).all(|byte| *byte == 0xAA));
            }
        }
    }

    #[test]
    fn parts_of_any_size_are_gathered_in_order() {
        let whole: Vec<u8> = (0..(3 * PIECE_BYTES + 77) as u32).map(|i| (i ^ (i >> 9)) as u8).collect();
        let ambient = SystemAmbient::shared();
        for cuts in [vec![], vec![0, 1, 1, 2, PIECE_BYTES, 2 * PIECE_BYTES + 1], vec![PIECE_BYTES - 1; 2]] {
            let mut parts = Vec::new();
            let mut start = 0;
            for cut in cuts.into_iter().chain([whole.len()]) {
                parts.push(&whole[start..cut]);
                start = cut;
            }
            let mut into = vec![0; whole.len()];
            gather(&*ambient, &parts, &mut into);
            assert!(into == whole, "{:?}", parts.iter().map(|part| part.len()).collect::<Vec<_>>());
        }
        gather(&*ambient, &[], &mut []);
        let small: Vec<&[u8]> = whole.chunks(4096).collect();
        let mut into = vec![0; whole.len()];
        gather(&*ambient, &small, &mut into);
        assert!(into == whole);
    }
}
