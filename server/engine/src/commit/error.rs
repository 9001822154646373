//! Why something was not committed.
//!
//! Every error names the object, what was expected of it and what it is, and what to do next.

use gigastore_formats::digest::Digest;
use gigastore_formats::limits::MAX_MANIFEST_BYTES;
use gigastore_formats::manifest::ManifestError;
use gigastore_formats::name::{Name, NameError};
use gigastore_formats::record::Sort;

use crate::log::{AppendError, LogError};
use crate::place::PlaceError;
use crate::read::ReadError;
use crate::store::StoreError;
use crate::upload::UploadError;

/// Why a commit does not stand at the tail of the log.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Another checkpoint is live at this step.
    #[error(
        "{name}@{number} exists with other content, or with the same in other slices: expected content digest \
         {expected}, actual {actual}; run the same again to have the bytes compared, or save under another step or run"
    )]
    Taken {
        /// The run.
        name: Name,
        /// The step.
        number: u64,
        /// Content digest of what is live.
        expected: Digest,
        /// Content digest of what was to be committed.
        actual: Digest,
    },
    /// Another checkpoint is live at this step, and has all of this save and more.
    #[error(
        "{name}@{number} exists with other content: it has {lacking} tensors or files that this save lacks, first \
         {first:?}; save under another step or run"
    )]
    Lacks {
        /// The run.
        name: Name,
        /// The step.
        number: u64,
        /// How many tensors and files.
        lacking: usize,
        /// The first of them.
        first: String,
    },
    /// Another checkpoint is live at this step, with the same content, but of another place in the data.
    #[error(
        "{name}@{number} exists with the same content, but its data stream {stream:?} is elsewhere: expected \
         {expected}, actual {actual}; save under another step or run"
    )]
    OtherCursor {
        /// The run.
        name: Name,
        /// The step.
        number: u64,
        /// The data stream.
        stream: String,
        /// Where it is in what is live.
        expected: String,
        /// Where it is in what was to be committed.
        actual: String,
    },
    /// The name is that of a dataset, not a run, or the other way round.
    #[error("{name} is a {actual:?}, not a {expected:?}: choose another name")]
    WrongSort {
        /// The name.
        name: Name,
        /// What was to be committed.
        expected: Sort,
        /// What it is.
        actual: Sort,
    },
    /// Another version of the dataset came first.
    #[error("{name}@{number} can't be committed: the newest version is {newest}; run the same again")]
    NotNext {
        /// The dataset.
        name: Name,
        /// The version that was to be committed.
        number: u64,
        /// The newest.
        newest: u64,
    },
    /// The tag is one that nobody may set.
    #[error("{0}")]
    Tag(NameError),
    /// The target of a tag is not live.
    #[error("{name}@{number} does not exist")]
    NotLive {
        /// The run or dataset.
        name: Name,
        /// The step or version.
        number: u64,
    },
    /// Objects uploaded for this commit may be collected by now.
    #[error(
        "objects of this commit were uploaded in epoch {oldest} and the project is in {epoch} now: run the same \
         again, what is missing is sent anew"
    )]
    Expired {
        /// The oldest epoch among the objects.
        oldest: u64,
        /// The project's epoch.
        epoch: u64,
    },
    /// A checkpoint whose packs are referred to was dropped meanwhile.
    #[error(
        "step {base} of {name}, whose unchanged slices this checkpoint shares, was dropped meanwhile: run the same \
         again"
    )]
    BaseDropped {
        /// The run.
        name: Name,
        /// The step.
        base: u64,
    },
}

/// Why a checkpoint, dataset version or tag was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// It does not stand at the tail of the log, or it is not known whether it was appended.
    #[error(transparent)]
    Append(#[from] AppendError<Refusal>),
    /// It took effect, or was found to be there already, and was dropped since.
    #[error("{name}@{number} was committed, by this operation or before it, and dropped since")]
    DroppedSince {
        /// The run or dataset.
        name: Name,
        /// The step or version.
        number: u64,
    },
    /// A pack is not as a rank said.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A dataset file is missing, or has another length than its manifest says.
    #[error(
        "file {path} is not in the store as its manifest says: expected {expected} bytes, actual {actual:?}; push \
         it again"
    )]
    File {
        /// Its path in the dataset.
        path: String,
        /// Its bytes.
        expected: u64,
        /// The bytes in the store, if it is there.
        actual: Option<u64>,
    },
    /// A dataset file is named by an epoch that the project has not reached.
    #[error(
        "file {path} is said to be of epoch {actual}, and the project is in {expected}: no upload can have that name; \
         push it again"
    )]
    Epoch {
        /// Its path in the dataset.
        path: String,
        /// The project's epoch.
        expected: u64,
        /// The epoch in the file's name.
        actual: u64,
    },
    /// A manifest could not be made, or can't be read.
    #[error("the manifest is not valid")]
    Manifest(#[from] ManifestError),
    /// A manifest is longer than a manifest may be.
    #[error("the manifest has {actual} bytes, over the limit of {MAX_MANIFEST_BYTES}: save fewer, larger slices")]
    TooLong {
        /// Its bytes.
        actual: u64,
    },
    /// A manifest could not be stored.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// A manifest could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
