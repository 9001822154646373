//! What kind of fault a mirror meets.
//!
//! Must never have a `_` arm, as its parent.

use gigastore_formats::wire::FaultCode;

use super::{Coded, Details};
use crate::mirror::MirrorError;

impl Coded for MirrorError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Nothing { .. } => FaultCode::NotFound,
            Self::Different { .. } | Self::Sort { .. } => FaultCode::Conflict,
            Self::Damaged { .. } => FaultCode::Integrity,
            Self::Checkpoint(source) => source.code(),
            Self::Dataset(source) => source.code(),
            Self::Manifest(_) => FaultCode::Invalid,
            Self::Store(fault) => fault.code,
        }
    }

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Nothing { .. }
            | Self::Different { .. }
            | Self::Sort { .. }
            | Self::Damaged { .. }
            | Self::Manifest(_) => None,
            Self::Checkpoint(source) => Some(source),
            Self::Dataset(source) => Some(source),
            Self::Store(fault) => Some(fault),
        }
    }

    fn details(&self) -> Details {
        match self {
            Self::Different { expected, actual, .. } => Details::differs(expected, actual),
            Self::Damaged { object, .. } => Details::default().in_object(object),
            other => other.behind().map(Coded::details).unwrap_or_default(),
        }
    }
}
