//! What kind of fault it is that a save in the background meets.
//!
//! Must never have a `_` arm, as its parent.

use gigastore_formats::wire::FaultCode;

use super::Coded;
use crate::checkpoint::asynchronous::AsyncSaveError;

impl Coded for AsyncSaveError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Slices { .. } | Self::Length { .. } | Self::TooLarge { .. } | Self::Memory { .. } => {
                FaultCode::Invalid
            }
            Self::Failed { source, .. } => source.code(),
            Self::CutOff { .. } => FaultCode::CommitStateUnknown,
        }
    }

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Failed { source, .. } => Some(&**source),
            Self::Slices { .. }
            | Self::Length { .. }
            | Self::TooLarge { .. }
            | Self::Memory { .. }
            | Self::CutOff { .. } => None,
        }
    }
}
