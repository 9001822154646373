//! What kind of fault the errors of datasets are.
//!
//! Must never have a `_` arm over errors of the client.

use gigastore_formats::wire::FaultCode;

use super::{Coded, Details, io_code};
use crate::dataset::push::{PushError, RewriteError};
use crate::dataset::read::DatasetError;

impl Coded for DatasetError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Checkpoint { .. }
            | Self::Range { .. }
            | Self::NoTokens { .. }
            | Self::Tokens { .. }
            | Self::Ids { .. }
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
            | Self::Ids { .. }
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
            Self::Run { .. } | Self::Taken { .. } => FaultCode::Conflict,
            Self::Rewrite { source, .. } => source.code(),
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
            Self::Rewrite { source, .. } => Some(source),
            Self::Source(source) => Some(source),
            Self::Write(source) => Some(source),
            Self::Newest(source) => Some(source),
            Self::Store(fault) => Some(fault),
        }
    }
}
