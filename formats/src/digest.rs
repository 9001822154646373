//! BLAKE3 digests as values: parsed, printed, compared, stored as hex in JSON.
//!
//! Must never hash: whoever handles the bytes does, once, while they are warm (see [`crate::verified`]).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A 32-byte BLAKE3 output: a root hash, what `b3sum` prints for the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is not a [`Digest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a BLAKE3 digest: {text:?} (expected 64 lower-case hex digits)")]
pub struct DigestError {
    text: String,
}

impl Digest {
    /// Wraps 32 bytes that are known to be a BLAKE3 output.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Returns the 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the first 12 hex digits, enough for a person to tell objects apart.
    pub fn short(&self) -> String {
        hex(&self.0[..6])
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        unhex(text)
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| DigestError { text: text.chars().take(80).collect() })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Prints bytes as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    String::from_utf8(digits.collect::<Vec<_>>().into_flattened()).expect("digits are ASCII")
}

/// Reads lower-case hex; `None` for an odd length or any other character. Upper case is refused: one value, one text.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    // Looked up without a branch: which digit is next nobody can guess, and headers of packs are mostly digits.
    let mut all = 0;
    let values = pairs.iter().map(|pair| {
        let [high, low] = pair.map(|digit| VALUES[usize::from(digit)]);
        all |= high | low;
        high << 4 | low & 15
    });
    let values = values.collect();
    (rest.is_empty() && all < 16).then_some(values)
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The value of each digit; 16 for what is none.
const VALUES: [u8; 256] = {
    let (mut values, mut value) = ([16; 256], 0);
    while value < 16 {
        values[DIGITS[value as usize] as usize] = value;
        value += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_only_its_own_form_is_taken() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string(), "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!(digest.to_string().to_uppercase().parse::<Digest>().is_err());
        assert!("6437".parse::<Digest>().is_err());
        assert!("é".repeat(32).parse::<Digest>().is_err());
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    #[test]
    fn hex_of_every_byte_is_read_and_no_other_character() {
        let bytes: Vec<u8> = (0..=255).collect();
        let text = hex(&bytes);
        assert!(text.starts_with("000102") && text.ends_with("fdfeff"), "{text}");
        assert_eq!(unhex(&text), Some(bytes));
        assert_eq!((unhex(""), unhex("0"), unhex("00f")), (Some(Vec::new()), None, None));
        for other in (0..128u8).map(char::from).filter(|c| !matches!(c, '0'..='9' | 'a'..='f')) {
            assert_eq!((unhex(&format!("0{other}")), unhex(&format!("{other}0"))), (None, None), "{other:?}");
        }
    }
}
