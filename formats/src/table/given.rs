//! Readers that ask: what such a reader answers, and the bytes it was given so far.
//!
//! Must never fetch, and never take bytes that are not of the object.

use bytes::Bytes;

use crate::range::ByteRange;

/// What a reader that does no I/O answers when it is asked to go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step<T> {
    /// It needs these ranges of the object: all of them, each given whole, in any order. More than asked is fine.
    Need(Vec<ByteRange>),
    /// It is done.
    Done(T),
}

/// Bytes that do not fit the range or the object they are said to be of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("got {actual} bytes as {range} of an object of {object} bytes")]
pub struct GivenError {
    /// The range.
    pub range: ByteRange,
    /// Bytes that were given.
    pub actual: u64,
    /// Bytes of the object.
    pub object: u64,
}

/// The bytes of one object that a reader was given and has not used up.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    object: u64,
    pieces: Vec<(ByteRange, Bytes)>,
}

impl Given {
    /// Starts with nothing of an object of `object` bytes.
    pub(crate) fn new(object: u64) -> Self {
        Self { object, pieces: Vec::new() }
    }

    /// Returns the bytes of the object.
    pub(crate) fn object(&self) -> u64 {
        self.object
    }

    /// Takes one piece.
    pub(crate) fn give(&mut self, range: ByteRange, bytes: Bytes) -> Result<(), GivenError> {
        let actual = bytes.len() as u64;
        if range.len() != actual || range.end() > self.object {
            return Err(GivenError { range, actual, object: self.object });
        }
        self.pieces.push((range, bytes));
        Ok(())
    }

    /// Returns the bytes of `range`, if a piece holds them all. An empty range needs none.
    pub(crate) fn get(&self, range: ByteRange) -> Option<Bytes> {
        if range.is_empty() {
            return Some(Bytes::new());
        }
        let (piece, bytes) = self.pieces.iter().find(|(piece, _)| piece.contains(&range))?;
        let start = (range.start() - piece.start()) as usize;
        Some(bytes.slice(start..start + range.len() as usize))
    }

    /// Returns those of `ranges` that are still missing; none when there is all.
    pub(crate) fn missing(&self, ranges: &[ByteRange]) -> Vec<ByteRange> {
        ranges.iter().copied().filter(|range| self.get(*range).is_none()).collect()
    }

    /// Forgets pieces that end at or before `position`.
    pub(crate) fn forget_before(&mut self, position: u64) {
        self.pieces.retain(|(piece, _)| piece.end() > position);
    }
}
