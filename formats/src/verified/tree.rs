//! The group tree of one content: chaining values that merge to its BLAKE3 root.
//!
//! Must never trust values that were not merged to a known root first.

use std::ops::Range;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use crate::digest::{Digest, hex, unhex};
use crate::limits::GROUP_BYTES;
use crate::range::ByteRange;

/// The groups of one content of `len` bytes, proven to belong to `root`.
///
/// Content of at most one group keeps no values: its root is the check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupTree {
    root: Digest,
    len: u64,
    /// Bytes of one group: [`GROUP_BYTES`], or those of an older form.
    group: u64,
    values: Vec<ChainingValue>,
}

/// Why group values do not make the tree they are said to make.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The number of values does not fit the length.
    #[error("{len} bytes have {expected} group values, not {actual}")]
    Count {
        /// Bytes of the content.
        len: u64,
        /// Values that this length has.
        expected: u64,
        /// Values that were given.
        actual: u64,
    },
    /// The values merge to another root.
    #[error("the group values merge to {actual}, not to the expected {expected}")]
    Root {
        /// The root that was promised.
        expected: Digest,
        /// The root that the values have.
        actual: Digest,
    },
    /// The values are not hex digits, 64 a value.
    #[error("group values are not a whole number of 64 lower-case hex digits")]
    Hex,
}

/// Bytes that are not those of their group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("group {index} ({range}) does not match its BLAKE3 value: expected {expected}, actual {actual}")]
pub struct GroupMismatch {
    /// Which group.
    pub index: u64,
    /// The group's bytes within the content.
    pub range: ByteRange,
    /// The value that the tree holds, hex (the root, where there is only one group).
    pub expected: Digest,
    /// The value that the bytes have.
    pub actual: Digest,
}

