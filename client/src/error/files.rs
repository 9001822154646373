//! What kind of fault the files of a checkpoint meet, written or only read.
//!
//! Must never have a `_` arm, as its parent.

use gigastore_formats::plan::PlanError;
use gigastore_formats::wire::FaultCode;

use super::{Coded, Details};
use crate::checkpoint::export::ExportError;
use crate::checkpoint::files::FileError;

impl Coded for ExportError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Glob { .. } | Self::Layout(_) => FaultCode::Invalid,
            Self::NoMatch { .. } => FaultCode::NotFound,
            Self::Clash { .. } => FaultCode::Conflict,
            Self::Staging(source) => source.code(),
            Self::Restore(source) => source.code(),
        }
    }

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Glob { .. } | Self::NoMatch { .. } | Self::Clash { .. } | Self::Layout(_) => None,
            Self::Staging(source) => Some(source),
            Self::Restore(source) => Some(source),
        }
    }

    fn known(&self) -> &[String] {
        match self {
            Self::NoMatch { known, .. } => known,
            other => other.behind().map_or(&[], |behind| behind.known()),
        }
    }
}

impl Coded for FileError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Unknown { .. } => FaultCode::NotFound,
            Self::Range { .. } | Self::Layout(_) => FaultCode::Invalid,
            Self::Plan { source, .. } => match source {
                PlanError::Uncovered { .. } => FaultCode::Integrity,
                PlanError::Unknown { .. } => FaultCode::NotFound,
                PlanError::TooMany { .. }
                | PlanError::TooMuch
                | PlanError::Scattered { .. }
                | PlanError::Box { .. } => FaultCode::Invalid,
            },
            Self::Restore(source) => source.code(),
        }
    }

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Unknown { .. } | Self::Range { .. } | Self::Layout(_) | Self::Plan { .. } => None,
            Self::Restore(source) => Some(source),
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
            Self::Range { range, bytes, .. } => Details::differs(&format!("a range of bytes 0..{bytes}"), range),
            Self::Plan { source: PlanError::Uncovered { expected, actual, .. }, .. } => {
                Details::differs(&format!("{expected} bytes"), &format!("{actual} bytes"))
            }
            other => other.behind().map(Coded::details).unwrap_or_default(),
        }
    }
}
