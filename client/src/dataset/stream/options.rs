//! What a stream reads, and how: datasets, order, packing, whose share.
//!
//! Must never hold a default that depends on the machine: the same options mean the same samples everywhere.

use gigastore_formats::name::Target;
use gigastore_formats::order::{
    Cursor, CursorError, OrderSpec, Packing, SourceSpec, SpecError, StreamSpec, Unit, WeightError,
};
use gigastore_formats::table::tokens::TokenError;
use gigastore_formats::wire::{Fault, FaultCode};

use super::super::read::DatasetError;
use crate::error::Coded;

/// Lanes, unless set: 16. Divided by 1, 2, 4, 8 and 16 ranks, and few enough that one process that reads them all, in
/// windows of the default size, holds half a GiB.
pub const DEFAULT_LANES: u32 = 16;

/// Row groups of a window, unless set: 2 of 16 MiB, with some 16,000 documents each.
pub const DEFAULT_WINDOW: u32 = 2;

/// Bytes that are read ahead of the samples, unless set: 256 MiB, eight windows of the default size.
pub const DEFAULT_PREFETCH_BYTES: u64 = 256 << 20;

/// A dataset of a stream.
#[derive(Clone, PartialEq, Debug)]
pub struct StreamSource {
    /// The dataset.
    pub target: Target,
    /// Its weight beside the others; a number of any size.
    pub weight: f64,
    /// How often it is read; for ever where there is no number.
    pub epochs: Option<u64>,
}

/// Whose samples are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// The data-parallel rank.
    pub rank: u32,
    /// Data-parallel ranks.
    pub world_size: u32,
    /// Samples of each rank's batch.
    pub batch_size: u32,
    /// The worker of this rank's data loader, of which each makes every so many'th batch.
    pub worker: u32,
    /// Workers of this rank's data loader.
    pub workers: u32,
}

/// What becomes of the last samples, where they do not make a whole batch for every rank.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    /// The batch is filled with samples that are nothing but padding.
    Pad,
    /// They are left out.
    Drop,
}

/// What becomes of a row group that is damaged or lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDamage {
    /// The stream ends with an error that names it. The cursor stands before the batch, which can be asked for again.
    Fail,
    /// Its documents count as missing: all samples keep their positions, and its tokens are padding.
    Skip,
}

/// What a batch has beside tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Columns {
    /// The token that padding consists of.
    pub pad: u32,
    /// Whether positions within documents are wanted.
    pub position_ids: bool,
    /// Whether it is wanted which tokens are there.
    pub loss_mask: bool,
}

/// What a stream reads, and how.
#[derive(Clone, PartialEq, Debug)]
pub struct StreamOptions {
    /// The datasets.
    pub sources: Vec<StreamSource>,
    /// How each of them is put in order.
    pub order: OrderSpec,
    /// What is counted: by what datasets are weighed, and what the budget is of.
    pub unit: Unit,
    /// How much is counted before the stream ends.
    pub budget: Option<u64>,
    /// Whose samples are wanted.
    pub share: Share,
    /// What becomes of the last samples.
    pub last: Last,
    /// What becomes of damage.
    pub damage: OnDamage,
    /// What a batch has.
    pub columns: Columns,
    /// Bytes that are read ahead.
    pub prefetch_bytes: u64,
    /// Where to go on. What it says was seen is counted on by this rank: a joined one is for one rank to count on, and
    /// the others take it with `seen` at nothing.
    pub cursor: Option<Cursor>,
    /// The number of the first batch. Which worker makes a batch depends on its number.
    pub first_step: u64,
}

