//! One group of a slice, from its stored bytes to its logical ones, checked: what every reader of a pack does.
//!
//! Must never return bytes that do not match the slice's tree.

use std::borrow::Cow;

use super::codec::decode_group;
use super::header::PackEntry;
use super::slice::{Coding, PackSlice};
use super::verify::PackFault;
use crate::range::ByteRange;
use crate::tensor::slice::{Codec, Place, SliceRow};
use crate::verified::{GroupMismatch, GroupTree};

impl PackEntry {
    /// Returns what the pack's header says of a slice, from its row alone: of raw content of at most one group the row
    /// has all that is needed to check it. `None` for others.
    pub fn of_row<P>(row: &SliceRow<Place<P>>) -> Option<Self> {
        let (len, place) = (row.slice.bytes(), &row.place);
        if place.codec != Codec::Raw || place.stored_len != len {
            return None;
        }
        let tree = GroupTree::single(len, row.blake3).ok()?;
        let stored = ByteRange::with_len(place.offset, len).ok()?;
        Some(Self { stored, slice: PackSlice { slice: row.slice.clone(), tree, coding: Coding::Raw } })
    }

    /// Checks and decodes group `index`, whose stored bytes are `stored` (see [`stored_groups`](Self::stored_groups)).
    /// Raw bytes are returned as they are, without a copy.
    pub fn open_group<'s>(&self, index: u64, stored: &'s [u8]) -> Result<Cow<'s, [u8]>, PackFault> {
        let tree = &self.slice.tree;
        let logical = match &self.slice.coding {
            Coding::Raw => Cow::Borrowed(stored),
            Coding::ZstdPlanes { .. } => {
                let len = tree.group_range(index).len();
                let decoded = decode_group(stored, self.slice.slice.dtype(), len);
                Cow::Owned(decoded.map_err(|source| PackFault::Frame { index, source })?)
            }
        };
        tree.check_group(index, &logical).map_err(fault)?;
        Ok(logical)
    }

    /// Checks group `index` of a raw slice in pieces, each hashed before the next is asked for, until there are none.
    ///
    /// # Panics
    /// Where the pieces have not as many bytes as the group.
    pub fn check_raw_group<'s>(&self, index: u64, pieces: impl Iterator<Item = &'s [u8]>) -> Result<(), PackFault> {
        self.slice.tree.check_group_in(index, pieces).map_err(fault)
    }
}

fn fault(GroupMismatch { index, expected, actual, .. }: GroupMismatch) -> PackFault {
    PackFault::Group { index, expected, actual }
}
