//! What kind of fault each error of this crate is, for exit statuses.
//!
//! Must never have a `_` arm over errors of this crate: a new one must be thought about.

use gigastore_client::Coded;
use gigastore_client::error::io_code;
use gigastore_formats::wire::FaultCode;

use crate::encode::TokenizerError;
use crate::input::{FindError, ReadError};
use crate::part::PartError;
use crate::run::RunError;
use crate::work::WorkError;

impl Coded for FindError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Io { source, .. } => io_code(source),
            Self::Empty { .. } => FaultCode::NotFound,
            Self::Nothing
            | Self::Glob { .. }
            | Self::Ending { .. }
            | Self::Kind { .. }
            | Self::Twice { .. }
            | Self::TooMany => FaultCode::Invalid,
        }
    }
}

impl Coded for ReadError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Io { source, .. } => io_code(source),
            Self::Changed { .. } | Self::OtherStdin { .. } => FaultCode::Conflict,
            Self::Bad { .. } | Self::Parquet { .. } | Self::Footer { .. } | Self::Column { .. } | Self::Bomb { .. } => {
                FaultCode::Invalid
            }
        }
    }
}

impl Coded for TokenizerError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Io { source, .. } => io_code(source),
            Self::Long { .. } | Self::Unsound { .. } | Self::NoToken { .. } | Self::NoEos { .. } => FaultCode::Invalid,
        }
    }
}

impl Coded for WorkError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Io { source, .. } => io_code(source),
            Self::Busy { .. } | Self::Other { .. } => FaultCode::Conflict,
            Self::Damaged { .. } => FaultCode::Integrity,
        }
    }
}

impl Coded for PartError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Io { source, .. } => io_code(source),
            Self::Tokens { .. } => FaultCode::Invalid,
        }
    }
}

impl Coded for RunError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Read(source) => source.code(),
            Self::Part(source) => source.code(),
            Self::Work(source) => source.code(),
            Self::Encode { .. } | Self::NoDocuments { .. } | Self::Thread(_) => FaultCode::Invalid,
        }
    }

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Read(source) => Some(source),
            Self::Part(source) => Some(source),
            Self::Work(source) => Some(source),
            Self::Encode { .. } | Self::NoDocuments { .. } | Self::Thread(_) => None,
        }
    }
}
