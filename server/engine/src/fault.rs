//! What each error of the engine means to a client: its code, the object concerned, expected and actual, what to do
//! next.
//!
//! The one place for that; no `_` arm, so that a new error must be thought about. Must never drop a cause: the message
//! holds them all.

use gigastore_formats::wire::{Fault, FaultCode, with_causes};

use crate::collect::CollectError;
use crate::commit::{CommitError, Refusal};
use crate::join::JoinError;
use crate::keep::KeepRefusal;
use crate::log::{AppendError, LogError};
use crate::place::PlaceError;
use crate::probe::ProbeError;
use crate::read::ReadError;
use crate::rebuild::RebuildError;
use crate::retain::{PolicyRefusal, RetainError};
use crate::save::{FinishError, SaveError};
use crate::store::{OpenError, StoreError};
use crate::upload::UploadError;

impl From<&StoreError> for Fault {
    fn from(error: &StoreError) -> Self {
        let (code, key) = match error {
            // Who knows that the object must be there says so with an error of its own.
            StoreError::NotFound { key } => (FaultCode::NotFound, key),
            StoreError::Full { key, .. } => (FaultCode::StoreFull, key),
            StoreError::ReadOnly { key, .. } => (FaultCode::ReadOnly, key),
            StoreError::Denied { key, .. } => (FaultCode::Denied, key),
            StoreError::Short { key, .. } | StoreError::TooLong { key, .. } => (FaultCode::Integrity, key),
            StoreError::Body { key, .. } => (FaultCode::BadUpload, key),
            StoreError::Unavailable { key, .. } => (FaultCode::Unavailable, key),
        };
        Self { object: Some(key.clone()), ..Self::new(code, error) }
    }
}

impl From<&OpenError> for Fault {
    fn from(error: &OpenError) -> Self {
        let code = match error {
            OpenError::Url { .. } | OpenError::Setup { .. } | OpenError::Foreign { .. } => FaultCode::Invalid,
            OpenError::Folder { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull => FaultCode::StoreFull,
                std::io::ErrorKind::ReadOnlyFilesystem => FaultCode::ReadOnly,
                std::io::ErrorKind::PermissionDenied => FaultCode::Denied,
                _ => FaultCode::Invalid,
            },
            OpenError::Absent { .. } => FaultCode::NotFound,
            OpenError::Newer { .. } => FaultCode::NewerFormat,
            OpenError::Marker { .. } => FaultCode::Integrity,
            OpenError::Store(source) => return source.into(),
        };
        Self::new(code, error)
    }
}

impl From<&ProbeError> for Fault {
    fn from(error: &ProbeError) -> Self {
        match error {
            ProbeError::Store(source) => source.into(),
            ProbeError::Overwritten { key } => {
                Self { object: Some(key.clone()), ..Self::new(FaultCode::Invalid, error) }
            }
            ProbeError::Different { key, .. } => {
                Self { object: Some(key.clone()), ..Self::new(FaultCode::Integrity, error) }
            }
        }
    }
}

impl From<&LogError> for Fault {
    fn from(error: &LogError) -> Self {
        match error {
            LogError::Store { source, .. } => {
                let inner = Self::from(source);
                Self { object: inner.object, ..Self::new(inner.code, error) }
            }
            LogError::Damaged { key, .. } => {
                let hint = "`gigastore verify` lists all that is damaged".to_owned();
                Self { object: Some(key.clone()), hint: Some(hint), ..Self::new(FaultCode::Integrity, error) }
            }
        }
    }
}

impl From<&ReadError> for Fault {
    fn from(error: &ReadError) -> Self {
        let damaged = |key: &str, expected: String, actual: String| Self {
            object: Some(key.to_owned()),
            expected: Some(expected),
            actual: Some(actual),
            ..Self::new(FaultCode::Integrity, error)
        };
        match error {
            ReadError::NotFound { known, .. } => Self { known: known.clone(), ..Self::new(FaultCode::NotFound, error) },
            ReadError::Lost { key } => Self { object: Some(key.clone()), ..Self::new(FaultCode::Lost, error) },
            ReadError::Damaged { key, source } => damaged(key, source.expected.to_string(), source.actual.to_string()),
            ReadError::Length { key, expected, actual } => {
                damaged(key, format!("{expected} bytes"), format!("{actual} bytes"))
            }
            ReadError::Index { .. } => Self::new(FaultCode::Integrity, error),
            ReadError::Manifest { key, .. } => {
                Self { object: Some(key.clone()), ..Self::new(FaultCode::NewerFormat, error) }
            }
            ReadError::Log(source) => source.into(),
            ReadError::Store(source) => source.into(),
        }
    }
}

