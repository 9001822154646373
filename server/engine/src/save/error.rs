//! Why a save can't begin, take a part, or be finished.
//!
//! Must never lose which rank is concerned.

use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::ManifestError;
use gigastore_formats::name::Name;
use gigastore_formats::sealed::SealError;

use crate::commit::CommitError;
use crate::join::JoinError;
use crate::log::LogError;
use crate::store::StoreError;

/// Why a save could not begin, or a part not be taken.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The request makes no sense.
    #[error("{what} is {actual}, expected {expected}")]
    Invalid {
        /// Which number or text.
        what: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// A save of the same target and attempt is open with another shape.
    #[error(
        "attempt {attempt:?} of this step was begun with {expected} ranks, not {actual}: give each launch its own \
         attempt"
    )]
    OtherSave {
        /// The attempt.
        attempt: String,
        /// Ranks it was begun with.
        expected: u32,
        /// Ranks of this request.
        actual: u32,
    },
    /// The run's name is that of a dataset.
    #[error("{name} is a dataset: save under another run")]
    Dataset {
        /// The name.
        name: Name,
    },
    /// The announcement of the save is damaged.
    #[error("{key} is damaged: {source}; save again under a new attempt")]
    Damaged {
        /// Its key.
        key: String,
        /// What is wrong with it.
        source: SealError,
    },
    /// A part can't be read.
    #[error("the part of rank {rank} is not valid")]
    Part {
        /// The rank.
        rank: u32,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a save could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// Ranks have not delivered their parts in time.
    #[error(
        "{missing} of {world_size} ranks have not delivered their part after {waited_s} s: {ranks}; nothing was \
         committed, and what they uploaded is kept for the next try"
    )]
    MissingRanks {
        /// How many.
        missing: usize,
        /// How many there should be.
        world_size: u32,
        /// How long was waited.
        waited_s: u64,
        /// The first of them.
        ranks: String,
    },
    /// A part was listed, and then it was not there any more.
    #[error(
        "the part of rank {rank} was swept while it was to be read, because this save counted as abandoned; nothing \
         was committed: run the same again, only what is missing is sent"
    )]
    Swept {
        /// The rank.
        rank: u32,
    },
    /// Somebody gave the save up.
    #[error("this save was aborted: save again under a new attempt")]
    Aborted,
    /// The save that was to be given up is committed.
    #[error("this save is committed, and can't be aborted any more: drop its step instead")]
    Committed,
    /// One rank delivered two different parts.
    #[error(
        "rank {rank} delivered two different parts ({first} and {second}) in one attempt: two processes claim this \
         rank, or it was restarted with other content; give each launch its own attempt"
    )]
    TwoParts {
        /// The rank.
        rank: u32,
        /// Digest of one.
        first: String,
        /// Digest of the other.
        second: String,
    },
    /// A stored part is not what its name says.
    #[error("{key} is damaged: expected BLAKE3 {expected}, actual {actual}; save again under a new attempt")]
    DamagedPart {
        /// The part's key.
        key: String,
        /// The digest in its name.
        expected: Digest,
        /// The digest of its bytes.
        actual: Digest,
    },
    /// The parts do not make a checkpoint.
    #[error("the parts of this save do not make a checkpoint: {0}; nothing was committed")]
    Join(#[from] JoinError),
    /// A part can't be read, or the request makes no sense.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The checkpoint could not be committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
}
