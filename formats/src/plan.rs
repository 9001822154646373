//! Wanted boxes to ranges of packs: what a service works out for a client, from a manifest that the client need not
//! read; and ranges of files that tensors make to parts of slices (`files.rs`).
//!
//! Pure, and the same for a store in this process. Must never leave out a slice that a wanted box touches.

mod files;
mod index;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::index::RowIndex;
use crate::digest::Digest;
use crate::limits::PACK_1_GROUP_BYTES;
use crate::manifest::checkpoint::{Checkpoint, CheckpointMeta, CheckpointRow};
use crate::object::Stored;
use crate::range::ByteRange;
use crate::tensor::boxes::{BoxError, CopyPlan, TensorBox};
use crate::tensor::dtype::Dtype;
use crate::tensor::slice::{Codec, Place, SliceError, SliceId, SliceKind, SliceRow};
use crate::wire::{CommitInfo, Fault, FaultCode};

pub use self::files::{COPY_BYTES, FileRead, MAX_COPIES, SlicePart, Unplanned};

/// Boxes of one plan: 100,000, each tensor of a large model a few times.
pub const MAX_BOXES: usize = 100_000;

/// Looks at slices and groups of one plan: 50 million take a few seconds of one core. Slices that a box may touch, and
/// wanted slices that it has all of, are one look each; 100,000 boxes may look at 500 groups each.
pub const MAX_LOOKS: u64 = 50_000_000;

/// Boxes of tensors that are wanted of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlanRequest {
    /// The boxes.
    pub boxes: Vec<PlanBox>,
}

/// A box of a tensor, or all of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct PlanBox {
    /// Tensor or file.
    pub kind: SliceKind,
    /// Its name, or path.
    pub name: String,
    /// The box; `None` for all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<Area>,
}

/// A box as offsets and sizes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Area {
    /// Its first index in each dimension.
    pub global_offsets: Vec<u64>,
    /// Its size in each dimension.
    pub sizes: Vec<u64>,
}

/// Where the saved slices lie that touch the wanted boxes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlanAnswer {
    /// The commit that was planned.
    pub info: CommitInfo,
    /// What its manifest says of it as a whole.
    pub meta: CheckpointMeta,
    /// Slices, by kind, name and offsets, each once.
    pub slices: Vec<PlannedSlice>,
}

/// A saved slice, and the bytes of a pack that hold what is wanted of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedSlice {
    /// Tensor or file.
    pub kind: SliceKind,
    /// Its name, or path.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// The tensor's shape.
    pub global_shape: Vec<u64>,
    /// The first index of the slice's box in each dimension.
    pub global_offsets: Vec<u64>,
    /// The size of the slice's box in each dimension.
    pub sizes: Vec<u64>,
    /// BLAKE3 of its logical bytes.
    pub blake3: Digest,
    /// The pack that holds it.
    pub pack: Stored,
    /// Bytes of the pack's header, which holds the group values.
    pub header_len: u64,
    /// How it is stored.
    pub codec: Codec,
    /// Its first byte in the pack.
    pub offset: u64,
    /// Its bytes in the pack.
    pub stored_len: u64,
    /// The bytes to fetch of the pack, in whole groups of any version (multiples of 1 MiB of the slice): first, and
    /// after the last. Of a coded slice, all of it.
    pub ranges: Vec<(u64, u64)>,
}

