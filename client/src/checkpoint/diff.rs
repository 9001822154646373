//! What changed between two checkpoints, from their manifests alone.
//!
//! Must never read tensor data: digests decide.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use gigastore_formats::order::Cursor;

use super::open::{Checkpoint, TensorInfo};

/// How a tensor or file differs between two checkpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Type or shape differ.
    Reshaped,
    /// Type and shape are the same, bytes differ.
    Changed,
    /// The boxes differ, so that digests can't tell.
    Resharded,
}

/// What differs, and how much is shared.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Diff {
    /// Tensors and files that differ: name, bytes in the second (or the first, where removed), how.
    pub changes: Vec<(String, u64, Change)>,
    /// Tensors and files that are the same.
    pub same: usize,
    /// Their bytes.
    pub same_bytes: u64,
    /// Stored bytes of the second that lie in packs of the first.
    pub shared_stored_bytes: u64,
    /// Stored bytes of the second.
    pub stored_bytes: u64,
    /// The data streams of either, by name.
    pub streams: BTreeMap<String, DataDiff>,
}

/// What two checkpoints have seen of one data stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataDiff {
    /// Only the second has a cursor of it.
    Added,
    /// Only the first has a cursor of it.
    Removed,
    /// They are not at the same place: samples of the first and of the second.
    Apart(u64, u64),
    /// After the same number of samples both have seen the same tokens at the same positions: the digests are equal.
    Same(u64),
    /// After the same number of samples they have seen other data: the digests differ.
    Differs(u64),
}

impl DataDiff {
    /// Returns the word for it: `added`, `removed`, `apart`, `same` or `differs`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Apart(..) => "apart",
            Self::Same(_) => "same",
            Self::Differs(_) => "differs",
        }
    }
}

/// Compares two checkpoints.
pub fn diff(first: &Checkpoint, second: &Checkpoint) -> Diff {
    let (old, new) = (first.by_name(), second.by_name());
    let mut found = Diff::default();
    for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let (bytes, change) = match (old.get(key), new.get(key)) {
            (Some(a), Some(b)) => match change(first, a, second, b) {
                Some(change) => (b.bytes, change),
                None => {
                    found.same += 1;
                    found.same_bytes += b.bytes;
                    continue;
                }
            },
            (None, Some(b)) => (b.bytes, Change::Added),
            (Some(a), None) => (a.bytes, Change::Removed),
            (None, None) => continue,
        };
        found.changes.push((key.1.clone(), bytes, change));
    }
    let places: HashSet<_> = first.rows().iter().map(|row| (row.place.pack, row.place.offset)).collect();
    let mut counted = HashSet::new();
    for row in second.rows().iter().filter(|row| counted.insert((row.place.pack, row.place.offset))) {
        found.stored_bytes += row.place.stored_len;
        if places.contains(&(row.place.pack, row.place.offset)) {
            found.shared_stored_bytes += row.place.stored_len;
        }
    }
    let (old, new) = (first.cursors(), second.cursors());
    let names = old.keys().chain(new.keys());
    found.streams = names.filter_map(|name| Some((name.clone(), data_diff(old.get(name), new.get(name))?))).collect();
    found
}

fn data_diff(first: Option<&Cursor>, second: Option<&Cursor>) -> Option<DataDiff> {
    Some(match (first, second) {
        (None, None) => return None,
        (None, Some(_)) => DataDiff::Added,
        (Some(_), None) => DataDiff::Removed,
        (Some(a), Some(b)) if a.samples != b.samples => DataDiff::Apart(a.samples, b.samples),
        (Some(a), Some(b)) if a.seen == b.seen => DataDiff::Same(a.samples),
        (Some(a), Some(_)) => DataDiff::Differs(a.samples),
    })
}

fn change(first: &Checkpoint, a: &TensorInfo, second: &Checkpoint, b: &TensorInfo) -> Option<Change> {
    if a.dtype != b.dtype || a.shape != b.shape {
        return Some(Change::Reshaped);
    }
    let (a, b) = (&first.rows()[a.rows.clone()], &second.rows()[b.rows.clone()]);
    if a.len() != b.len() || a.iter().zip(b).any(|(a, b)| a.slice.area() != b.slice.area()) {
        return Some(Change::Resharded);
    }
    a.iter().zip(b).any(|(a, b)| a.blake3 != b.blake3).then_some(Change::Changed)
}
