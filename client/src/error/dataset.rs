//! What kind of fault the errors of datasets are.
//!
//! Must never have a `_` arm over errors of the client.

use gigastore_formats::wire::FaultCode;

use super::{Coded, Details, io_code};
use crate::dataset::delta::DeltaError;
use crate::dataset::push::{PushError, RewriteError};
use crate::dataset::read::DatasetError;
use crate::dataset::takedown::TakedownError;
use crate::dataset::versions::RemoveError;

impl Coded for DatasetError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Checkpoint { .. }
            | Self::Range { .. }
            | Self::NoTokens { .. }
            | Self::Tokens { .. }
            | Self::Rows { .. }
            | Self::RowGroups { .. } => FaultCode::Invalid,
            Self::Index(source) => source.code(),
            Self::Manifest { .. } => FaultCode::NewerFormat,
            Self::Unknown { .. } => FaultCode::NotFound,
            Self::Damaged { .. } => FaultCode::Integrity,
            Self::Staging(source) => source.code(),
            Self::Store(fault) => fault.code,
        }
    }

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Checkpoint { .. }
            | Self::Range { .. }
            | Self::NoTokens { .. }
            | Self::Tokens { .. }
            | Self::Rows { .. }
            | Self::RowGroups { .. }
            | Self::Manifest { .. }
            | Self::Unknown { .. }
            | Self::Damaged { .. } => None,
            Self::Index(source) => Some(source),
            Self::Staging(source) => Some(source),
            Self::Store(fault) => Some(fault),
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
            Self::Damaged { object, source, .. } => {
                Details::differs(&source.expected, &source.actual).in_object(object)
            }
            other => other.behind().map(Coded::details).unwrap_or_default(),
        }
    }
}

impl Coded for RewriteError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Io { source, .. } => io_code(source),
            Self::Parquet(_)
            | Self::Arrow(_)
            | Self::Damaged(_)
            | Self::Column { .. }
            | Self::Null { .. }
            | Self::Value { .. }
            | Self::Write(_) => FaultCode::Invalid,
        }
    }
}

impl Coded for PushError {
    fn code(&self) -> FaultCode {
        match self {
            Self::NoFiles
            | Self::SamePath { .. }
            | Self::Name(_)
            | Self::Parquet { .. }
            | Self::Tokens { .. }
            | Self::Vocabulary { .. }
            | Self::Count { .. }
            | Self::Mixed { .. }
            | Self::KeptVocabulary { .. }
            | Self::KeptTokenizer { .. }
            | Self::Manifest(_) => FaultCode::Invalid,
            Self::Run { .. } | Self::Taken { .. } | Self::TakenDown { .. } | Self::Meanwhile { .. } => {
                FaultCode::Conflict
            }
            Self::Rewrite { source, .. } | Self::Ids { source, .. } => source.code(),
            Self::Source(source) => source.code(),
            Self::Write(source) => source.code(),
            Self::Newest(source) => source.code(),
            Self::Store(fault) => fault.code,
        }
    }

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::NoFiles
            | Self::SamePath { .. }
            | Self::Taken { .. }
            | Self::TakenDown { .. }
            | Self::Meanwhile { .. }
            | Self::Run { .. }
            | Self::Name(_)
            | Self::Parquet { .. }
            | Self::Tokens { .. }
            | Self::Vocabulary { .. }
            | Self::Count { .. }
            | Self::Mixed { .. }
            | Self::KeptVocabulary { .. }
            | Self::KeptTokenizer { .. }
            | Self::Manifest(_) => None,
            Self::Rewrite { source, .. } | Self::Ids { source, .. } => Some(source),
            Self::Source(source) => Some(source),
            Self::Write(source) => Some(source),
            Self::Newest(source) => Some(source),
            Self::Store(fault) => Some(fault),
        }
    }
}

impl Coded for RemoveError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Unknown { .. } | Self::Absent { .. } => FaultCode::NotFound,
            Self::Empty { .. } | Self::Manifest(_) => FaultCode::Invalid,
            Self::Newest(source) => source.code(),
            Self::Store(fault) => fault.code,
        }
    }

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Unknown { .. } | Self::Absent { .. } | Self::Empty { .. } | Self::Manifest(_) => None,
            Self::Newest(source) => Some(source),
            Self::Store(fault) => Some(fault),
        }
    }

    fn known(&self) -> &[String] {
        match self {
            Self::Unknown { known, .. } => known,
            other => other.behind().map_or(&[], |behind| behind.known()),
        }
    }
}

impl Coded for TakedownError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Missing { .. } | Self::Absent { .. } => FaultCode::NotFound,
            Self::NoIdColumn { .. } | Self::TooMany { .. } | Self::Differs { .. } | Self::Manifest(_) => {
                FaultCode::Invalid
            }
            Self::Moved { .. } => FaultCode::Conflict,
            Self::Rewrite { source, .. } => source.code(),
            Self::Newest(source) => source.code(),
            Self::Send(source) => source.code(),
            Self::Store(fault) => fault.code,
        }
    }

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Missing { .. }
            | Self::Absent { .. }
            | Self::NoIdColumn { .. }
            | Self::TooMany { .. }
            | Self::Differs { .. }
            | Self::Moved { .. }
            | Self::Manifest(_) => None,
            Self::Rewrite { source, .. } => Some(source),
            Self::Newest(source) => Some(source),
            Self::Send(source) => Some(&**source),
            Self::Store(fault) => Some(fault),
        }
    }
}

impl Coded for DeltaError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Type { .. } | Self::Mixed { .. } | Self::Empty { .. } => FaultCode::Invalid,
            Self::Read(source) => source.code(),
        }
    }

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Type { .. } | Self::Mixed { .. } | Self::Empty { .. } => None,
            Self::Read(source) => Some(source),
        }
    }
}
