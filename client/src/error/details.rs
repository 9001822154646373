//! What an error is about, in parts that programs read.
//!
//! Must never say less than the error's text.

use std::fmt::Display;

use gigastore_formats::pack::PackFault;

/// What an error is about, in parts that programs read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Details {
    /// The object's key.
    pub object: Option<String>,
    /// What was expected of it.
    pub expected: Option<String>,
    /// What it is.
    pub actual: Option<String>,
}

impl Details {
    pub(super) fn differs(expected: &dyn Display, actual: &dyn Display) -> Self {
        Self { object: None, expected: Some(expected.to_string()), actual: Some(actual.to_string()) }
    }

    pub(super) fn in_object(self, object: &str) -> Self {
        Self { object: Some(object.to_owned()), ..self }
    }

    /// Returns what a fault in a pack says.
    pub(super) fn of_pack_fault(fault: &PackFault) -> Self {
        let bytes = |bytes: &u64| format!("{bytes} bytes");
        match fault {
            PackFault::Group { expected, actual, .. } | PackFault::Stored { expected, actual } => {
                Self::differs(expected, actual)
            }
            PackFault::Frame { index, source } => Self::differs(&format!("frame {index} of a slice"), source),
            PackFault::Pad { position, found } => {
                Self::differs(&"a pad of zeros", &format!("{found:#04x} at byte {position}"))
            }
            PackFault::Short { expected, actual } => Self::differs(&bytes(expected), &bytes(actual)),
            PackFault::Long { expected } => Self::differs(&bytes(expected), &"more"),
        }
    }
}