impl From<&RebuildError> for Fault {
    fn from(error: &RebuildError) -> Self {
        match error {
            RebuildError::LogThere { first, .. } | RebuildError::Ambiguous { first, .. } => {
                Self { object: Some(first.clone()), ..Self::new(FaultCode::Conflict, error) }
            }
            RebuildError::Busy { .. } => Self::new(FaultCode::Conflict, error),
            RebuildError::List { key, .. } => {
                Self { object: Some(key.clone()), ..Self::new(FaultCode::Integrity, error) }
            }
            RebuildError::Nothing { .. } => Self::new(FaultCode::NotFound, error),
            RebuildError::Manifest(_) => Self::new(FaultCode::Invalid, error),
            RebuildError::Append(source) => of_append(source),
            RebuildError::Log(source) => source.into(),
            RebuildError::Read(source) => source.into(),
            RebuildError::Store(source) => source.into(),
        }
    }
}

impl From<&UploadError> for Fault {
    fn from(error: &UploadError) -> Self {
        match error {
            UploadError::Header { .. } => Self::new(FaultCode::BadUpload, error),
            UploadError::Length { key, .. } => {
                Self { object: Some(key.clone()), ..Self::new(FaultCode::BadUpload, error) }
            }
            UploadError::Damaged { key, .. } => {
                Self { object: Some(key.clone()), ..Self::new(FaultCode::Integrity, error) }
            }
            UploadError::Epoch { key, .. } => {
                Self { object: Some(key.clone()), ..Self::new(FaultCode::BadUpload, error) }
            }
            UploadError::Log(source) => source.into(),
            UploadError::Store(source) => source.into(),
        }
    }
}

impl From<&SaveError> for Fault {
    fn from(error: &SaveError) -> Self {
        match error {
            SaveError::Invalid { expected, actual, .. } => Self {
                expected: Some(expected.clone()),
                actual: Some(actual.clone()),
                ..Self::new(FaultCode::Invalid, error)
            },
            SaveError::OtherSave { .. } | SaveError::Dataset { .. } => Self::new(FaultCode::Conflict, error),
            SaveError::Damaged { key, .. } => {
                Self { object: Some(key.clone()), ..Self::new(FaultCode::Integrity, error) }
            }
            SaveError::Part { .. } => Self::new(FaultCode::BadUpload, error),
            SaveError::Log(source) => source.into(),
            SaveError::Store(source) => source.into(),
        }
    }
}

impl From<&FinishError> for Fault {
    fn from(error: &FinishError) -> Self {
        match error {
            FinishError::MissingRanks { .. } | FinishError::Swept { .. } => Self::new(FaultCode::MissingRanks, error),
            FinishError::TwoParts { .. } | FinishError::Aborted | FinishError::Committed => {
                Self::new(FaultCode::Conflict, error)
            }
            FinishError::DamagedPart { key, expected, actual } => Self {
                object: Some(key.clone()),
                expected: Some(expected.to_string()),
                actual: Some(actual.to_string()),
                ..Self::new(FaultCode::Integrity, error)
            },
            FinishError::Join(join) => match join {
                JoinError::Disagree { .. } | JoinError::Overlap { .. } | JoinError::WorldSize { .. } => {
                    Self::new(FaultCode::Conflict, error)
                }
                JoinError::Gap { .. } | JoinError::Empty { .. } => Self::new(FaultCode::Invalid, error),
            },
            FinishError::Save(source) => source.into(),
            FinishError::Commit(source) => source.into(),
        }
    }
}

impl From<&CommitError> for Fault {
    fn from(error: &CommitError) -> Self {
        match error {
            CommitError::Append(source) => source.into(),
            CommitError::DroppedSince { .. } => Self::new(FaultCode::Gone, error),
            CommitError::Place(source) => source.into(),
            CommitError::File { .. } => Self::new(FaultCode::Conflict, error),
            CommitError::Epoch { expected, actual, .. } => Self {
                expected: Some(expected.to_string()),
                actual: Some(actual.to_string()),
                ..Self::new(FaultCode::Invalid, error)
            },
            CommitError::Manifest(_) | CommitError::TooLong { .. } => Self::new(FaultCode::Invalid, error),
            CommitError::Upload(source) => source.into(),
            CommitError::Read(source) => source.into(),
            CommitError::Log(source) => source.into(),
            CommitError::Store(source) => source.into(),
        }
    }
}

