//! Sealed documents: one line of JSON and one line with its BLAKE3, so that a small stored document checks itself.
//!
//! ```text
//! {"seq":7,"prev":"…","entries":[…]} {"blake3":"…"}
//! ```
//! The digest covers the first line with its newline: `head -n1 FILE | b3sum` prints it. Must never return a document
//! whose digest does not match.

use serde::{Serialize, de::DeserializeOwned};

use crate::digest::Digest;

/// Why bytes are not a sealed document.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The document is longer than its kind may be.
    #[error("document of {actual} bytes is over the limit of {limit}")]
    TooLong {
        /// Most bytes.
        limit: u64,
        /// Bytes given.
        actual: u64,
    },
    /// There are not two lines of the right form.
    #[error("not a sealed document: expected a line of JSON, then a line {{\"blake3\":\"<64 hex digits>\"}}")]
    Form,
    /// The first line is not what was sealed.
    #[error("document does not match its seal: expected BLAKE3 {expected}, actual {actual}")]
    Digest {
        /// The digest in the second line.
        expected: Digest,
        /// The digest of the first line.
        actual: Digest,
    },
    /// The first line matches its seal and is not the document that was asked for: most likely written by a newer
    /// version.
    #[error("sealed document is not of the expected form (was it written by a newer version?): {0}")]
    Content(#[source] serde_json::Error),
}

const SEAL_START: &str = "{\"blake3\":\"";
const SEAL_END: &str = "\"}\n";

/// Returns the sealed document and its digest.
///
/// # Panics
/// Where `document` can't be JSON (a map with keys that are not text), which no type of this crate is.
pub fn seal<T: Serialize>(document: &T) -> (Vec<u8>, Digest) {
    let mut bytes = serde_json::to_vec(document).expect("stored types are plain data");
    bytes.push(b'\n');
    let digest = Digest::of(&bytes);
    bytes.extend_from_slice(format!("{SEAL_START}{digest}{SEAL_END}").as_bytes());
    (bytes, digest)
}

/// Checks a sealed document of at most `limit` bytes and returns it with its digest.
pub fn unseal<T: DeserializeOwned>(bytes: &[u8], limit: u64) -> Result<(T, Digest), SealError> {
    let actual = bytes.len() as u64;
    if actual > limit {
        return Err(SealError::TooLong { limit, actual });
    }
    let seal_len = SEAL_START.len() + 64 + SEAL_END.len();
    let split = bytes.len().checked_sub(seal_len).ok_or(SealError::Form)?;
    let (line, seal) = bytes.split_at(split);
    let expected = std::str::from_utf8(seal)
        .ok()
        .and_then(|text| text.strip_prefix(SEAL_START)?.strip_suffix(SEAL_END)?.parse().ok())
        .ok_or(SealError::Form)?;
    let actual = Digest::of(line);
    if expected != actual {
        return Err(SealError::Digest { expected, actual });
    }
    if line.last() != Some(&b'\n') || line[..line.len() - 1].contains(&b'\n') {
        return Err(SealError::Form);
    }
    let document = serde_json::from_slice(line).map_err(SealError::Content)?;
    Ok((document, actual))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_seen() {
        let (bytes, digest) = seal(&vec![1, 2, 3]);
        assert_eq!(unseal::<Vec<i32>>(&bytes, 1000).unwrap(), (vec![1, 2, 3], digest));
        for i in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[i / 8] ^= 1 << (i % 8);
            assert!(unseal::<Vec<i32>>(&flipped, 1000).is_err(), "bit {i}");
        }
        for len in 0..bytes.len() {
            assert!(unseal::<Vec<i32>>(&bytes[..len], 1000).is_err(), "cut at {len}");
        }
        assert!(matches!(unseal::<Vec<i32>>(&bytes, 10), Err(SealError::TooLong { .. })));
        assert!(matches!(unseal::<String>(&bytes, 1000), Err(SealError::Content(_))));
    }
}
