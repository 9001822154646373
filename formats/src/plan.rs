//! Wanted boxes to ranges of packs: what a service works out for a client, from a manifest that the client need not
//! read.
//!
//! Pure, and the same for a store in this process. Must never leave out a slice that a wanted box touches.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::TENSOR_GROUP_BYTES;
use crate::manifest::checkpoint::{Checkpoint, CheckpointMeta, CheckpointRow};
use crate::object::Stored;
use crate::range::ByteRange;
use crate::tensor::boxes::{BoxError, CopyPlan, TensorBox};
use crate::tensor::dtype::Dtype;
use crate::tensor::slice::{Codec, Place, SliceError, SliceId, SliceKind, SliceRow};
use crate::wire::{CommitInfo, Fault, FaultCode};

/// Boxes of one plan: 100,000, each tensor of a large model a few times.
pub const MAX_BOXES: usize = 100_000;

/// Boxes of tensors that are wanted of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlanRequest {
    /// The boxes.
    pub boxes: Vec<PlanBox>,
}

/// A box of a tensor, or all of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
    /// The slice's box.
    #[serde(flatten)]
    pub area: Area,
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
    /// The bytes to fetch of the pack, in whole groups: first, and after the last. Of a coded slice, all of it.
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
}

impl From<&PlanError> for Fault {
    fn from(error: &PlanError) -> Self {
        match error {
            PlanError::Unknown { .. } => Self::new(FaultCode::NotFound, error),
            PlanError::TooMany { .. } | PlanError::Box { .. } => Self::new(FaultCode::Invalid, error),
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
            area: row.slice.area().into(),
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
        let area = TensorBox::new(self.area.global_offsets, self.area.sizes).map_err(boxed)?;
        let slice = SliceId::new(self.kind, &self.name, self.dtype, &self.global_shape, area)?;
        let Self { pack, header_len, offset, stored_len, codec, .. } = self;
        Ok(SliceRow { slice, blake3: self.blake3, place: Place { pack, header_len, offset, stored_len, codec } })
    }
}

/// Plans the reads of the wanted boxes.
pub fn plan(checkpoint: &Checkpoint, request: &PlanRequest) -> Result<Vec<PlannedSlice>, PlanError> {
    let actual = request.boxes.len();
    if actual > MAX_BOXES {
        return Err(PlanError::TooMany { actual });
    }
    let mut touched: Vec<(usize, Vec<CopyPlan>)> = Vec::new();
    for wanted in &request.boxes {
        let rows = rows_of(checkpoint, wanted);
        let unknown = || PlanError::Unknown { name: wanted.name.clone() };
        let first = &checkpoint.rows.get(rows.clone()).and_then(<[_]>::first).ok_or_else(unknown)?.slice;
        let boxed = |source| PlanError::Box { name: wanted.name.clone(), source };
        let area = match &wanted.area {
            Some(area) => TensorBox::new(area.global_offsets.clone(), area.sizes.clone()),
            None => TensorBox::whole(first.global_shape()),
        };
        let area = area.map_err(boxed)?;
        area.check_within(first.global_shape()).map_err(boxed)?;
        let (before, start) = (touched.len(), rows.start);
        for i in rows {
            let slice = &checkpoint.rows[i].slice;
            if let Some(copy) = CopyPlan::new(slice.dtype(), slice.area(), &area).map_err(boxed)? {
                touched.push((i, vec![copy]));
            }
        }
        if touched.len() == before {
            // An empty box touches nothing; one row of its tensor says that the tensor is there.
            touched.push((start, Vec::new()));
        }
    }
    touched.sort_by_key(|(i, _)| *i);
    touched.dedup_by(|later, first| {
        let same = later.0 == first.0;
        if same {
            first.1.append(&mut later.1);
        }
        same
    });
    let planned = touched.iter().map(|(i, copies)| {
        let row = &checkpoint.rows[*i];
        PlannedSlice::new(row, ranges(row, copies))
    });
    Ok(planned.collect())
}

/// The rows of one tensor; rows are sorted by kind and name.
fn rows_of(checkpoint: &Checkpoint, wanted: &PlanBox) -> std::ops::Range<usize> {
    let key = (wanted.kind, wanted.name.as_str());
    let of = |row: &CheckpointRow| (row.slice.kind(), row.slice.name()).cmp(&key);
    let start = checkpoint.rows.partition_point(|row| of(row).is_lt());
    start..checkpoint.rows.partition_point(|row| of(row).is_le())
}

/// The stored groups that hold wanted bytes, neighbours joined.
fn ranges(row: &CheckpointRow, copies: &[CopyPlan]) -> Vec<(u64, u64)> {
    let Place { offset, stored_len, codec, .. } = row.place;
    if codec != Codec::Raw && !copies.is_empty() {
        // Where its frames lie is in the pack's header, which the client reads anyway.
        return vec![(offset, offset + stored_len)];
    }
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for start in (0..row.slice.bytes()).step_by(TENSOR_GROUP_BYTES as usize) {
        let end = (start + TENSOR_GROUP_BYTES).min(row.slice.bytes());
        let group = ByteRange::new(start, end).expect("a group starts before its end");
        if copies.iter().any(|copy| copy.touches(group)) {
            match ranges.last_mut() {
                Some(last) if last.1 == offset + start => last.1 = offset + end,
                _ => ranges.push((offset + start, offset + end)),
            }
        }
    }
    ranges
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
