//! One group of a slice, from its stored bytes to its logical ones, checked: what every reader of a pack does.
//!
//! Must never return bytes that do not match the slice's tree.

use bytes::Bytes;

use super::codec::decode_group;
use super::header::PackEntry;
use super::slice::Coding;
use super::verify::PackFault;
use crate::verified::GroupMismatch;

impl PackEntry {
    /// Checks and decodes group `index`, whose stored bytes are `stored` (see [`stored_groups`](Self::stored_groups)).
    /// Raw bytes are returned as they are, without a copy.
    pub fn open_group(&self, index: u64, stored: &Bytes) -> Result<Bytes, PackFault> {
        let tree = &self.slice.tree;
        let logical = match &self.slice.coding {
            Coding::Raw => stored.clone(),
            Coding::ZstdPlanes { .. } => {
                let len = tree.group_range(index).len();
                let decoded = decode_group(stored, self.slice.slice.dtype(), len);
                Bytes::from(decoded.map_err(|source| PackFault::Frame { index, source })?)
            }
        };
        let fault = |GroupMismatch { index, expected, actual, .. }| PackFault::Group { index, expected, actual };
        tree.check_group(index, &logical).map_err(fault)?;
        Ok(logical)
    }
}
