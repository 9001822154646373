//! The join: the parts of all ranks become the rows of one checkpoint, or the ranks that disagree are named.
//!
//! Pure. Must never prefer one rank's word over another's: what they say of the same box must be the same.

use std::collections::{BTreeMap, BTreeSet};

use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::Cursors;
use gigastore_formats::manifest::part::Part;
use gigastore_formats::order::Cursor;
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::cover::{CoverError, check_cover};
use gigastore_formats::tensor::slice::{Place, SliceId, SliceKind, SliceRow};
use gigastore_formats::timeline::RankTimeline;

/// All parts of a save, merged.
#[derive(Debug)]
pub(crate) struct Merged {
    /// One row a slice, in the order of manifests. `None`: no rank has uploaded it.
    pub(crate) rows: Vec<SliceRow<Option<Place<Digest>>>>,
    /// Steps of the same run whose packs are referred to.
    pub(crate) bases: BTreeSet<u64>,
    /// The content that every rank found its slices equal to, if they all did.
    pub(crate) compared_to: Option<Digest>,
    /// User metadata of all ranks.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Where the data streams were, with what all ranks together had seen.
    pub(crate) cursors: Cursors,
    /// How many ranks there were.
    pub(crate) ranks: u64,
    /// What the phases of each rank took, of those that say.
    pub(crate) timelines: Vec<(u32, RankTimeline)>,
}

/// Why the parts of a save do not make a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Two ranks say different things of the same tensor or box.
    #[error("ranks {first_rank} and {second_rank} disagree on the {what} of {name}: {first} and {second}")]
    Disagree {
        /// What they disagree on.
        what: &'static str,
        /// The tensor, slice, metadata key or data stream.
        name: String,
        /// One rank.
        first_rank: u32,
        /// What it says.
        first: String,
        /// The other rank.
        second_rank: u32,
        /// What it says.
        second: String,
    },
    /// Two boxes of one tensor have elements in common.
    #[error("box {first} of rank {first_rank} and box {second} of rank {second_rank} of tensor {name} overlap")]
    Overlap {
        /// The tensor.
        name: String,
        /// One rank.
        first_rank: u32,
        /// Its box.
        first: TensorBox,
        /// The other rank.
        second_rank: u32,
        /// Its box.
        second: TensorBox,
    },
    /// Elements of a tensor that no rank saved.
    #[error("no rank saved all of tensor {name} of shape {shape:?}: {gap}")]
    Gap {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Where the hole is.
        gap: CoverError,
    },
    /// A rank said it belongs to a save of another size.
    #[error("rank {rank} saved for a world of {actual} ranks, this save has {expected}")]
    WorldSize {
        /// The rank.
        rank: u32,
        /// Ranks of the save.
        expected: u32,
        /// Ranks it said.
        actual: u32,
    },
    /// No rank saved anything.
    #[error("the {ranks} ranks of this save have no slice among them: a checkpoint needs at least one tensor or file")]
    Empty {
        /// How many ranks.
        ranks: usize,
    },
}

/// Where the data streams are, of the ranks that were joined so far: one cursor a stream, however many ranks there are.
#[derive(Debug, Default)]
pub(crate) struct JoinedCursors(BTreeMap<String, (u32, Cursor)>);

/// A row and the rank that said it.
type Said = (u32, SliceRow<Option<Place<Digest>>>);

/// Merges the parts of a save of `world_size` ranks, one of each; `cursors` are those that were taken out of parts
/// before.
pub(crate) fn merge(parts: Vec<Part>, world_size: u32, mut cursors: JoinedCursors) -> Result<Merged, JoinError> {
    let mut bases = BTreeSet::new();
    let mut metadata: BTreeMap<String, (u32, String)> = BTreeMap::new();
    let first_compared = parts.first().and_then(|part| part.meta.compared_to);
    let compared_to = first_compared.filter(|_| parts.iter().all(|part| part.meta.compared_to == first_compared));
    let ranks = parts.len();
    let mut timelines = Vec::with_capacity(ranks);
    let mut said: Vec<Said> = Vec::new();
    for part in parts {
        let rank = part.meta.rank;
        if part.meta.world_size != world_size {
            return Err(JoinError::WorldSize { rank, expected: world_size, actual: part.meta.world_size });
        }
        bases.extend(part.meta.bases);
        timelines.extend(part.meta.timeline.map(|timeline| (rank, timeline)));
        join_metadata(&mut metadata, rank, part.meta.metadata)?;
        cursors.add(rank, part.meta.cursors)?;
        said.extend(part.rows.into_iter().map(|row| (rank, row)));
    }
    if said.is_empty() {
        return Err(JoinError::Empty { ranks });
    }
    said.sort_by(|(a_rank, a), (b_rank, b)| a.slice.order().cmp(&b.slice.order()).then(a_rank.cmp(b_rank)));
    let said = merge_replicas(said)?;
    for tensor in said.chunk_by(|(_, a), (_, b)| same_tensor(&a.slice, &b.slice)) {
        check_tensor(tensor)?;
    }
    let metadata = metadata.into_iter().map(|(key, (_, value))| (key, value)).collect();
    let rows = said.into_iter().map(|(_, row)| row).collect();
    let cursors = cursors.0.into_iter().map(|(name, (_, cursor))| (name, cursor)).collect();
    Ok(Merged { rows, bases, compared_to, metadata, cursors, ranks: ranks as u64, timelines })
}

