//! Byte ranges of stored objects, and how several become few reads.
//!
//! Must never read: it only computes.

use std::fmt;

/// Bytes `start..end` of one object; never empty backwards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

/// Why two numbers are not a [`ByteRange`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a byte range: start {start}, end {end} (expected start <= end)")]
pub struct RangeError {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// Returns `start..end`.
    pub const fn new(start: u64, end: u64) -> Result<Self, RangeError> {
        if start <= end { Ok(Self { start, end }) } else { Err(RangeError { start, end }) }
    }

    /// Returns the `len` bytes from `start`; fails where the end passes 2^64.
    pub const fn with_len(start: u64, len: u64) -> Result<Self, RangeError> {
        match start.checked_add(len) {
            Some(end) => Ok(Self { start, end }),
            None => Err(RangeError { start, end: u64::MAX }),
        }
    }

    /// Returns the first byte's position.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Returns the position after the last byte.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Returns the number of bytes.
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Tells whether the range has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Cuts the range at the multiples of `bytes`, of which there are some.
    pub fn cut(self, bytes: u64) -> impl Iterator<Item = Self> {
        let from = move |start: u64| {
            let end = (start / bytes + 1).saturating_mul(bytes).min(self.end);
            (start < end).then_some(Self { start, end })
        };
        std::iter::successors(from(self.start), move |last| from(last.end))
    }

    /// Tells whether `other` lies inside.
    pub const fn contains(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}..{}", self.start, self.end)
    }
}

/// Several wanted ranges that are read as one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read {
    /// What is read.
    pub range: ByteRange,
    /// Positions, in the list given to [`coalesce`], of the ranges that lie inside.
    pub wanted: Vec<usize>,
}

/// Merges ranges of one object into reads: neighbours at most `max_gap` bytes apart are read together as long as the
/// read stays within `max_len` (a single longer range is read alone). Overlapping ranges always share bytes. Reads come
/// sorted; every wanted range lies in exactly one. Takes O(n log n).
pub fn coalesce(ranges: &[ByteRange], max_gap: u64, max_len: u64) -> Vec<Read> {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&i| (ranges[i].start, ranges[i].end));
    let mut reads: Vec<Read> = Vec::new();
    for i in order {
        let range = ranges[i];
        if let Some(last) = reads.last_mut() {
            let end = last.range.end.max(range.end);
            let gap = range.start.saturating_sub(last.range.end);
            let overlaps = range.start < last.range.end;
            if overlaps || (gap <= max_gap && end - last.range.start <= max_len) {
                last.range.end = end;
                last.wanted.push(i);
                continue;
            }
        }
        reads.push(Read { range, wanted: vec![i] });
    }
    reads
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).unwrap()
    }

    #[test]
    fn neighbours_merge_within_the_bounds() {
        let reads = coalesce(&[range(100, 110), range(0, 10), range(12, 20), range(5, 8)], 4, 1000);
        assert_eq!(
            reads,
            [Read { range: range(0, 20), wanted: vec![1, 3, 2] }, Read { range: range(100, 110), wanted: vec![0] }]
        );
        assert_eq!(coalesce(&[range(0, 10), range(10, 20)], 4, 15).len(), 2);
        assert!(ByteRange::new(2, 1).is_err());
        assert!(ByteRange::with_len(u64::MAX, 1).is_err());
    }

    #[test]
    fn cuts_lie_at_multiples_and_no_list_of_them_is_made() {
        let cuts = |range: ByteRange| range.cut(10).collect::<Vec<_>>();
        assert_eq!(cuts(range(5, 25)), [range(5, 10), range(10, 20), range(20, 25)]);
        assert_eq!(cuts(range(10, 20)), [range(10, 20)]);
        assert!(cuts(range(7, 7)).is_empty());
        assert_eq!(range(0, u64::MAX).cut(2 << 20).nth(1000), Some(range(1000 << 21, 1001 << 21)));
        assert_eq!(range(u64::MAX - 1, u64::MAX).cut(10).count(), 1);
    }

    proptest! {
        #[test]
        fn every_range_lies_in_exactly_one_read(
            list in prop::collection::vec((0u64..5000, 0u64..300), 0..60), gap in 0u64..50, max in 1u64..2000,
        ) {
            let ranges: Vec<ByteRange> = list.iter().map(|&(s, l)| ByteRange::with_len(s, l).unwrap()).collect();
            let reads = coalesce(&ranges, gap, max);
            let mut seen = vec![0; ranges.len()];
            for pair in reads.windows(2) {
                prop_assert!(pair[0].range.end() <= pair[1].range.start());
            }
            for read in &reads {
                for &i in &read.wanted {
                    seen[i] += 1;
                    prop_assert!(read.range.contains(&ranges[i]));
                }
            }
            prop_assert!(seen.iter().all(|&n| n == 1));
        }
    }
}