/// Returns the chaining value of group `index`; `bytes` are at most one group and not empty.
///
/// Only for content of more than one group: a single group's check is its root, [`Digest::of`].
pub fn group_value(index: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(index * GROUP_BYTES);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

impl GroupTree {
    /// Hashes `content` on this thread.
    pub fn of(content: &[u8]) -> Self {
        let len = content.len() as u64;
        if len.div_ceil(GROUP_BYTES) <= 1 {
            return Self { root: Digest::of(content), len, group: GROUP_BYTES, values: Vec::new() };
        }
        let pieces = content.chunks(GROUP_BYTES as usize).enumerate();
        let values: Vec<_> = pieces.map(|(i, bytes)| group_value(i as u64, bytes)).collect();
        Self { root: merge(GROUP_BYTES, len, &values), len, group: GROUP_BYTES, values }
    }

    /// Returns the tree of content of at most one group.
    pub fn single(len: u64, root: Digest) -> Result<Self, TreeError> {
        Self::proven(root, len, Vec::new())
    }

    /// Merges values computed elsewhere, in any order on any threads, into the tree they make.
    ///
    /// For content of more than one group; [`TreeError::Count`] otherwise, or where values are missing.
    pub fn merged(len: u64, values: Vec<ChainingValue>) -> Result<Self, TreeError> {
        Self::merged_in(GROUP_BYTES, len, values)
    }

    /// Like [`merged`](Self::merged), in groups of `group` bytes: a power of two, of a BLAKE3 chunk or more, so that
    /// each is a whole subtree.
    pub(super) fn merged_in(group: u64, len: u64, values: Vec<ChainingValue>) -> Result<Self, TreeError> {
        let expected = len.div_ceil(group);
        if expected <= 1 || values.len() as u64 != expected {
            return Err(TreeError::Count { len, expected, actual: values.len() as u64 });
        }
        Ok(Self { root: merge(group, len, &values), len, group, values })
    }

    /// Takes values from an untrusted place and proves that they merge to `root`.
    pub fn proven(root: Digest, len: u64, values: Vec<ChainingValue>) -> Result<Self, TreeError> {
        Self::proven_in(GROUP_BYTES, root, len, values)
    }

    /// Like [`proven`](Self::proven), in groups of `group` bytes.
    pub(super) fn proven_in(group: u64, root: Digest, len: u64, values: Vec<ChainingValue>) -> Result<Self, TreeError> {
        if len.div_ceil(group) <= 1 {
            let actual = values.len() as u64;
            if actual != 0 {
                return Err(TreeError::Count { len, expected: 0, actual });
            }
            return Ok(Self { root, len, group, values });
        }
        let tree = Self::merged_in(group, len, values)?;
        if tree.root == root { Ok(tree) } else { Err(TreeError::Root { expected: root, actual: tree.root }) }
    }

    /// Like [`proven`](Self::proven), from the hex text that [`values_hex`](Self::values_hex) writes.
    pub fn proven_hex(root: Digest, len: u64, text: &str) -> Result<Self, TreeError> {
        Self::proven_hex_in(GROUP_BYTES, root, len, text)
    }

    /// Like [`proven_hex`](Self::proven_hex), in groups of `group` bytes.
    pub(crate) fn proven_hex_in(group: u64, root: Digest, len: u64, text: &str) -> Result<Self, TreeError> {
        // The count is checked before anything is allocated for the values.
        let (expected, actual) = (len.div_ceil(group), (text.len() / 64) as u64);
        if !text.len().is_multiple_of(64) {
            return Err(TreeError::Hex);
        }
        if (expected <= 1 && actual != 0) || (expected > 1 && actual != expected) {
            return Err(TreeError::Count { len, expected: if expected <= 1 { 0 } else { expected }, actual });
        }
        let bytes = unhex(text).ok_or(TreeError::Hex)?;
        let values = bytes.as_chunks::<32>().0.to_vec();
        Self::proven_in(group, root, len, values)
    }

    /// Returns the plain BLAKE3 of the content.
    pub fn root(&self) -> Digest {
        self.root
    }

    /// Returns the content's bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Tells whether the content has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the values; none for content of at most one group.
    pub fn values(&self) -> &[ChainingValue] {
        &self.values
    }

    /// Returns the values as hex, 64 digits each, in order.
    pub fn values_hex(&self) -> String {
        hex(self.values.as_flattened())
    }

    /// Returns the number of groups.
    pub fn groups(&self) -> u64 {
        self.len.div_ceil(self.group)
    }

    /// Returns the bytes of each group but the last.
    pub fn group_bytes(&self) -> u64 {
        self.group
    }

    /// Returns the bytes of group `index`, cut at the content's end.
    pub fn group_range(&self, index: u64) -> ByteRange {
        let start = (index * self.group).min(self.len);
        let end = (start + self.group).min(self.len);
        ByteRange::new(start, end).expect("start <= end: both are cut at the same length")
    }

    /// Returns the groups that `range` touches; none for an empty range.
    pub fn groups_of(&self, range: ByteRange) -> Range<u64> {
        if range.is_empty() {
            return 0..0;
        }
        range.start() / self.group..range.end().min(self.len).div_ceil(self.group)
    }

    /// Returns `range` widened to whole groups.
    pub fn widened(&self, range: ByteRange) -> ByteRange {
        let groups = self.groups_of(range);
        if groups.is_empty() {
            return range;
        }
        let (first, last) = (self.group_range(groups.start), self.group_range(groups.end - 1));
        ByteRange::new(first.start(), last.end()).expect("groups are in order")
    }

    /// Checks that `bytes` are exactly group `index`.
    pub fn check_group(&self, index: u64, bytes: &[u8]) -> Result<(), GroupMismatch> {
        let range = self.group_range(index);
        if range.len() == bytes.len() as u64 {
            return self.check_group_in(index, std::iter::once(bytes));
        }
        let expected = self.values.get(index as usize).map_or(self.root, |value| Digest::from_bytes(*value));
        Err(GroupMismatch { index, range, expected, actual: Digest::of(bytes) })
    }

    /// Checks group `index` in pieces. Each is hashed before the next is asked for: what the iterator does with one is
    /// done while it is warm.
    ///
    /// # Panics
    /// Where the pieces have not as many bytes as the group.
    pub fn check_group_in<'b>(&self, index: u64, pieces: impl Iterator<Item = &'b [u8]>) -> Result<(), GroupMismatch> {
        let (range, value) = (self.group_range(index), self.values.get(index as usize));
        let (mut hasher, mut len) = (blake3::Hasher::new(), 0);
        if value.is_some() {
            hasher.set_input_offset(range.start());
        }
        for piece in pieces {
            len += piece.len() as u64;
            assert!(len <= range.len(), "the pieces of group {index} have more than its {} bytes", range.len());
            hasher.update(piece);
        }
        assert_eq!(len, range.len(), "the pieces of group {index} have all of its bytes");
        let (expected, actual) = match value {
            Some(value) => (Digest::from_bytes(*value), Digest::from_bytes(hasher.finalize_non_root())),
            None => (self.root, hasher.finalize().into()),
        };
        match expected == actual {
            true => Ok(()),
            false => Err(GroupMismatch { index, range, expected, actual }),
        }
    }

    /// Checks bytes that start at a group border `start` and cover whole groups.
    pub fn check_range(&self, start: u64, bytes: &[u8]) -> Result<(), GroupMismatch> {
        let first = start / self.group;
        for (i, piece) in bytes.chunks(self.group as usize).enumerate() {
            self.check_group(first + i as u64, piece)?;
        }
        Ok(())
    }
}

