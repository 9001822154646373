//! Cursors: where a stream is, to be kept with a checkpoint and gone on from at any world size.
//!
//! Must never depend on ranks, workers or batches: a cursor says how far the whole stream is. What was *seen* is the one
//! part that each rank has of its own, and that is added up.

use serde::{Deserialize, Serialize};

use super::mix::{Unit, Weight};
use super::seen::Seen;
use super::spec::{ALGORITHM, OrderId, OrderSpec};

/// Name and version of the format.
pub const CURSOR_FORMAT: &str = "gigastore-cursor-1";

/// Where a stream is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// [`CURSOR_FORMAT`].
    pub format: String,
    /// Version of the order's algorithm.
    pub algorithm: u32,
    /// Samples of all ranks so far.
    pub samples: u64,
    /// What is counted, and by what sources are weighed.
    pub unit: Unit,
    /// What was counted of all samples so far.
    pub counted: u64,
    /// The sources.
    pub sources: Vec<SourceCursor>,
    /// What was seen so far: by one rank, or of all where they were joined.
    pub seen: Seen,
}

/// Where a stream is in one of its sources.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceCursor {
    /// The dataset, for people: what is compared is the order.
    pub dataset: String,
    /// Its files with their rows and tokens.
    pub order: OrderId,
    /// How they are put in order.
    pub spec: OrderSpec,
    /// The weight.
    pub weight: Weight,
    /// What was counted since the weights were set.
    pub weighed: u64,
    /// Samples of it so far.
    pub samples: u64,
    /// What was counted of it so far.
    pub counted: u64,
    /// The epoch.
    pub epoch: u64,
    /// The lane that comes next.
    pub next: u32,
    /// Window and sample of each lane.
    pub lanes: Vec<(u32, u32)>,
}

/// Why a cursor is not one of a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// It can't be parsed.
    #[error("not a cursor of a data stream: {0}")]
    Json(String),
    /// Another format.
    #[error("the cursor has the format {actual:?}, expected {CURSOR_FORMAT:?}: it was written by another program")]
    Format {
        /// Its format.
        actual: String,
    },
    /// Another algorithm.
    #[error(
        "the cursor is of order algorithm {actual}, this program has {ALGORITHM}: the positions mean other samples"
    )]
    Algorithm {
        /// Its algorithm.
        actual: u32,
    },
    /// Another number of sources.
    #[error("the cursor is of {actual} datasets, the stream has {expected}")]
    Sources {
        /// Sources of the stream.
        expected: usize,
        /// Sources of the cursor.
        actual: usize,
    },
    /// Other files.
    #[error(
        "the cursor is of {dataset} with order {actual}, the stream reads {expected}: the files, their rows or tokens \
         are others (only documents may have been taken down since); read the version that the cursor names"
    )]
    Order {
        /// The dataset that the cursor names.
        dataset: String,
        /// The stream's order.
        expected: String,
        /// The cursor's.
        actual: OrderId,
    },
    /// Another seed, packing or number of lanes.
    #[error("the cursor of {dataset} is for {actual}, the stream has {expected}: give the stream the same")]
    Spec {
        /// The dataset.
        dataset: String,
        /// The stream's specification.
        expected: String,
        /// The cursor's.
        actual: String,
    },
    /// Another unit.
    #[error("the cursor counts {actual:?}, the stream {expected:?}")]
    Unit {
        /// The stream's unit.
        expected: Unit,
        /// The cursor's.
        actual: Unit,
    },
    /// Places that are not in the order.
    #[error("the cursor of {dataset} names a place that its order does not have: it is damaged")]
    Place {
        /// The dataset.
        dataset: String,
    },
    /// Cursors of ranks that are not at the same place.
    #[error(
        "the cursors of rank {first} and rank {second} are not of the same place: {first_samples} and {second_samples} samples"
    )]
    Apart {
        /// One.
        first: usize,
        /// The other.
        second: usize,
        /// Samples before one.
        first_samples: u64,
        /// Samples before the other.
        second_samples: u64,
    },
}

impl Cursor {
    /// Reads a cursor.
    pub fn parse(json: &[u8]) -> Result<Self, CursorError> {
        let cursor: Self = serde_json::from_slice(json).map_err(|error| CursorError::Json(error.to_string()))?;
        if cursor.format != CURSOR_FORMAT {
            return Err(CursorError::Format { actual: cursor.format });
        }
        if cursor.algorithm != ALGORITHM {
            return Err(CursorError::Algorithm { actual: cursor.algorithm });
        }
        Ok(cursor)
    }

    /// Returns it as JSON.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("a cursor has string keys only")
    }

    /// Joins the cursors that the ranks have at one place: what they saw is added up.
    pub fn join(ranks: &[Self]) -> Result<Option<Self>, CursorError> {
        let Some((first, rest)) = ranks.split_first() else { return Ok(None) };
        let mut joined = first.clone();
        for (number, other) in rest.iter().enumerate() {
            if (Self { seen: first.seen, ..other.clone() }) != *first {
                return Err(CursorError::Apart {
                    first: 0,
                    second: number + 1,
                    first_samples: first.samples,
                    second_samples: other.samples,
                });
            }
            joined.seen.add(&other.seen);
        }
        Ok(Some(joined))
    }
}
