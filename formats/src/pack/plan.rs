//! Which slices go into which pack.
//!
//! Must never look at content: the plan is made before it is known which slices the store has already, so that a save
//! that is resumed, on any machine, makes the same packs.

use std::collections::BTreeSet;

use crate::limits::{GROUP_BYTES, LARGE_ALIGNMENT, MAX_PACK_HEADER_BYTES, MAX_PACK_SLICES};
use crate::tensor::slice::SliceId;

/// Most header bytes that all slices of one planned pack may need: what remains beside the JSON around them (below 128
/// bytes) and the spaces that fill the header up to [`LARGE_ALIGNMENT`].
const SLICES_HEADER_BYTES: u64 = MAX_PACK_HEADER_BYTES - LARGE_ALIGNMENT - 128;

/// Header bytes of a slice with neither name, dimensions nor groups: at most 335 of its entry and its text, 109 of
/// stored digest and codec fields, 92 of a pad entry before it, with offsets of 14 digits; rounded up.
const SLICE_HEADER_BYTES: u64 = 640;

/// Header bytes for each byte of a name: once in the key of the entry and of the text, where a quote takes 2 bytes, and
/// once in the text, a text within a text, where it takes 4.
const NAME_HEADER_BYTES: u64 = 2 + 2 + 4;

/// Header bytes for each dimension: numbers of at most 20 digits and a separator, two in both names and one each in
/// shape, global shape, offsets and sizes.
const DIMENSION_HEADER_BYTES: u64 = 21 * (2 + 2 + 4);

/// Header bytes for each group: 64 digits of its value, and the length of its frame (7 digits and a comma).
const GROUP_HEADER_BYTES: u64 = 64 + 8;

/// Deals slices, given by their position in `slices`, into packs; every slice comes exactly once.
///
/// Slices are taken in the order of packs, whatever order they come in, and cut so that a pack has at most `target`
/// logical bytes (a longer slice stands alone), at most [`MAX_PACK_SLICES`] slices, and a header below
/// [`MAX_PACK_HEADER_BYTES`]. Slices that would share an entry name (a tensor and a file of equal name and shape) never
/// share a pack.
pub fn plan_packs(slices: &[SliceId], target: u64) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..slices.len()).collect();
    order.sort_by_key(|&i| (slices[i].order(), slices[i].dtype(), slices[i].global_shape()));
    let mut packs: Vec<Vec<usize>> = Vec::new();
    let (mut bytes, mut header) = (0u64, 0);
    let mut entries = BTreeSet::new();
    for i in order {
        let slice = &slices[i];
        let entry = (slice.name(), slice.area());
        let full = packs.last().is_none_or(|pack| pack.len() == MAX_PACK_SLICES)
            || bytes.saturating_add(slice.bytes()) > target
            || header + header_bound(slice) > SLICES_HEADER_BYTES
            || entries.contains(&entry);
        if full {
            packs.push(Vec::new());
            entries.clear();
            (bytes, header) = (0, 0);
        }
        bytes += slice.bytes();
        header += header_bound(slice);
        entries.insert(entry);
        if let Some(pack) = packs.last_mut() {
            pack.push(i);
        }
    }
    packs
}

/// Returns a bound of the header bytes that a slice needs, raw or coded.
fn header_bound(slice: &SliceId) -> u64 {
    let (name, dimensions) = (slice.name().len() as u64, slice.global_shape().len() as u64);
    SLICE_HEADER_BYTES
        + name * NAME_HEADER_BYTES
        + dimensions * DIMENSION_HEADER_BYTES
        + slice.bytes().div_ceil(GROUP_BYTES) * GROUP_HEADER_BYTES
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
