//! Hashing and checking of content that passes in pieces of any size.
//!
//! Must never keep the content: at most one group's hasher state is held.

use blake3::hazmat::{ChainingValue, HasherExt};

use super::tree::{GroupMismatch, GroupTree};
use crate::digest::Digest;
use crate::limits::GROUP_BYTES;
use crate::range::ByteRange;

/// Hashes content that passes by, of a length not known before.
pub struct StreamHasher {
    /// Bytes of one group.
    group: u64,
    hasher: blake3::Hasher,
    /// Bytes in the group that `hasher` is in.
    filled: u64,
    len: u64,
    values: Vec<ChainingValue>,
}

impl Default for StreamHasher {
    /// Starts with no bytes.
    fn default() -> Self {
        Self::in_groups(GROUP_BYTES)
    }
}

impl StreamHasher {
    /// Starts with no bytes, in groups of a form of packs.
    ///
    /// # Panics
    /// Where groups of so many bytes are no subtrees of BLAKE3.
    pub fn in_groups(group: u64) -> Self {
        assert!(group.is_power_of_two() && group >= blake3::CHUNK_LEN as u64, "{group} bytes are no subtree");
        Self { group, hasher: blake3::Hasher::new(), filled: 0, len: 0, values: Vec::new() }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == self.group {
                self.values.push(self.hasher.finalize_non_root());
                self.hasher = at_offset(self.len);
                self.filled = 0;
            }
            let take = bytes.len().min((self.group - self.filled) as usize);
            self.hasher.update(&bytes[..take]);
            self.filled += take as u64;
            self.len += take as u64;
            bytes = &bytes[take..];
        }
    }

    /// Ends the content and returns its tree.
    pub fn finish(mut self) -> GroupTree {
        if self.values.is_empty() {
            let root = Digest::from(self.hasher.finalize());
            return GroupTree::proven_in(self.group, root, self.len, Vec::new()).expect("at most one group passed");
        }
        self.values.push(self.hasher.finalize_non_root());
        GroupTree::merged_in(self.group, self.len, self.values).expect("every group's value was pushed")
    }
}

/// Checks content that passes by against its tree, group after group.
pub struct StreamCheck {
    tree: GroupTree,
    hasher: blake3::Hasher,
    /// The group that `hasher` is in.
    index: u64,
    filled: u64,
}

impl StreamCheck {
    /// Starts at the first byte.
    pub fn new(tree: GroupTree) -> Self {
        Self { tree, hasher: blake3::Hasher::new(), index: 0, filled: 0 }
    }

    /// Takes the next bytes; fails at the end of the first group that does not match, and at once when more bytes come
    /// than the tree has.
    pub fn update(&mut self, mut bytes: &[u8]) -> Result<(), GroupMismatch> {
        while !bytes.is_empty() {
            let group = self.tree.group_range(self.index);
            let room = group.len() - self.filled;
            if room == 0 {
                return Err(self.mismatch(group));
            }
            let take = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            self.hasher.update(&bytes[..take]);
            self.filled += take as u64;
            bytes = &bytes[take..];
            if self.filled == group.len() {
                self.end_group(group)?;
            }
        }
        Ok(())
    }

    /// Ends the content; fails where bytes are missing.
    pub fn finish(self) -> Result<(), GroupMismatch> {
        if self.tree.is_empty() {
            return self.tree.check_group(0, &[]);
        }
        if self.index == self.tree.groups() { Ok(()) } else { Err(self.mismatch(self.tree.group_range(self.index))) }
    }

    fn end_group(&mut self, group: ByteRange) -> Result<(), GroupMismatch> {
        if self.value() != self.expected() {
            return Err(self.mismatch(group));
        }
        self.index += 1;
        self.filled = 0;
        self.hasher = at_offset(group.end().next_multiple_of(self.tree.group_bytes()));
        Ok(())
    }

    fn value(&self) -> Digest {
        if self.filled == 0 {
            return Digest::of(&[]);
        }
        if self.tree.values().is_empty() {
            return Digest::from(self.hasher.finalize());
        }
        Digest::from_bytes(self.hasher.finalize_non_root())
    }

    fn expected(&self) -> Digest {
        match self.tree.values().get(self.index as usize) {
            Some(value) => Digest::from_bytes(*value),
            None => self.tree.root(),
        }
    }

    fn mismatch(&self, range: ByteRange) -> GroupMismatch {
        GroupMismatch { index: self.index, range, expected: self.expected(), actual: self.value() }
    }
}

/// A hasher for the group that starts at `offset`. Always a fresh one: `Hasher::reset` keeps the old input offset.
fn at_offset(offset: u64) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_split_of_any_bytes_hashes_to_the_standard_root(
            seed in any::<u64>(), len in 0usize..700_000,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let bytes: Vec<u8> = (0..len as u64).map(|i| (i.wrapping_mul(seed | 1) >> 7) as u8).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(len + 1)).collect();
            cuts.extend([0, len]);
            cuts.sort_unstable();
            let mut hasher = StreamHasher::default();
            for pair in cuts.windows(2) {
                hasher.update(&bytes[pair[0]..pair[1]]);
            }
            let tree = hasher.finish();
            prop_assert_eq!(tree.root(), Digest::of(&bytes));
            prop_assert_eq!(&tree, &GroupTree::of(&bytes));

            let mut check = StreamCheck::new(tree.clone());
            for pair in cuts.windows(2) {
                prop_assert!(check.update(&bytes[pair[0]..pair[1]]).is_ok());
            }
            prop_assert!(check.finish().is_ok());

            let mut long = StreamCheck::new(tree.clone());
            prop_assert!(long.update(&bytes).and_then(|()| long.update(b"x")).is_err());
            if len > 0 {
                let mut short = StreamCheck::new(tree.clone());
                prop_assert!(short.update(&bytes[..len - 1]).and_then(|()| short.finish()).is_err());
            }
        }
    }
}
