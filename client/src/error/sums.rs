//! What kind of fault a comparison with a list of digests meets.
//!
//! Must never have a `_` arm, as its parent.

use gigastore_formats::wire::FaultCode;

use super::Coded;
use crate::sums::SumsError;

impl Coded for SumsError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Line { .. } | Self::Twice { .. } | Self::Empty => FaultCode::Invalid,
            Self::Open(source) => source.code(),
            Self::File(source) => source.code(),
            Self::Dataset(source) => source.code(),
            Self::Store(fault) => fault.code,
        }
    }

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Line { .. } | Self::Twice { .. } | Self::Empty => None,
            Self::Open(source) => Some(source),
            Self::File(source) => Some(source),
            Self::Dataset(source) => Some(source),
            Self::Store(fault) => Some(fault),
        }
    }
}
