//! Element types: those of safetensors 0.8, sub-byte ones included.
//!
//! Must never convert elements: bytes stay as they were given.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! dtypes {
    ($($name:ident $bits:literal $doc:literal)*) => {
        /// The type of a tensor's elements, named as in safetensors.
        #[allow(non_camel_case_types, reason = "the names are those of safetensors, and are stored")]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub enum Dtype {
            $(#[doc = $doc] $name,)*
        }

        impl Dtype {
            /// All types, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the bits of one element.
            pub const fn bits(self) -> u64 {
                match self { $(Self::$name => $bits,)* }
            }

            /// Returns the name that safetensors uses.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }

        impl FromStr for Dtype {
            type Err = DtypeError;

            fn from_str(text: &str) -> Result<Self, DtypeError> {
                match text {
                    $(stringify!($name) => Ok(Self::$name),)*
                    _ => Err(DtypeError { text: text.chars().take(40).collect() }),
                }
            }
        }
    };
}

dtypes! {
    BOOL 8 "One byte, 0 or 1."
    F4 4 "4-bit float E2M1 (OCP microscaling), two in a byte."
    F6_E2M3 6 "6-bit float E2M3 (OCP microscaling), four in three bytes."
    F6_E3M2 6 "6-bit float E3M2 (OCP microscaling), four in three bytes."
    U8 8 "Unsigned, 8 bits."
    I8 8 "Signed, 8 bits."
    F8_E5M2 8 "8-bit float E5M2."
    F8_E4M3 8 "8-bit float E4M3."
    F8_E8M0 8 "8-bit scale E8M0 (OCP microscaling)."
    F8_E4M3FNUZ 8 "8-bit float E4M3, finite, unsigned zero."
    F8_E5M2FNUZ 8 "8-bit float E5M2, finite, unsigned zero."
    I16 16 "Signed, 16 bits."
    U16 16 "Unsigned, 16 bits."
    F16 16 "IEEE half precision."
    BF16 16 "Brain float, 16 bits."
    I32 32 "Signed, 32 bits."
    U32 32 "Unsigned, 32 bits."
    F32 32 "IEEE single precision."
    C64 64 "Complex of two F32."
    F64 64 "IEEE double precision."
    I64 64 "Signed, 64 bits."
    U64 64 "Unsigned, 64 bits."
}

/// A text that names no element type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown element type {text:?} (expected one of safetensors 0.8, such as F32, BF16 or F8_E4M3)")]
pub struct DtypeError {
    text: String,
}

impl Dtype {
    /// Returns the bytes of `elements` elements; `None` where they are not whole bytes or pass 2^64.
    pub const fn bytes_of(self, elements: u64) -> Option<u64> {
        match elements.checked_mul(self.bits()) {
            Some(bits) if bits.is_multiple_of(8) => Some(bits / 8),
            _ => None,
        }
    }

    /// Returns how many elements fill whole bytes: 2 of 4 bits, 4 of 6 bits, 1 of the rest.
    pub const fn whole_bytes(self) -> u64 {
        match self.bits() {
            4 => 2,
            6 => 4,
            _ => 1,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_sizes_are_whole_bytes() {
        for dtype in Dtype::ALL {
            assert_eq!(dtype.as_str().parse(), Ok(*dtype));
            assert_eq!(serde_json::to_string(dtype).unwrap(), format!("\"{dtype}\""));
        }
        assert_eq!(Dtype::F4.bytes_of(3), None);
        assert_eq!(Dtype::F6_E2M3.bytes_of(4), Some(3));
        assert_eq!(Dtype::F64.bytes_of(u64::MAX / 4), None);
        assert!("f32".parse::<Dtype>().is_err());
    }
}