fn join_metadata(
    joined: &mut BTreeMap<String, (u32, String)>,
    rank: u32,
    metadata: BTreeMap<String, String>,
) -> Result<(), JoinError> {
    for (key, value) in metadata {
        match joined.get(&key) {
            Some((other, before)) if *before != value => {
                return Err(disagree("metadata", &key, (*other, before.clone()), (rank, value)));
            }
            Some(_) => {}
            None => {
                joined.insert(key, (rank, value));
            }
        }
    }
    Ok(())
}

impl JoinedCursors {
    /// Adds what a rank saw of each stream. A rank without a cursor reads no data, or another rank that has the same
    /// data says it for both.
    pub(crate) fn add(&mut self, rank: u32, cursors: Cursors) -> Result<(), JoinError> {
        for (name, cursor) in cursors {
            let Some((other, before)) = self.0.get_mut(&name) else {
                self.0.insert(name, (rank, cursor));
                continue;
            };
            if let Some((first, second)) = before.difference(&cursor) {
                return Err(disagree("position", &format!("data stream {name:?}"), (*other, first), (rank, second)));
            }
            before.seen.add(&cursor.seen);
        }
        Ok(())
    }
}

/// Makes one of the rows of the same box, which must agree. Of several places the smallest is taken, so that every
/// joiner takes the same.
fn merge_replicas(said: Vec<Said>) -> Result<Vec<Said>, JoinError> {
    let mut merged: Vec<Said> = Vec::with_capacity(said.len());
    for (rank, row) in said {
        let Some((other, before)) = merged.last_mut().filter(|(_, before)| before.slice.order() == row.slice.order())
        else {
            merged.push((rank, row));
            continue;
        };
        check_types((*other, &before.slice), (rank, &row.slice))?;
        if before.blake3 != row.blake3 {
            let (first, second) = (before.blake3.to_string(), row.blake3.to_string());
            return Err(disagree("content (BLAKE3)", &row.slice.to_string(), (*other, first), (rank, second)));
        }
        let key = |place: &Place<Digest>| (place.pack, place.offset);
        if let Some(place) = row.place
            && before.place.as_ref().is_none_or(|old| key(&place) < key(old))
        {
            before.place = Some(place);
        }
    }
    Ok(merged)
}

fn same_tensor(a: &SliceId, b: &SliceId) -> bool {
    a.kind() == b.kind() && a.name() == b.name()
}

/// Checks that all boxes of one tensor agree on what it is and cover it exactly.
fn check_tensor(said: &[Said]) -> Result<(), JoinError> {
    let (first_rank, first) = &said[0];
    for (rank, row) in &said[1..] {
        check_types((*first_rank, &first.slice), (*rank, &row.slice))?;
    }
    if first.slice.kind() == SliceKind::File {
        return Ok(());
    }
    let boxes: Vec<&TensorBox> = said.iter().map(|(_, row)| row.slice.area()).collect();
    let (name, shape) = (first.slice.name().to_owned(), first.slice.global_shape().to_vec());
    check_cover(&shape, &boxes).map_err(|error| match error {
        CoverError::Overlap { first, second } => JoinError::Overlap {
            name,
            first_rank: said[first].0,
            first: boxes[first].clone(),
            second_rank: said[second].0,
            second: boxes[second].clone(),
        },
        gap @ (CoverError::Gap { .. } | CoverError::Irregular { .. }) => JoinError::Gap { name, shape, gap },
    })
}

fn check_types(a: (u32, &SliceId), b: (u32, &SliceId)) -> Result<(), JoinError> {
    if a.1.dtype() != b.1.dtype() {
        let (first, second) = (a.1.dtype().to_string(), b.1.dtype().to_string());
        return Err(disagree("element type", a.1.name(), (a.0, first), (b.0, second)));
    }
    if a.1.global_shape() != b.1.global_shape() {
        let text = |slice: &SliceId| format!("{:?}", slice.global_shape());
        return Err(disagree("global shape", a.1.name(), (a.0, text(a.1)), (b.0, text(b.1))));
    }
    Ok(())
}

fn disagree(what: &'static str, name: &str, first: (u32, String), second: (u32, String)) -> JoinError {
    let name = name.to_owned();
    JoinError::Disagree { what, name, first_rank: first.0, first: first.1, second_rank: second.0, second: second.1 }
}

#[cfg(test)]
#[path = "join_test.rs"]
mod tests;
