//! Errors of data streams.
//!
//! Must never have a `_` arm over errors of the client.

use gigastore_formats::order::CursorError;
use gigastore_formats::wire::FaultCode;

use super::{Coded, Details};
use crate::dataset::stream::StreamError;

impl Coded for StreamError {
    fn code(&self) -> FaultCode {
        match self {
            Self::NoSource
            | Self::Share { .. }
            | Self::Batch { .. }
            | Self::Spec { .. }
            | Self::Weight(_)
            | Self::Broken => FaultCode::Invalid,
            Self::Cursor(
                CursorError::Json(_)
                | CursorError::Format { .. }
                | CursorError::Number { .. }
                | CursorError::Place { .. }
                | CursorError::Lane { .. }
                | CursorError::Rounds { .. },
            ) => FaultCode::Invalid,
            Self::Cursor(CursorError::Algorithm { .. }) => FaultCode::NewerFormat,
            Self::Cursor(
                CursorError::Sources { .. }
                | CursorError::Order { .. }
                | CursorError::Spec { .. }
                | CursorError::Unit { .. }
                | CursorError::Apart { .. },
            ) => FaultCode::Conflict,
            Self::Tokens { .. } | Self::Beyond { .. } | Self::Planned { .. } | Self::Counts { .. } => {
                FaultCode::Integrity
            }
            Self::Dataset(error) | Self::Read { source: error, .. } => error.code(),
            Self::Store(fault) => fault.code,
        }
    }

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::NoSource
            | Self::Share { .. }
            | Self::Batch { .. }
            | Self::Spec { .. }
            | Self::Weight(_)
            | Self::Cursor(_)
            | Self::Tokens { .. }
            | Self::Beyond { .. }
            | Self::Planned { .. }
            | Self::Counts { .. }
            | Self::Broken => None,
            Self::Dataset(error) | Self::Read { source: error, .. } => Some(error),
            Self::Store(fault) => Some(fault),
        }
    }

    fn details(&self) -> Details {
        match self {
            Self::Planned { path, expected, actual, .. } => Details::differs(expected, actual).in_object(path),
            Self::Beyond { path, actual, greatest, .. } => {
                Details::differs(&format!("at most {greatest}"), actual).in_object(path)
            }
            other => other.behind().map(Coded::details).unwrap_or_default(),
        }
    }
}
