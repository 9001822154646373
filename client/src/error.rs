//! What kind of fault each error of the client is: one code for exit statuses, and for callers that decide by it.
//!
//! Must never have a `_` arm over errors of the client: a new one must be thought about.

use std::error::Error;
use std::io::ErrorKind;

use gigastore_formats::wire::{Fault, FaultCode};

use crate::checkpoint::compare::CompareError;
use crate::checkpoint::export::ExportError;
use crate::checkpoint::model::ModelError;
use crate::checkpoint::open::OpenError;
use crate::checkpoint::restore::RestoreError;
use crate::checkpoint::save::SaveError;
use crate::dataset::push::PushError;
use crate::dataset::read::DatasetError;
use crate::staging::StagingError;
use crate::transfer::FetchError;
use crate::transfer::WriteError;
use crate::transfer::source::SourceError;

/// An error that says what kind of fault it is.
pub trait Coded: Error {
    /// Returns the kind.
    fn code(&self) -> FaultCode;

    /// Returns the store's own description, where the store failed.
    fn fault(&self) -> Option<&Fault> {
        None
    }

    /// Returns the names that exist where the asked one does not.
    fn known(&self) -> &[String] {
        self.fault().map_or(&[], |fault| &fault.known)
    }
}

impl Coded for Fault {
    fn code(&self) -> FaultCode {
        self.code
    }

    fn fault(&self) -> Option<&Fault> {
        Some(self)
    }
}

/// The kind of a failure of the local system.
fn io_code(error: &std::io::Error) -> FaultCode {
    match error.kind() {
        ErrorKind::NotFound => FaultCode::NotFound,
        ErrorKind::PermissionDenied => FaultCode::Denied,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => FaultCode::StoreFull,
        ErrorKind::ReadOnlyFilesystem => FaultCode::ReadOnly,
        _ => FaultCode::Invalid,
    }
}

impl Coded for SourceError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Io { source, .. } => io_code(source),
            Self::Changed { .. } => FaultCode::Conflict,
        }
    }
}

impl Coded for StagingError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Exists { .. } => FaultCode::Conflict,
            Self::Path(_) => FaultCode::Invalid,
            Self::Io { source, .. } => io_code(source),
        }
    }
}

impl Coded for WriteError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Source(source) => source.code(),
            Self::Memory { .. } | Self::Pack(_) => FaultCode::Invalid,
            Self::Store(fault) => fault.code,
        }
    }

    fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Store(fault) => Some(fault),
            Self::Source(_) | Self::Memory { .. } | Self::Pack(_) => None,
        }
    }
}

impl Coded for FetchError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Damaged { .. } | Self::Header { .. } | Self::Absent { .. } => FaultCode::Integrity,
            Self::Sink { source, .. } => io_code(source),
            Self::Store(fault) => fault.code,
        }
    }

    fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Store(fault) => Some(fault),
            Self::Damaged { .. } | Self::Header { .. } | Self::Absent { .. } | Self::Sink { .. } => None,
        }
    }
}

impl Coded for OpenError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Dataset { .. } => FaultCode::Invalid,
            Self::Index { .. } | Self::Damaged { .. } => FaultCode::Integrity,
            Self::Manifest { .. } => FaultCode::NewerFormat,
            Self::Store(fault) => fault.code,
        }
    }

    fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Store(fault) => Some(fault),
            Self::Dataset { .. } | Self::Index { .. } | Self::Damaged { .. } | Self::Manifest { .. } => None,
        }
    }
}

impl Coded for RestoreError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Unknown { .. } => FaultCode::NotFound,
            Self::Box { .. } | Self::Length { .. } => FaultCode::Invalid,
            Self::Uncovered { .. } => FaultCode::Integrity,
            Self::Fetch(source) => source.code(),
        }
    }

    fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fetch(source) => source.fault(),
            Self::Unknown { .. } | Self::Box { .. } | Self::Length { .. } | Self::Uncovered { .. } => None,
        }
    }

    fn known(&self) -> &[String] {
        match self {
            Self::Unknown { known, .. } => known,
            other => other.fault().map_or(&[], |fault| &fault.known),
        }
    }
}