/// Why boxes can't be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// More boxes than one plan may have.
    #[error("{actual} boxes in one plan, over the limit of {MAX_BOXES}: ask in parts")]
    TooMany {
        /// Boxes asked for.
        actual: usize,
    },
    /// The boxes need more looks at slices and groups than one plan may take.
    #[error("these boxes touch too many slices for one plan (over {MAX_LOOKS} looks): ask in parts")]
    TooMuch,
    /// There is no such tensor.
    #[error("the checkpoint has no tensor or file {name:?}")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The box does not fit the tensor.
    #[error("{name}: {source}")]
    Box {
        /// The tensor.
        name: String,
        /// What is wrong.
        source: BoxError,
    },
    /// A range of a file lies in slices of so uneven sizes that it takes too many looks to find them.
    #[error("{range} of {name} lie in slices of too uneven sizes to be served as a file: restore the checkpoint")]
    Scattered {
        /// The file.
        name: String,
        /// What could not be planned of it.
        range: ByteRange,
    },
    /// The saved slices do not cover what is wanted.
    #[error("integrity failure: the manifest has {actual} of the {expected} bytes that are wanted of {name}")]
    Uncovered {
        /// The tensor.
        name: String,
        /// Bytes that are wanted.
        expected: u64,
        /// Bytes that slices have of them.
        actual: u64,
    },
}

impl From<&PlanError> for Fault {
    fn from(error: &PlanError) -> Self {
        match error {
            PlanError::Unknown { .. } => Self::new(FaultCode::NotFound, error),
            PlanError::Uncovered { .. } => Self::new(FaultCode::Integrity, error),
            PlanError::TooMany { .. } | PlanError::TooMuch | PlanError::Scattered { .. } | PlanError::Box { .. } => {
                Self::new(FaultCode::Invalid, error)
            }
        }
    }
}

impl From<&TensorBox> for Area {
    fn from(area: &TensorBox) -> Self {
        Self { global_offsets: area.offsets().to_vec(), sizes: area.sizes().to_vec() }
    }
}

impl PlannedSlice {
    fn new(row: &CheckpointRow, ranges: Vec<(u64, u64)>) -> Self {
        let Place { pack, header_len, offset, stored_len, codec } = row.place.clone();
        Self {
            kind: row.slice.kind(),
            name: row.slice.name().to_owned(),
            dtype: row.slice.dtype(),
            global_shape: row.slice.global_shape().to_vec(),
            global_offsets: row.slice.area().offsets().to_vec(),
            sizes: row.slice.area().sizes().to_vec(),
            blake3: row.blake3,
            pack,
            header_len,
            codec,
            offset,
            stored_len,
            ranges,
        }
    }

    /// Returns the row of the manifest that this is.
    pub fn row(self) -> Result<CheckpointRow, SliceError> {
        let boxed = |source| SliceError::Box { name: self.name.clone(), source };
        let area = TensorBox::new(self.global_offsets, self.sizes).map_err(boxed)?;
        let slice = SliceId::new(self.kind, &self.name, self.dtype, &self.global_shape, area)?;
        let Self { pack, header_len, offset, stored_len, codec, .. } = self;
        Ok(SliceRow { slice, blake3: self.blake3, place: Place { pack, header_len, offset, stored_len, codec } })
    }
}

/// A checkpoint whose rows are found by boxes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planner {
    checkpoint: Checkpoint,
    index: RowIndex,
}

impl Planner {
    /// Goes over all rows once, so that a plan need not.
    pub fn new(checkpoint: Checkpoint) -> Self {
        let index = RowIndex::new(&checkpoint.rows);
        Self { checkpoint, index }
    }

    /// Returns the checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Returns the memory that it takes beside the checkpoint, in bytes.
    pub fn index_bytes(&self) -> usize {
        self.index.bytes()
    }

    /// Returns the rows of a tensor or file; none where there is no such.
    pub fn rows_of(&self, kind: SliceKind, name: &str) -> &[CheckpointRow] {
        self.index.find(&self.checkpoint.rows, kind, name).map_or(&[], |tensor| tensor.rows)
    }