impl From<&PlaceError> for Fault {
    fn from(error: &PlaceError) -> Self {
        let (code, key) = match error {
            PlaceError::Missing { .. } => (FaultCode::Conflict, None),
            PlaceError::Header { key, source } if source.is_newer() => (FaultCode::NewerFormat, Some(key)),
            PlaceError::Header { key, .. } | PlaceError::Length { key, .. } => (FaultCode::Integrity, Some(key)),
            PlaceError::Slice { key, .. } => (FaultCode::BadUpload, Some(key)),
        };
        Self { object: key.cloned(), ..Self::new(code, error) }
    }
}

impl From<&CollectError> for Fault {
    fn from(error: &CollectError) -> Self {
        match error {
            CollectError::NotFound { known, .. } => {
                Self { known: known.clone(), ..Self::new(FaultCode::NotFound, error) }
            }
            CollectError::Unreadable { source, .. } => {
                let inner = Self::from(source);
                Self { message: with_causes(error), ..inner }
            }
            CollectError::Append(source) => of_append(source),
            CollectError::Log(source) => source.into(),
            CollectError::Store(source) => source.into(),
        }
    }
}

impl From<&RetainError> for Fault {
    fn from(error: &RetainError) -> Self {
        match error {
            RetainError::NotStored => Self::new(FaultCode::Invalid, error),
            RetainError::Policy { .. } => Self::new(FaultCode::NewerFormat, error),
            RetainError::Append(source) => source.into(),
            RetainError::Read(source) => source.into(),
            RetainError::Log(source) => source.into(),
            RetainError::Store(source) => source.into(),
        }
    }
}

impl From<&AppendError<PolicyRefusal>> for Fault {
    fn from(error: &AppendError<PolicyRefusal>) -> Self {
        match error {
            AppendError::Refused(PolicyRefusal::NotFound { known, .. }) => {
                Self { known: known.clone(), ..Self::new(FaultCode::NotFound, error) }
            }
            other => of_append(other),
        }
    }
}

impl From<&AppendError<KeepRefusal>> for Fault {
    fn from(error: &AppendError<KeepRefusal>) -> Self {
        match error {
            AppendError::Refused(KeepRefusal::NotLive { known, .. }) => {
                Self { known: known.iter().map(u64::to_string).collect(), ..Self::new(FaultCode::NotFound, error) }
            }
            AppendError::Refused(
                KeepRefusal::Pinned { .. } | KeepRefusal::Tagged { .. } | KeepRefusal::Newest { .. },
            ) => Self::new(FaultCode::Conflict, error),
            other => of_append(other),
        }
    }
}

impl From<&AppendError<Refusal>> for Fault {
    fn from(error: &AppendError<Refusal>) -> Self {
        match error {
            AppendError::Refused(refusal) => match refusal {
                Refusal::NotLive { .. } => Self::new(FaultCode::NotFound, error),
                Refusal::Tag(_) => Self::new(FaultCode::Invalid, error),
                Refusal::Taken { expected, actual, .. } => Self {
                    expected: Some(expected.to_string()),
                    actual: Some(actual.to_string()),
                    ..Self::new(FaultCode::Conflict, error)
                },
                Refusal::Lacks { .. }
                | Refusal::OtherCursor { .. }
                | Refusal::WrongSort { .. }
                | Refusal::NotNext { .. }
                | Refusal::Expired { .. }
                | Refusal::BaseDropped { .. } => Self::new(FaultCode::Conflict, error),
            },
            other => of_append(other),
        }
    }
}

/// What an append means that did not take effect; a refusal of its own each caller sorts before.
fn of_append<E: std::error::Error + 'static>(error: &AppendError<E>) -> Fault {
    match error {
        AppendError::Refused(_) | AppendError::Void(_) => Fault::new(FaultCode::Conflict, error),
        AppendError::Log(source) => Fault::from(&**source),
        AppendError::Store { source, .. } => {
            let inner = Fault::from(&**source);
            Fault { object: inner.object, ..Fault::new(inner.code, error) }
        }
        AppendError::StateUnknown { .. } => Fault::new(FaultCode::CommitStateUnknown, error),
    }
}
