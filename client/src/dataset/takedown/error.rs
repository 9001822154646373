//! Why nothing was taken down.
//!
//! Must never leave out which documents or file are meant.

use std::fmt;

use gigastore_formats::manifest::ManifestError;
use gigastore_formats::manifest::dataset::MAX_REMOVED_ROWS;
use gigastore_formats::wire::Fault;

use crate::dataset::push::{PushError, RewriteError};
use crate::dataset::read::DatasetError;

/// Documents that an error names: 20.
const NAMED: usize = 20;

/// Why nothing was taken down.
#[derive(Debug, thiserror::Error)]
pub enum TakedownError {
    /// There is no such dataset.
    #[error("{target} has no versions")]
    Absent {
        /// The dataset.
        target: String,
    },
    /// There are no such documents.
    #[error(
        "{target} has no documents {}; nothing was taken down (--ignore-missing goes on without them)",
        Names(documents)
    )]
    Missing {
        /// The dataset.
        target: String,
        /// What was asked for.
        documents: Vec<String>,
    },
    /// Ids were asked for, and a file has none.
    #[error("{path} has no column of ids ({expected}): name it with --id-column, or documents as FILE:ROW")]
    NoIdColumn {
        /// The file.
        path: String,
        /// What its name would be.
        expected: String,
    },
    /// Too many documents of one file.
    #[error("{path}: {actual} documents taken down are over the limit of {MAX_REMOVED_ROWS} a file: push it anew")]
    TooMany {
        /// The file.
        path: String,
        /// Documents.
        actual: usize,
    },
    /// Another version was committed meanwhile.
    #[error("{target} is at version {actual} now, not at {expected}: take down again, so that its files are looked at")]
    Moved {
        /// The dataset.
        target: String,
        /// The version that was looked at.
        expected: u64,
        /// The newest one.
        actual: u64,
    },
    /// A file that was written anew is not what it was.
    #[error("{path}: written anew, its {what} would differ; nothing was taken down (this is a defect: report it)")]
    Differs {
        /// The file.
        path: String,
        /// What differs.
        what: &'static str,
    },
    /// A file can't be written anew.
    #[error("{path} can't be rewritten: {source}")]
    Rewrite {
        /// The file.
        path: String,
        /// What is wrong.
        source: RewriteError,
    },
    /// The newest version can't be read.
    #[error(transparent)]
    Newest(#[from] DatasetError),
    /// A file that was written anew was not stored.
    #[error(transparent)]
    Send(Box<PushError>),
    /// The manifest can't be made.
    #[error("the manifest can't be made")]
    Manifest(#[from] ManifestError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl From<PushError> for TakedownError {
    fn from(error: PushError) -> Self {
        Self::Send(Box::new(error))
    }
}

/// Some names, and how many more there are.
pub(super) struct Names<'a>(pub(super) &'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<String> = self.0.iter().take(NAMED).map(|name| format!("{name:?}")).collect();
        write!(f, "{}", named.join(", "))?;
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