    /// Plans the reads of the wanted boxes.
    pub fn plan(&self, request: &PlanRequest) -> Result<Vec<PlannedSlice>, PlanError> {
        let actual = request.boxes.len();
        if actual > MAX_BOXES {
            return Err(PlanError::TooMany { actual });
        }
        let mut boxes: Vec<&PlanBox> = request.boxes.iter().collect();
        boxes.sort_unstable();
        boxes.dedup();
        let rows = self.checkpoint.rows.as_slice();
        let mut touched: BTreeMap<usize, Touched> = BTreeMap::new();
        let mut looks = 0;
        for wanted in boxes {
            let tensor = self.index.find(rows, wanted.kind, &wanted.name);
            let tensor = tensor.ok_or_else(|| PlanError::Unknown { name: wanted.name.clone() })?;
            let shape = tensor.rows[0].slice.global_shape();
            let boxed = |source| PlanError::Box { name: wanted.name.clone(), source };
            let area = match &wanted.area {
                Some(area) => TensorBox::new(area.global_offsets.clone(), area.sizes.clone()),
                None => TensorBox::whole(shape),
            };
            let area = area.map_err(boxed)?;
            area.check_within(shape).map_err(boxed)?;
            let mut touches = false;
            let (found, looked) = tensor.touching(&area, MAX_LOOKS - looks);
            looks += looked;
            if looks > MAX_LOOKS {
                return Err(PlanError::TooMuch);
            }
            for i in found {
                let row = &rows[i];
                if let Some(copy) = CopyPlan::new(row.slice.dtype(), row.slice.area(), &area).map_err(boxed)? {
                    touches = true;
                    looks += touched.entry(i).or_default().add(row, &copy);
                }
                if looks > MAX_LOOKS {
                    return Err(PlanError::TooMuch);
                }
            }
            if !touches {
                // An empty box touches nothing; one row of its tensor says that the tensor is there.
                touched.entry(tensor.start).or_default();
            }
        }
        let planned = touched.into_iter().map(|(i, touched)| PlannedSlice::new(&rows[i], touched.ranges(&rows[i])));
        Ok(planned.collect())
    }
}

/// What boxes want of one slice.
#[derive(Default)]
struct Touched {
    whole: bool,
    /// A bit for each group, where not all are wanted.
    groups: Vec<u64>,
}

impl Touched {
    /// Adds what one box wants; returns how many groups were looked at.
    fn add(&mut self, row: &CheckpointRow, copy: &CopyPlan) -> u64 {
        // Where the frames of a coded slice lie is in the pack's header, which the client reads anyway.
        self.whole |= row.place.codec != Codec::Raw || copy.bytes() == row.slice.bytes();
        if self.whole {
            return 1;
        }
        let count = row.slice.bytes().div_ceil(PACK_1_GROUP_BYTES);
        self.groups.resize(count.div_ceil(64) as usize, 0);
        for group in 0..count {
            let start = group * PACK_1_GROUP_BYTES;
            let end = (start + PACK_1_GROUP_BYTES).min(row.slice.bytes());
            if copy.touches(ByteRange::new(start, end).expect("a group starts before its end")) {
                self.groups[group as usize / 64] |= 1 << (group % 64);
            }
        }
        count
    }

    /// Returns the stored bytes of the wanted groups, neighbours joined. Which version a pack has only its header says:
    /// groups of version 1 are whole groups of any.
    fn ranges(&self, row: &CheckpointRow) -> Vec<(u64, u64)> {
        let Place { offset, stored_len, .. } = row.place;
        if self.whole {
            return if stored_len == 0 { Vec::new() } else { vec![(offset, offset + stored_len)] };
        }
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let wanted =
            |group: &u64| self.groups.get(*group as usize / 64).is_some_and(|bits| bits >> (group % 64) & 1 == 1);
        for group in (0..self.groups.len() as u64 * 64).filter(wanted) {
            let start = offset + group * PACK_1_GROUP_BYTES;
            let end = (start + PACK_1_GROUP_BYTES).min(offset + stored_len);
            match ranges.last_mut() {
                Some(last) if last.1 == start => last.1 = end,
                _ => ranges.push((start, end)),
            }
        }
        ranges
    }
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
