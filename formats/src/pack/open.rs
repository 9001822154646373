//! One group of a slice, from its stored bytes to its logical ones, checked: what every reader of a pack does.
//!
//! Must never return bytes that do not match the slice's tree.

use std::borrow::Cow;
use std::ops::Range;

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

    /// Checks and decodes each of `groups`, whose stored bytes are `stored`; tells where each is stored.
    pub fn open_groups<'s>(
        &'s self,
        groups: Range<u64>,
        stored: &'s [u8],
    ) -> impl Iterator<Item = (ByteRange, Result<Cow<'s, [u8]>, PackFault>)> {
        let start = self.stored_groups(groups.clone()).start();
        groups.map(move |index| {
            let range = self.stored_groups(index..index + 1);
            let (from, to) = ((range.start() - start) as usize, (range.end() - start) as usize);
            // What is not there is no group.
            (range, self.open_group(index, stored.get(from..to).unwrap_or_default()))
        })
    }

    /// Cuts its groups into runs of `most` bytes at most, as they are decoded, or of one group: what is read at once.
    pub fn windows(&self, most: u64) -> impl Iterator<Item = Range<u64>> + use<> {
        let (groups, run) = (self.slice.tree.groups(), (most / self.slice.tree.group_bytes()).max(1));
        (0..groups.div_ceil(run)).map(move |window| window * run..groups.min((window + 1) * run))
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
