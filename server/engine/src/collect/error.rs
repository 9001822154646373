//! Why a collection stopped.
//!
//! Every error says what could not be read and that nothing was lost by stopping.

use gigastore_formats::name::{Name, ProjectName};

use crate::log::{AppendError, LogError};
use crate::read::ReadError;
use crate::store::StoreError;

/// Another fence stands in the log.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("another collector's fence came first: expected epoch {expected}, actual {actual}")]
pub struct FenceRefusal {
    /// The epoch in which open saves were looked for.
    pub expected: u64,
    /// The epoch at the tail of the log.
    pub actual: u64,
}

/// Why a collection stopped. Deletions before it are good, and the next collection goes on.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// There is no such project.
    #[error("no project {:?}", project.as_str())]
    NotFound {
        /// What was asked for.
        project: ProjectName,
        /// What there is.
        known: Vec<String>,
    },
    /// What a live commit refers to is not known.
    #[error(
        "the collection stopped and deleted nothing: what {name}@{number} refers to can't be read, so that nothing \
         can be told from garbage; `gigastore verify` says what is damaged"
    )]
    Unreadable {
        /// The run or dataset.
        name: Name,
        /// The step or version.
        number: u64,
        /// What is wrong.
        #[source]
        source: ReadError,
    },
    /// The fence could not be appended.
    #[error(transparent)]
    Append(#[from] AppendError<FenceRefusal>),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
