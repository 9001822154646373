//! Tokens of two bytes where they lie: in pages that were read and are not compressed, as our files have them.
//!
//! A copy of them would cost as much as reading them did. The whole chunk is held as long as they are: whoever keeps
//! them looks at how long it is. Must never note more runs than one for 1,024 tokens, and one for each page.

use bytes::Bytes;

use super::buffer::TokenList;
use super::values::{Dictionary, Sink, ValueFault, Values};

/// The shortest run of tokens that is kept where it lies, unless it ends a page: 1,024, so that what is noted of it is
/// little beside it. Ours are as long as their pages.
pub(super) const SHORTEST_RUN: usize = 1024;

/// Tokens in pages, one after the other.
#[derive(Clone, Debug, Default)]
pub struct StoredTokens {
    runs: Vec<StoredRun>,
    len: u32,
}

/// Tokens that follow on each other in a page.
#[derive(Clone, Debug)]
struct StoredRun {
    /// Position of its first token.
    first: u32,
    /// Two bytes each, little-endian, at any address.
    bytes: Bytes,
    /// The greatest token that the chunk's dictionary has.
    greatest: u16,
}

/// A piece of [`StoredTokens`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredPiece<'a> {
    /// The tokens, little-endian.
    pub words: &'a [[u8; 2]],
    /// The greatest token that can be here. Whoever reads one that is greater has found damage: the tokens were not
    /// looked at before, as that costs as much as a copy.
    pub greatest: u16,
}

/// Takes the pages of one chunk that is not compressed.
pub(super) struct Storing<'a> {
    chunk: &'a Bytes,
    into: &'a mut StoredTokens,
    /// So far all of them are flat.
    flat: bool,
}

impl StoredTokens {
    /// Returns the tokens `start..end`, of those that are there, piece after piece.
    pub fn pieces(&self, start: usize, end: usize) -> impl Iterator<Item = StoredPiece<'_>> {
        let first = self.runs.partition_point(|run| run.first as usize + run.bytes.len() / 2 <= start);
        let runs = self.runs[first..].iter().take_while(move |run| (run.first as usize) < end);
        runs.filter_map(move |run| {
            let (words, _) = run.bytes.as_chunks::<2>();
            let at = run.first as usize;
            let words = words.get(start.saturating_sub(at)..words.len().min(end - at))?;
            (!words.is_empty()).then_some(StoredPiece { words, greatest: run.greatest })
        })
    }
}

impl TokenList for StoredTokens {
    fn len(&self) -> usize {
        self.len as usize
    }

    fn truncate(&mut self, len: usize) {
        let len = u32::try_from(len).unwrap_or(u32::MAX).min(self.len);
        self.runs.retain(|run| run.first < len);
        if let Some(last) = self.runs.last_mut() {
            last.bytes.truncate(2 * (len - last.first) as usize);
        }
        self.len = len;
    }
}

impl<'a> Storing<'a> {
    /// Starts on a chunk; its tokens follow on those that are there.
    pub(super) fn new(chunk: &'a Bytes, into: &'a mut StoredTokens) -> Self {
        Self { chunk, into, flat: true }
    }

    /// Tells whether all tokens could be kept where they lie. Where not, only their number is right.
    pub(super) fn is_flat(&self) -> bool {
        self.flat
    }
}

impl Sink<u16> for Storing<'_> {
    fn len(&self) -> usize {
        self.into.len()
    }

    fn values(&mut self, page: Values<'_, u16>) -> Result<(), ValueFault> {
        let dictionary = page.dictionary.filter(|_| self.flat);
        let greatest = dictionary.and_then(Dictionary::greatest);
        let flat = dictionary.map_or(Ok(None), |dictionary| dictionary.flat(page.encoding, page.bytes, page.count))?;
        self.flat = flat.is_some() && greatest.is_some();
        let (Some(runs), Some(greatest)) = (flat, greatest) else {
            self.into.len += page.count as u32;
            return Ok(());
        };
        for run in runs {
            self.into.runs.push(StoredRun { first: self.into.len, bytes: self.chunk.slice_ref(run), greatest });
            self.into.len += run.len() as u32 / 2;
        }
        Ok(())
    }
}
