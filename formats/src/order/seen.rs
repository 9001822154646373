//! What was seen: a digest that adds up, so that each rank counts its own samples and the sum stands for all.
//!
//! Must never depend on the order in which samples are added, or on who added them.

use serde::{Deserialize, Serialize};

use crate::digest::{hex, unhex};

/// Domain of the digests of samples.
const CONTEXT: &str = "gigastore 2026-11 dataset samples seen, version 1";

/// A sum, modulo 2^256, of digests of samples.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SeenDigest([u64; 4]);

/// What a number of samples had.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Sum of the samples' digests: two runs with the same one saw the same tokens at the same positions.
    pub digest: SeenDigest,
    /// Samples.
    pub samples: u64,
    /// Tokens, without padding and without documents that were taken down.
    pub tokens: u64,
    /// Documents that begin in the samples.
    pub documents: u64,
    /// Planned tokens that were not there: of documents taken down, or skipped because they are damaged.
    pub missing: u64,
}

/// A text that is no such sum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a digest of samples: expected 64 lower-case hex digits")]
pub struct SeenError(String);

/// Computes digests of samples: BLAKE3, in its mode of deriving keys, over the tokens that are there, each piece's
/// length with 2^63 added where its tokens are missing (64 bits: documents may have 2^31 tokens and more), position (64
/// bits), source (32 bits), bytes a token (32 bits: 2 where all tokens are below 65,536, else 4) and number of pieces
/// (32 bits), all little-endian. Read from the end there is one reading of it. The sum takes a digest as a number,
/// lowest byte first.
#[derive(Clone, Debug)]
pub struct SampleHasher {
    hasher: blake3::Hasher,
    tail: Vec<u8>,
}

/// One piece of a sample: its tokens, and whether they are there.
pub type Piece = (u32, bool);

impl Default for SampleHasher {
    fn default() -> Self {
        Self { hasher: blake3::Hasher::new_derive_key(CONTEXT), tail: Vec::new() }
    }
}

impl SampleHasher {
    /// Computes the digest of the sample at `position`, of `source`, from its pieces and the bytes of the tokens that
    /// are there, of which each has `width` bytes.
    pub fn digest(
        &mut self,
        position: u64,
        source: u32,
        width: u32,
        pieces: impl ExactSizeIterator<Item = Piece>,
        tokens: &[u8],
    ) -> SeenDigest {
        // Tokens first, so that they begin where a chunk of BLAKE3 does and several chunks are hashed at a time.
        self.tail.clear();
        let count = pieces.len() as u32;
        for (len, there) in pieces {
            let marked = u64::from(len) | if there { 0 } else { 1 << 63 };
            self.tail.extend(marked.to_le_bytes());
        }
        self.tail.extend(position.to_le_bytes());
        for number in [source, width, count] {
            self.tail.extend(number.to_le_bytes());
        }
        let hash = self.hasher.reset().update(tokens).update(&self.tail).finalize();
        let (numbers, _) = hash.as_bytes().as_chunks::<8>();
        SeenDigest(std::array::from_fn(|i| u64::from_le_bytes(numbers[i])))
    }
}

impl Seen {
    /// Adds what somebody else saw.
    pub fn add(&mut self, other: &Self) {
        self.digest.add(&other.digest);
        self.samples = self.samples.saturating_add(other.samples);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.documents = self.documents.saturating_add(other.documents);
        self.missing = self.missing.saturating_add(other.missing);
    }
}

impl SeenDigest {
    /// Returns the first 12 hex digits, for people.
    pub fn short(&self) -> String {
        hex(&self.0.map(u64::to_le_bytes).as_flattened()[..6])
    }

    /// Adds another sum.
    pub fn add(&mut self, other: &Self) {
        let mut carry = false;
        for (number, more) in self.0.iter_mut().zip(other.0) {
            let (sum, first) = number.overflowing_add(more);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            (*number, carry) = (sum, first || second);
        }
    }
}

impl From<SeenDigest> for String {
    fn from(digest: SeenDigest) -> Self {
        hex(digest.0.map(u64::to_le_bytes).as_flattened())
    }
}

impl TryFrom<String> for SeenDigest {
    type Error = SeenError;

    fn try_from(text: String) -> Result<Self, SeenError> {
        let bytes = unhex(&text).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let bytes = bytes.ok_or(SeenError(text))?;
        let (numbers, _) = bytes.as_chunks::<8>();
        Ok(Self(std::array::from_fn(|i| u64::from_le_bytes(numbers[i]))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_do_not_depend_on_the_order_and_carry() {
        let mut hasher = SampleHasher::default();
        let digests: Vec<_> = (0..100u64).map(|i| hasher.digest(i, 0, 2, [(2, true)].into_iter(), b"abcd")).collect();
        let (mut forth, mut back) = (SeenDigest::default(), SeenDigest::default());
        digests.iter().for_each(|digest| forth.add(digest));
        digests.iter().rev().for_each(|digest| back.add(digest));
        assert_eq!(forth, back);
        assert_ne!(forth, SeenDigest::default());
        let mut sum = SeenDigest([u64::MAX; 4]);
        sum.add(&SeenDigest([1, 0, 0, 0]));
        assert_eq!(sum, SeenDigest::default());
        let text = String::from(forth);
        assert_eq!(SeenDigest::try_from(text).unwrap(), forth);
        SeenDigest::try_from("12".to_owned()).unwrap_err();
    }

    #[test]
    fn everything_of_a_sample_counts() {
        let mut hasher = SampleHasher::default();
        let mut of = |position, source, width, pieces: &[Piece], tokens: &[u8]| {
            hasher.digest(position, source, width, pieces.iter().copied(), tokens)
        };
        let one = of(1, 0, 2, &[(2, true)], b"abcd");
        assert_eq!(one, of(1, 0, 2, &[(2, true)], b"abcd"));
        assert_ne!(one, of(2, 0, 2, &[(2, true)], b"abcd"));
        assert_ne!(one, of(1, 1, 2, &[(2, true)], b"abcd"));
        assert_ne!(one, of(1, 0, 4, &[(2, true)], b"abcd"));
        assert_ne!(one, of(1, 0, 2, &[(1, true), (1, true)], b"abcd"));
        assert_ne!(one, of(1, 0, 2, &[(2, false)], b"abcd"));
        assert_ne!(one, of(1, 0, 2, &[(2, true)], b"abce"));
    }
}
