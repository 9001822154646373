//! Advice to the system about memory: huge pages, as a first write to each page of 4 KiB costs more than what is
//! written; and which memory it may take.
//!
//! Must never change what memory holds that somebody uses.

#![allow(unsafe_code, reason = "no safe interface takes a vector's memory, or advice that empties memory")]

use memmap2::MmapMut;

/// Bytes of a huge page of x86-64 and of most others: 2 MiB, and many pages of any usual size.
const PAGE_BYTES: usize = 2 << 20;

/// Asks for huge pages for the room that a vector has left.
#[cfg(target_os = "linux")]
pub(crate) fn ask<T>(values: &mut Vec<T>) {
    let room = values.spare_capacity_mut().as_mut_ptr_range();
    let (start, end) = (room.start.cast::<u8>(), room.end.cast::<u8>());
    let skipped = start.align_offset(PAGE_BYTES);
    let len = (end.addr() - start.addr()).saturating_sub(skipped) / PAGE_BYTES * PAGE_BYTES;
    if len > 0 {
        // SAFETY: the range is within memory that is `values`' own, and begins and ends at pages. The advice changes
        // neither what it holds nor whether it may be used; where the system does not take it, nothing is different.
        unsafe { libc::madvise(start.add(skipped).cast(), len, libc::MADV_HUGEPAGE) };
    }
}

/// Elsewhere the system decides.
#[cfg(not(target_os = "linux"))]
pub(crate) fn ask<T>(_: &mut Vec<T>) {}

/// Lets the system take the pages of a map that nobody uses, if it needs memory before they are written to again. Each
/// page must be written to before any is looked at.
#[cfg(target_os = "linux")]
pub(crate) fn lend(map: &MmapMut) {
    // SAFETY: the map is private, and its owner's alone. What it holds changes, if at all, to zeros, before it is
    // written to again, and until then nobody looks at it: the buffers' shelf writes to each page of what it hands out.
    // Where the system does not take the advice, nothing is different.
    let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::Free) };
}

/// Elsewhere it stays.
#[cfg(not(target_os = "linux"))]
pub(crate) fn lend(_: &MmapMut) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_as_it_was() {
        for len in [0, 1, PAGE_BYTES / 4, 5 * PAGE_BYTES] {
            let mut values = vec![7u16; 3];
            values.reserve(len);
            ask(&mut values);
            values.resize(len + 3, 8);
            assert_eq!((&values[..3], values[3..].iter().all(|value| *value == 8)), (&[7; 3][..], true));
        }
    }
}
