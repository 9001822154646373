//! Why a push commits nothing, and what it warns of.
//!
//! Must never leave out which file is meant.

use std::fmt;
use std::sync::Arc;

use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::ManifestError;
use gigastore_formats::name::NameError;
use gigastore_formats::table::FooterError;
use gigastore_formats::table::tokens::TokenError;
use gigastore_formats::wire::Fault;

use super::rewrite::RewriteError;
use crate::dataset::read::DatasetError;
use crate::transfer::source::SourceError;
use crate::transfer::write::WriteError;

/// Why a version was not committed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// No file was given.
    #[error("no file to push: name at least one Parquet file")]
    NoFiles,
    /// Two files would have the same path in the dataset.
    #[error(
        "{first} and {second} would both be {path:?} in the dataset: push them from different folders, or rename one"
    )]
    SamePath {
        /// The path.
        path: String,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
    /// The newest version has another file of that path.
    #[error("the newest version has another file {path:?}: rename yours, or replace that one (--replace)")]
    Taken {
        /// The path.
        path: String,
    },
    /// Documents were taken down of a file while it was pushed.
    #[error("documents of {path:?} were taken down while it was pushed, and yours may have them: push again")]
    TakenDown {
        /// The path.
        path: String,
    },
    /// A file of another schema was pushed meanwhile, and stays beside those of this push.
    #[error("{first} was pushed meanwhile and has another schema than {second}: push again, to compare their columns")]
    Meanwhile {
        /// The file that was pushed meanwhile.
        first: String,
        /// A file of this push.
        second: String,
    },
    /// The dataset's name is that of a run.
    #[error("{target} is a run: push under another name")]
    Run {
        /// The target.
        target: String,
    },
    /// A file's name can't be a path in a dataset.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A file is not a sound Parquet file.
    #[error("{path} is not a sound Parquet file: {source}")]
    Parquet {
        /// The file.
        path: String,
        /// What is wrong.
        source: FooterError,
    },
    /// The token column of a file can't be found or read.
    #[error("{path}: {source} (a table without tokens is pushed with --no-tokens)")]
    Tokens {
        /// The file.
        path: String,
        /// What is wrong.
        source: Arc<TokenError>,
    },
    /// The ids of a file can't be read.
    #[error("{path}: its ids can't be read: {source}")]
    Ids {
        /// The file.
        path: String,
        /// What is wrong.
        source: RewriteError,
    },
    /// A token is not in the vocabulary.
    #[error("{path}, row {row}: token {token} is not in a vocabulary of {vocab_size} tokens")]
    Vocabulary {
        /// The file.
        path: String,
        /// Row of the file, from 0.
        row: u64,
        /// The token.
        token: u32,
        /// Tokens of the vocabulary.
        vocab_size: u32,
    },
    /// The count of a document is not how many tokens it has.
    #[error("{path}, row {row}: n_tokens is {expected}, the document has {actual} tokens")]
    Count {
        /// The file.
        path: String,
        /// Row of the file, from 0.
        row: u64,
        /// What the file says.
        expected: u32,
        /// Its tokens.
        actual: u32,
    },
    /// Files differ in their columns.
    #[error("{first} and {second} can't be in one dataset: {difference}; push them as datasets of their own")]
    Mixed {
        /// One file.
        first: String,
        /// The other.
        second: String,
        /// What differs.
        difference: String,
    },
    /// The files that are kept have tokens of a larger vocabulary.
    #[error("the files that are kept have a vocabulary of {expected} tokens, not of {actual}: pass that, or none")]
    KeptVocabulary {
        /// The vocabulary of the newest version.
        expected: u32,
        /// What was asked for.
        actual: u32,
    },
    /// The files that are kept were made with another tokenizer.
    #[error(
        "the files that are kept were made with the tokenizer {expected}, not with {actual}: tokens of two tokenizers \
         do not mix; push another dataset"
    )]
    KeptTokenizer {
        /// The tokenizer of the newest version.
        expected: Digest,
        /// That of this push.
        actual: Digest,
    },
    /// A file could not be written anew.
    #[error("{path} can't be rewritten: {source}")]
    Rewrite {
        /// The file.
        path: String,
        /// What is wrong.
        source: RewriteError,
    },
    /// A file can't be read, or changed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A file was not stored.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The manifest can't be made.
    #[error("the manifest can't be made")]
    Manifest(#[from] ManifestError),
    /// The newest version can't be read.
    #[error(transparent)]
    Newest(DatasetError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl From<DatasetError> for PushError {
    fn from(error: DatasetError) -> Self {
        match error {
            DatasetError::Checkpoint { target } => Self::Run { target },
            error => Self::Newest(error),
        }
    }
}

/// What a push tells of files that it takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PushWarning {
    /// Row groups are so large that readers need much memory.
    LargeRowGroups {
        /// Path within the dataset.
        path: String,
        /// Its row groups that are too large.
        groups: usize,
        /// Bytes of the largest: stored, or of its tokens in memory.
        bytes: u64,
        /// Tokens of the largest.
        tokens: u64,
    },
    /// The file brings back documents that were taken down.
    BroughtBack {
        /// Path within the dataset.
        path: String,
        /// Documents that were taken down of the file that is replaced.
        documents: usize,
    },
}

impl PushWarning {
    /// Returns the file's path within the dataset.
    pub fn path(&self) -> &str {
        match self {
            Self::LargeRowGroups { path, .. } | Self::BroughtBack { path, .. } => path,
        }
    }
}

impl fmt::Display for PushWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LargeRowGroups { path, groups, bytes, tokens } => write!(
                f,
                "{path}: {groups} row groups over 64 MiB, the largest of {bytes} bytes and {tokens} tokens: readers \
                 hold whole row groups in memory; --rewrite writes smaller ones"
            ),
            Self::BroughtBack { path, documents } => {
                write!(f, "{path}: {documents} documents that were taken down may be back: take them down again")
            }
        }
    }
}
