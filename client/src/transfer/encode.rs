//! Slices as a pack stores them: coded where that makes them smaller, else as they are.
//!
//! Must never keep a whole slice coded before a few of its groups have shown that it is worth it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use gigastore_formats::ambient::Ambient;
use gigastore_formats::pack::codec::{encode_group, sampled_groups, worth_coding};
use gigastore_formats::pack::{Coding, PackSlice};
use gigastore_formats::tensor::slice::SliceId;
use gigastore_formats::verified::{GroupTree, StreamHasher};

use super::watched::Part;

/// Codes a slice where that is worth it: the groups that decide first, then the others.
pub(super) async fn coded(
    ambient: &Arc<dyn Ambient>,
    slice: SliceId,
    tree: GroupTree,
    part: Part,
) -> (PackSlice, Vec<Part>) {
    let content = part.bytes();
    let dtype = slice.dtype();
    let group = |index: u64| {
        let range = tree.group_range(index);
        content.slice(range.start() as usize..range.end() as usize)
    };
    let encode = |index: u64| {
        let bytes = group(index);
        async move { (index, ambient.computed(move || Bytes::from(encode_group(dtype, &bytes))).await) }
    };
    let deciding = sampled_groups(tree.len());
    let logical: u64 = deciding.iter().map(|index| tree.group_range(*index).len()).sum();
    let mut frames: BTreeMap<u64, Bytes> = join_all(deciding.into_iter().map(encode)).await.into_iter().collect();
    if !worth_coding(logical, frames.values().map(|frame| frame.len() as u64).sum()) {
        return raw(slice, tree, part);
    }
    let others: Vec<u64> = (0..tree.groups()).filter(|index| !frames.contains_key(index)).collect();
    frames.extend(join_all(others.into_iter().map(encode)).await);
    let frames: Vec<Bytes> = frames.into_values().collect();
    let copy = frames.clone();
    let hashed = move || {
        let mut hasher = StreamHasher::default();
        copy.iter().for_each(|frame| hasher.update(frame));
        hasher.finish().root()
    };
    let stored = ambient.computed(hashed).await;
    let lens = frames.iter().map(|frame| frame.len() as u64).collect();
    let coding = Coding::ZstdPlanes { stored, frames: lens };
    (PackSlice { slice, tree, coding }, frames.into_iter().map(Part::from).collect())
}

/// Leaves a slice as it is.
pub(super) fn raw(slice: SliceId, tree: GroupTree, part: Part) -> (PackSlice, Vec<Part>) {
    (PackSlice { slice, tree, coding: Coding::Raw }, vec![part])
}
