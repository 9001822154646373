//! Why a save failed.
//!
//! Must never lose what the layer below said.

use gigastore_formats::limits::MAX_USER_METADATA_BYTES;
use gigastore_formats::manifest::{ManifestError, MetaError};
use gigastore_formats::tensor::boxes::BoxError;
use gigastore_formats::tensor::slice::SliceError;
use gigastore_formats::wire::Fault;

use super::super::compare::CompareError;
use super::super::open::OpenError;
use crate::transfer::source::SourceError;
use crate::transfer::write::WriteError;

/// Why a save failed. Nothing is visible of it; run again, only what is missing is sent.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// A slice can't be.
    #[error(transparent)]
    Slice(#[from] SliceError),
    /// A slice can't be split.
    #[error("slice {slice}: {source}")]
    Split {
        /// The slice.
        slice: String,
        /// What is wrong.
        source: BoxError,
    },
    /// A slice has not as many bytes as its box.
    #[error("slice {slice} has {actual} bytes of data, expected {expected}")]
    Length {
        /// The slice.
        slice: String,
        /// Bytes of its box.
        expected: u64,
        /// Bytes given.
        actual: u64,
    },
    /// One rank gave the same box twice.
    #[error("rank {rank} gave slice {slice} twice")]
    Twice {
        /// The rank.
        rank: u32,
        /// The slice.
        slice: String,
    },
    /// The user metadata is too long.
    #[error(
        "user metadata of {actual} bytes is over the limit of {MAX_USER_METADATA_BYTES}: save it as a file of the \
         checkpoint"
    )]
    Metadata {
        /// Its bytes.
        actual: usize,
    },
    /// The cursors can't be kept.
    #[error("the cursors of the data streams can't be saved: {0}")]
    Cursors(#[source] MetaError),
    /// The part of this rank can't be made.
    #[error("the part of rank {rank} can't be made")]
    Part {
        /// The rank.
        rank: u32,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
    /// Bytes were not stored.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The source did not give its bytes.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The latest checkpoint of the run, or the one at this step, can't be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The checkpoint at this step has other content.
    #[error(transparent)]
    Compare(#[from] CompareError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Fault),
}
