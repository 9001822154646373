//! What kind of fault each error of the client is: one code for exit statuses, and for callers that decide by it.
//!
//! Must never have a `_` arm over errors of the client: a new one must be thought about.

mod background;
mod dataset;
mod details;
mod files;
mod mirror;
mod stream;
mod sums;

use std::error::Error;
use std::io::ErrorKind;

use gigastore_formats::pack::PackError;
use gigastore_formats::wire::{Fault, FaultCode};

use crate::checkpoint::compare::CompareError;
use crate::checkpoint::model::ModelError;
use crate::checkpoint::open::OpenError;
use crate::checkpoint::restore::RestoreError;
use crate::checkpoint::save::SaveError;
use crate::staging::StagingError;
use crate::transfer::FetchError;
use crate::transfer::WriteError;
use crate::transfer::source::SourceError;

pub use details::Details;

/// An error that says what kind of fault it is.
pub trait Coded: Error {
    /// Returns the kind.
    fn code(&self) -> FaultCode;

    /// Returns the error that this one hands on, where there is one.
    fn behind(&self) -> Option<&dyn Coded> {
        None
    }

    /// Returns the store's own description, where the store failed.
    fn fault(&self) -> Option<&Fault> {
        self.behind()?.fault()
    }

    /// Returns the names that exist where the asked one does not.
    fn known(&self) -> &[String] {
        self.behind().map_or(&[], |behind| behind.known())
    }

    /// Returns the object concerned, what was expected of it and what it is, as far as the error knows.
    fn details(&self) -> Details {
        self.behind().map(Coded::details).unwrap_or_default()
    }
}

impl Coded for Fault {
    fn code(&self) -> FaultCode {
        self.code
    }

    fn fault(&self) -> Option<&Fault> {
        Some(self)
    }

    fn known(&self) -> &[String] {
        &self.known
    }

    fn details(&self) -> Details {
        let Self { object, expected, actual, .. } = self.clone();
        Details { object, expected, actual }
    }
}

/// Returns the kind of a failure of the local system.
pub fn io_code(error: &std::io::Error) -> FaultCode {
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
            Self::Exists { .. } | Self::InTheWay { .. } => FaultCode::Conflict,
            Self::Path(_) => FaultCode::Invalid,
            Self::Io { source, .. } | Self::Left { source, .. } => io_code(source),
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

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Source(source) => Some(source),
            Self::Memory { .. } | Self::Pack(_) => None,
            Self::Store(fault) => Some(fault),
        }
    }
}

impl Coded for FetchError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Damaged { .. } | Self::Header { .. } | Self::Absent { .. } => FaultCode::Integrity,
            Self::Newer { .. } => FaultCode::NewerFormat,
            Self::Sink { source, .. } => io_code(source),
            Self::Store(fault) => fault.code,
        }
    }

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Store(fault) => Some(fault),
            Self::Damaged { .. }
            | Self::Header { .. }
            | Self::Newer { .. }
            | Self::Absent { .. }
            | Self::Sink { .. } => None,
        }
    }

    fn details(&self) -> Details {
        match self {
            Self::Damaged { object, fault, .. } => Details::of_pack_fault(fault).in_object(object),
            Self::Header { object, source: PackError::Name { expected, actual }, .. } => {
                Details::differs(expected, actual).in_object(object)
            }
            Self::Header { object, source, .. } | Self::Newer { object, source, .. } => {
                Details::differs(&"the header of a pack", source).in_object(object)
            }
            Self::Absent { object, offset, blake3, .. } => {
                let expected = format!("a slice with BLAKE3 {blake3} at byte {offset}");
                Details::differs(&expected, &"no such slice").in_object(object)
            }
            Self::Sink { .. } => Details::default(),
            Self::Store(fault) => fault.details(),
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

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Store(fault) => Some(fault),
            Self::Dataset { .. } | Self::Index { .. } | Self::Damaged { .. } | Self::Manifest { .. } => None,
        }
    }

    fn details(&self) -> Details {
        match self {
            Self::Damaged { object, source, .. } => {
                Details::differs(&source.expected, &source.actual).in_object(object)
            }
            Self::Dataset { .. } | Self::Index { .. } | Self::Manifest { .. } => Details::default(),
            Self::Store(fault) => fault.details(),
        }
    }
}

impl Coded for RestoreError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Unknown { .. } => FaultCode::NotFound,
            Self::Box { .. } | Self::Length { .. } => FaultCode::Invalid,
            Self::Uncovered { .. } => FaultCode::Integrity,
            Self::Plan { .. } => FaultCode::NewerFormat,
            Self::Fetch(source) => source.code(),
        }
    }

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Fetch(source) => Some(source),
            Self::Unknown { .. }
            | Self::Box { .. }
            | Self::Length { .. }
            | Self::Uncovered { .. }
            | Self::Plan { .. } => None,
        }
    }

    fn known(&self) -> &[String] {
        match self {
            Self::Unknown { known, .. } => known,
            other => other.behind().map_or(&[], |behind| behind.known()),
        }
    }

    fn details(&self) -> Details {
        match self {
            Self::Fetch(source) => source.details(),
            Self::Length { expected, actual, .. } | Self::Uncovered { expected, actual, .. } => {
                Details::differs(&format!("{expected} bytes"), &format!("{actual} bytes"))
            }
            Self::Unknown { .. } | Self::Box { .. } | Self::Plan { .. } => Details::default(),
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

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Differs { .. } => None,
            Self::Read(source) => Some(source),
        }
    }

    fn details(&self) -> Details {
        match self {
            Self::Differs { expected, actual, .. } => Details::differs(expected, actual),
            Self::Read(source) => source.details(),
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
            | Self::Cursors(_)
            | Self::Part { .. } => FaultCode::Invalid,
            Self::Write(source) => source.code(),
            Self::Source(source) => source.code(),
            Self::Open(source) => source.code(),
            Self::Compare(source) => source.code(),
            Self::Store(fault) => fault.code,
        }
    }

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Slice(_)
            | Self::Split { .. }
            | Self::Length { .. }
            | Self::Twice { .. }
            | Self::Metadata { .. }
            | Self::Cursors(_)
            | Self::Part { .. } => None,
            Self::Source(source) => Some(source),
            Self::Write(source) => Some(source),
            Self::Open(source) => Some(source),
            Self::Compare(source) => Some(source),
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
