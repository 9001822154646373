//! What can go wrong at an object store, sorted by what a person does next.
//!
//! Must never lose the source: it stays as the error's cause.

use std::io::ErrorKind;

use gigastore_formats::range::ByteRange;

/// Why an operation on a stored object failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("no object {key} in the store")]
    NotFound {
        /// The object's key.
        key: String,
    },
    /// There is no room left.
    #[error(
        "the store is full: {key} could not be written; free space (nothing half-written is visible) and run the \
         same again"
    )]
    Full {
        /// The object's key.
        key: String,
        /// What the store said.
        #[source]
        source: object_store::Error,
    },
    /// The store takes no writes.
    #[error("the store is read-only: {key} could not be written; mount it writable or name another store")]
    ReadOnly {
        /// The object's key.
        key: String,
        /// What the store said.
        #[source]
        source: object_store::Error,
    },
    /// The store does not allow it.
    #[error(
        "the store denies access to {key}: the user of this process, or the store's credentials, must be allowed to \
         read it, and to write where anything is stored"
    )]
    Denied {
        /// The object's key.
        key: String,
        /// What the store said.
        #[source]
        source: object_store::Error,
    },
    /// The object is shorter than what was asked for.
    #[error("{key} ends before {wanted}: its length is {actual}; the object was truncated")]
    Short {
        /// The object's key.
        key: String,
        /// What was asked for.
        wanted: ByteRange,
        /// The object's length.
        actual: u64,
    },
    /// The object is longer than its kind may be; nothing was read.
    #[error("{key} has {actual} bytes, over the limit of {limit} for its kind")]
    TooLong {
        /// The object's key.
        key: String,
        /// Most bytes.
        limit: u64,
        /// The object's length.
        actual: u64,
    },
    /// The bytes to be stored did not come, or were not those that were promised.
    #[error("{key} was not stored: {source}")]
    Body {
        /// The object's key.
        key: String,
        /// What was wrong with the bytes.
        source: super::BodyError,
    },
    /// The store did not answer, or answered with a fault of its own. Worth trying again.
    #[error("the store did not do its part for {key}; try again")]
    Unavailable {
        /// The object's key.
        key: String,
        /// What the store said.
        #[source]
        source: object_store::Error,
    },
}

impl StoreError {
    /// Sorts an error of the store that came up for `key`.
    pub(super) fn sort(key: &str, source: object_store::Error) -> Self {
        let key = key.to_owned();
        match &source {
            object_store::Error::NotFound { .. } => return Self::NotFound { key },
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                return Self::Denied { key, source };
            }
            _ => {}
        }
        match io_kind(&source) {
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge) => {
                Self::Full { key, source }
            }
            Some(ErrorKind::ReadOnlyFilesystem) => Self::ReadOnly { key, source },
            Some(ErrorKind::PermissionDenied) => Self::Denied { key, source },
            _ => Self::Unavailable { key, source },
        }
    }

    /// Returns the object's key.
    pub fn key(&self) -> &str {
        match self {
            Self::NotFound { key }
            | Self::Full { key, .. }
            | Self::ReadOnly { key, .. }
            | Self::Denied { key, .. }
            | Self::Short { key, .. }
            | Self::TooLong { key, .. }
            | Self::Body { key, .. }
            | Self::Unavailable { key, .. } => key,
        }
    }

    /// Tells whether the object is simply not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Tells whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Finds the kind of the I/O error at the bottom of a store's error.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    let mut cause = Some(error);
    let mut kind = None;
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            kind = Some(io.kind());
        }
        cause = error.source();
    }
    kind
}