impl Coded for CompareError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Differs { .. } => FaultCode::Conflict,
            Self::Read(source) => source.code(),
        }
    }

    fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Differs { .. } => None,
            Self::Read(source) => source.fault(),
        }
    }
}

impl Coded for SaveError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Slice(_)
            | Self::Split { .. }
            | Self::Length { .. }
            | Self::Twice { .. }
            | Self::Metadata { .. }
            | Self::Part { .. } => FaultCode::Invalid,
            Self::Write(source) => source.code(),
            Self::Source(source) => source.code(),
            Self::Open(source) => source.code(),
            Self::Compare(source) => source.code(),
            Self::Store(fault) => fault.code,
        }
    }

    fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Slice(_)
            | Self::Split { .. }
            | Self::Length { .. }
            | Self::Twice { .. }
            | Self::Metadata { .. }
            | Self::Part { .. }
            | Self::Source(_) => None,
            Self::Write(source) => source.fault(),
            Self::Open(source) => source.fault(),
            Self::Compare(source) => source.fault(),
            Self::Store(fault) => Some(fault),
        }
    }
}

impl Coded for ModelError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Source(source) => source.code(),
            Self::Folder { source, .. } => io_code(source),
            Self::Header { .. }
            | Self::Index { .. }
            | Self::IndexTooLong { .. }
            | Self::NotThere { .. }
            | Self::Twice { .. }
            | Self::Empty { .. }
            | Self::TooMany { .. }
            | Self::NotAFile { .. }
            | Self::Name { .. }
            | Self::Slice(_)
            | Self::Shard { .. } => FaultCode::Invalid,
        }
    }
}

impl Coded for ExportError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Glob { .. } => FaultCode::Invalid,
            Self::NoMatch { .. } => FaultCode::NotFound,
            Self::Clash { .. } => FaultCode::Conflict,
            Self::Staging(source) => source.code(),
            Self::Restore(source) => source.code(),
        }
    }

    fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Restore(source) => source.fault(),
            Self::Glob { .. } | Self::NoMatch { .. } | Self::Clash { .. } | Self::Staging(_) => None,
        }
    }

    fn known(&self) -> &[String] {
        match self {
            Self::NoMatch { known, .. } => known,
            Self::Restore(source) => source.known(),
            Self::Glob { .. } | Self::Clash { .. } | Self::Staging(_) => &[],
        }
    }
}

impl Coded for DatasetError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Checkpoint { .. } | Self::Range { .. } => FaultCode::Invalid,
            Self::Index(source) => source.code(),
            Self::Manifest { .. } => FaultCode::NewerFormat,
            Self::Unknown { .. } => FaultCode::NotFound,
            Self::Damaged { .. } => FaultCode::Integrity,
            Self::Staging(source) => source.code(),
            Self::Store(fault) => fault.code,
        }
    }

    fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Index(source) => source.fault(),
            Self::Store(fault) => Some(fault),
            Self::Checkpoint { .. }
            | Self::Range { .. }
            | Self::Manifest { .. }
            | Self::Unknown { .. }
            | Self::Damaged { .. }
            | Self::Staging(_) => None,
        }
    }

    fn known(&self) -> &[String] {
        match self {
            Self::Unknown { known, .. } => known,
            other => other.fault().map_or(&[], |fault| &fault.known),
        }
    }
}

impl Coded for PushError {
    fn code(&self) -> FaultCode {
        match self {
            Self::NoFiles | Self::SamePath { .. } | Self::Name(_) | Self::Parquet { .. } | Self::Manifest(_) => {
                FaultCode::Invalid
            }
            Self::Run { .. } => FaultCode::Conflict,
            Self::Source(source) => source.code(),
            Self::Write(source) => source.code(),
            Self::Newest(source) => source.code(),
            Self::Store(fault) => fault.code,
        }
    }

    fn fault(&self) -> Option<&Fault> {
        match self {
            Self::NoFiles
            | Self::SamePath { .. }
            | Self::Run { .. }
            | Self::Name(_)
            | Self::Parquet { .. }
            | Self::Manifest(_)
            | Self::Source(_) => None,
            Self::Write(source) => source.fault(),
            Self::Newest(source) => source.fault(),
            Self::Store(fault) => Some(fault),
        }
    }
}