/// Merges the values of at least two groups that cover `len` bytes to the root.
fn merge(group: u64, len: u64, values: &[ChainingValue]) -> Digest {
    let (left, right) = halves(group, len, values);
    Digest::from(merge_subtrees_root(&left, &right, Mode::Hash))
}

fn subtree(group: u64, len: u64, values: &[ChainingValue]) -> ChainingValue {
    if let [value] = values {
        return *value;
    }
    let (left, right) = halves(group, len, values);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

fn halves(group: u64, len: u64, values: &[ChainingValue]) -> (ChainingValue, ChainingValue) {
    let left = left_subtree_len(len);
    let (a, b) = values.split_at((left / group) as usize);
    (subtree(group, left, a), subtree(group, len - left, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    #[test]
    fn lengths_around_every_border_hash_to_the_standard_root() {
        let group = GROUP_BYTES as usize;
        for len in
            [0, 1, 1023, 1024, 1025, group - 1, group, group + 1, 2 * group, 2 * group + 1, 3 * group, 7 * group + 5]
        {
            let bytes = content(len);
            let tree = GroupTree::of(&bytes);
            assert_eq!(tree.root(), Digest::of(&bytes), "length {len}");
            let again = GroupTree::proven_hex(tree.root(), len as u64, &tree.values_hex());
            assert_eq!(again.as_ref(), Ok(&tree), "length {len}");
        }
    }

    #[test]
    fn foreign_values_are_refused() {
        let bytes = content(3 * GROUP_BYTES as usize);
        let tree = GroupTree::of(&bytes);
        let mut values = tree.values().to_vec();
        values.swap(0, 1);
        let len = tree.len();
        assert!(matches!(GroupTree::proven(tree.root(), len, values), Err(TreeError::Root { .. })));
        assert!(matches!(GroupTree::proven(tree.root(), len, vec![]), Err(TreeError::Count { .. })));
        let hex = tree.values_hex();
        assert_eq!(GroupTree::proven_hex(tree.root(), len, &hex[1..]), Err(TreeError::Hex));
        assert!(GroupTree::proven_hex(tree.root(), 10, &hex).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn groups_hashed_on_any_number_of_threads_merge_to_the_root(
            len in (GROUP_BYTES as usize + 1)..(12 * GROUP_BYTES as usize), threads in 1usize..9,
        ) {
            let bytes = content(len);
            let groups: Vec<(usize, &[u8])> = bytes.chunks(GROUP_BYTES as usize).enumerate().collect();
            let mut values = vec![[0; 32]; groups.len()];
            let (sender, receiver) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let (sender, groups) = (sender.clone(), &groups);
                    scope.spawn(move || {
                        for (i, group) in groups.iter().skip(thread).step_by(threads) {
                            sender.send((*i, group_value(*i as u64, group))).unwrap();
                        }
                    });
                }
            });
            drop(sender);
            receiver.iter().for_each(|(i, value)| values[i] = value);
            let tree = GroupTree::merged(len as u64, values).unwrap();
            prop_assert_eq!(tree.root(), Digest::of(&bytes));
        }

        #[test]
        fn any_flipped_byte_is_seen_in_its_group(
            len in 1usize..(3 * GROUP_BYTES as usize), at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let mut bytes = content(len);
            let tree = GroupTree::of(&bytes);
            prop_assert!(tree.check_range(0, &bytes).is_ok());
            let at = at.index(len);
            bytes[at] ^= 1 << bit;
            let mismatch = tree.check_range(0, &bytes).unwrap_err();
            prop_assert!(mismatch.range.start() <= at as u64 && (at as u64) < mismatch.range.end());
            bytes[at] ^= 1 << bit;
            prop_assert!(tree.check_group(tree.groups() - 1, &bytes[..len - 1]).is_err());
        }
    }
}