/// Why there is no stream, or no next batch. What was handed out stays valid, and the cursor with it.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// No dataset.
    #[error("a stream needs at least one dataset")]
    NoSource,
    /// A share that can't be.
    #[error("{what} is {actual}, which must be below {limit}")]
    Share {
        /// Which number.
        what: &'static str,
        /// The first number that is too large.
        limit: u32,
        /// The number.
        actual: u32,
    },
    /// A batch with more tokens than its borders can count.
    #[error("a batch would have {actual} tokens, the limit is {}: take fewer samples", i32::MAX)]
    Batch {
        /// The tokens.
        actual: u64,
    },
    /// The order can't be made.
    #[error("{target}: {source}")]
    Spec {
        /// The dataset.
        target: String,
        /// What is wrong.
        source: SpecError,
    },
    /// Weights that are none.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// The cursor is not one of this stream.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// A dataset can't be opened.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// A row group can't be read, or is not what was committed.
    #[error("{target}: row group {group} of {path} can't be read: {source}")]
    Read {
        /// The dataset.
        target: String,
        /// The file.
        path: String,
        /// The row group of the file.
        group: usize,
        /// What is wrong.
        source: DatasetError,
    },
    /// A row group matches its digest, and can't be read.
    #[error("{target}: row group {group} of {path} can't be read: {source}")]
    Tokens {
        /// The dataset.
        target: String,
        /// The file.
        path: String,
        /// The row group of the file.
        group: usize,
        /// What is wrong.
        source: TokenError,
    },
    /// A document matches its digest, and names a token that its row group's dictionary does not have.
    #[error(
        "{target}: row {row} of {path} has token {actual}, and the dictionary of its row group ends at {greatest}; \
         push a file whose pages are right"
    )]
    Beyond {
        /// The dataset.
        target: String,
        /// The file.
        path: String,
        /// The row of the file, from 0.
        row: u64,
        /// The token.
        actual: u16,
        /// The greatest of the dictionary.
        greatest: u16,
    },
    /// A row group is not what the manifest planned.
    #[error("{target}: row group {group} of {path} has {actual} {what}, the manifest says {expected}")]
    Planned {
        /// The dataset.
        target: String,
        /// The file.
        path: String,
        /// The row group of the file.
        group: usize,
        /// `rows` or `tokens`.
        what: &'static str,
        /// By the manifest.
        expected: u64,
        /// In the file.
        actual: u64,
    },
    /// The column of counts says something else than the lists.
    #[error("{target}: the counts of {path} are not the lengths of its documents: push the file again with --rewrite")]
    Counts {
        /// The dataset.
        target: String,
        /// The first file of the window.
        path: String,
    },
    /// The threads that make batches ended without a word.
    #[error(
        "what makes the batches of the stream ended in the middle: that is a defect; what it said stands on stderr"
    )]
    Broken,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl StreamOptions {
    /// Returns the options of a stream of one dataset for one process, with everything else at its default.
    pub fn new(target: Target, seed: u64, packing: Packing, batch_size: u32) -> Self {
        Self {
            sources: vec![StreamSource { target, weight: 1.0, epochs: Some(1) }],
            order: OrderSpec { seed: Some(seed), lanes: DEFAULT_LANES, window: DEFAULT_WINDOW, packing },
            unit: match packing {
                Packing::Documents => Unit::Samples,
                _ => Unit::Tokens,
            },
            budget: None,
            share: Share { rank: 0, world_size: 1, batch_size, worker: 0, workers: 1 },
            last: Last::Pad,
            damage: OnDamage::Fail,
            columns: Columns { pad: 0, position_ids: false, loss_mask: false },
            prefetch_bytes: DEFAULT_PREFETCH_BYTES,
            cursor: None,
            first_step: 0,
        }
    }

    /// Checks what does not depend on the datasets.
    pub(super) fn check(&self) -> Result<(), StreamError> {
        if self.sources.is_empty() {
            return Err(StreamError::NoSource);
        }
        let Share { rank, world_size, batch_size, worker, workers } = self.share;
        let below = |what, actual: u32, limit: u32| {
            if actual < limit { Ok(()) } else { Err(StreamError::Share { what, limit, actual }) }
        };
        below("rank", rank, world_size)?;
        below("worker", worker, workers)?;
        below("batch_size 0", 0, batch_size)?;
        let global = u64::from(world_size) * u64::from(batch_size);
        let tokens = u64::from(batch_size) * u64::from(self.order.packing.seq_len().unwrap_or(1));
        // The samples of a global batch are numbered by 32 bits too.
        match global.max(tokens) {
            actual if actual > i32::MAX as u64 => Err(StreamError::Batch { actual }),
            _ => Ok(()),
        }
    }

    pub(super) fn spec(&self, sources: Vec<SourceSpec>) -> StreamSpec {
        StreamSpec { sources, unit: self.unit, budget: self.budget }
    }
}

impl StreamError {
    /// Tells whether the same may succeed later: the store did not answer.
    pub(super) fn is_passing(&self) -> bool {
        self.code() == FaultCode::Unavailable
    }

    /// Tells whether stored bytes are not what was committed, or can't be understood: trying again will not help.
    pub(super) fn is_damage(&self) -> bool {
        let lasts = |fault: &Fault| matches!(fault.code, FaultCode::Integrity | FaultCode::Lost);
        match self {
            Self::Tokens { .. } | Self::Beyond { .. } | Self::Planned { .. } => true,
            Self::Dataset(error) | Self::Read { source: error, .. } => match error {
                DatasetError::Damaged { .. } | DatasetError::Tokens { .. } | DatasetError::RowGroups { .. } => true,
                DatasetError::Store(fault) => lasts(fault),
                _ => false,
            },
            Self::Store(fault) => lasts(fault),
            _ => false,
        }
    }
}
