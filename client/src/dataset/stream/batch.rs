//! Samples become a batch: tokens widened for the trainer, borders of documents, positions, masks, and the digest of
//! what was seen.
//!
//! Must never emit a token that is not of a checked window.

use std::sync::Arc;

use gigastore_formats::order::{SampleHasher, Seen, Segment};
use gigastore_formats::table::tokens::{Documents, StoredPiece, TokenBuffer, TokenWidth};

use super::options::{Columns, StreamError};
use super::shelf::{Reused, Shelf};
use super::window::{Text, Window};

/// Buffers of batches that are kept when nobody uses them: 16, as many as are made ahead and looked at.
const KEPT_BATCHES: usize = 16;

/// Pieces of documents that room is made for in each sample: four, as much as one of half-long documents has.
const PIECES_A_SAMPLE: usize = 4;

/// The position of a sample that is nothing but padding.
pub const FILLER: i64 = -1;

/// One rank's batch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// The batch's number, counted on from that of the first one: see
    /// [`StreamOptions::first_step`](super::StreamOptions).
    pub step: u64,
    /// Tokens of a sample; none where samples are documents, which follow on each other and are as long as they are.
    pub seq_len: Option<u32>,
    /// The tokens of all samples, one after the other.
    pub tokens: Reused<i64>,
    /// Where pieces of documents begin and end among the tokens: 0, then the end of each. Padding is a piece of its
    /// own.
    pub cu_seqlens: Vec<i32>,
    /// The position of each token in its piece. Empty where that is not wanted.
    pub position_ids: Reused<i64>,
    /// 1 for a token that is there, 0 for padding. Empty where that is not wanted.
    pub loss_mask: Vec<u8>,
    /// The position of each sample in the stream; [`FILLER`] for padding.
    pub positions: Vec<i64>,
    /// The dataset that each sample is of, by its number among the sources.
    pub sources: Vec<u32>,
    /// What was seen in it.
    pub seen: Seen,
}

/// Fills batches; its clones share the memory of those that nobody uses any more.
#[derive(Clone, Debug)]
pub(super) struct Filler {
    columns: Columns,
    seq_len: Option<u32>,
    hasher: SampleHasher,
    /// The bytes of a sample's tokens, for its digest: as many as `filled`.
    bytes: Vec<u8>,
    filled: usize,
    shelf: Arc<Shelf<i64>>,
}

impl Filler {
    pub(super) fn new(columns: Columns, seq_len: Option<u32>) -> Self {
        let (bytes, shelf) = (Vec::new(), Shelf::keeping(KEPT_BATCHES));
        Self { columns, seq_len, hasher: SampleHasher::default(), bytes, filled: 0, shelf }
    }

    /// Starts a batch with room for so many samples.
    pub(super) fn batch(&mut self, step: u64, samples: u32) -> Batch {
        self.bytes.reserve(self.seq_len.unwrap_or(0) as usize * TokenWidth::U16.bytes());
        let tokens = samples as usize * self.seq_len.unwrap_or(0) as usize;
        let extra = |wanted: bool| if wanted { tokens } else { 0 };
        Batch {
            step,
            seq_len: self.seq_len,
            tokens: self.shelf.take(tokens),
            cu_seqlens: {
                let mut borders = Vec::with_capacity(samples as usize * PIECES_A_SAMPLE + 1);
                borders.push(0);
                borders
            },
            position_ids: match self.columns.position_ids {
                true => self.shelf.take(tokens),
                false => Reused::default(),
            },
            loss_mask: Vec::with_capacity(extra(self.columns.loss_mask)),
            positions: Vec::with_capacity(samples as usize),
            sources: Vec::with_capacity(samples as usize),
            seen: Seen::default(),
        }
    }

    /// Adds a sample of a window; returns what was seen of it.
    pub(super) fn add(
        &mut self,
        batch: &mut Batch,
        window: &Window,
        item: u32,
        position: u64,
        source: u32,
    ) -> Result<Seen, StreamError> {
        let segments = window.plan.segments(item);
        let len: u64 = segments.iter().map(|segment| u64::from(segment.len)).sum();
        let whole = batch.tokens.len() as u64 + len;
        if whole > i32::MAX as u64 {
            return Err(StreamError::Batch { actual: whole });
        }
        self.filled = 0;
        let narrow = match &window.documents {
            Text::Copied(Documents { tokens: TokenBuffer::U32(tokens), .. }) => segments.iter().all(|segment| {
                let (start, end) = window.range(segment);
                tokens[start..end].iter().all(|token| *token <= u32::from(u16::MAX))
            }),
            _ => true,
        };
        let mut seen = Seen { samples: 1, ..Seen::default() };
        for segment in segments {
            let there = window.is_there(segment.document);
            seen.documents += u64::from(segment.start == 0);
            if there {
                seen.tokens += u64::from(segment.len);
                self.copy(batch, window, segment, narrow)?;
            } else {
                seen.missing += u64::from(segment.len);
                let padded = batch.tokens.len() + segment.len as usize;
                batch.tokens.resize(padded, i64::from(self.columns.pad));
            }
            self.border(batch, segment.len, there);
        }
        let pieces = segments.iter().map(|segment| (segment.len, window.is_there(segment.document)));
        let width = if narrow { 2 } else { 4 };
        seen.digest = self.hasher.digest(position, source, width, pieces, &self.bytes[..self.filled]);
        self.pad(batch, len as u32);
        batch.positions.push(position as i64);
        batch.sources.push(source);
        Ok(seen)
    }

    /// Adds a sample that is nothing but padding.
    pub(super) fn filler(&self, batch: &mut Batch) {
        self.pad(batch, 0);
        batch.positions.push(FILLER);
        batch.sources.push(0);
    }

    fn copy(&mut self, batch: &mut Batch, window: &Window, segment: &Segment, narrow: bool) -> Result<(), StreamError> {
        let (start, end) = window.range(segment);
        match &window.documents {
            Text::Stored(documents) => {
                for StoredPiece { words, greatest } in documents.tokens.pieces(start, end) {
                    let token = |word: &[u8; 2]| u16::from_le_bytes(*word);
                    self.note(words, |word| word);
                    batch.tokens.extend(words.iter().map(|word| i64::from(token(word))));
                    // All of them at once: one is looked for only where there is one.
                    let over = words.iter().fold(0, |over, word| over | token(word).saturating_sub(greatest));
                    if let Some(actual) = words.iter().map(token).find(|token| over > 0 && *token > greatest) {
                        return Err(window.beyond(segment, actual, greatest));
                    }
                }
            }
            Text::Copied(Documents { tokens: TokenBuffer::U16(tokens), .. }) => {
                let tokens = &tokens[start..end];
                self.note(tokens, u16::to_le_bytes);
                batch.tokens.extend(tokens.iter().map(|token| i64::from(*token)));
            }
            Text::Copied(Documents { tokens: TokenBuffer::U32(tokens), .. }) => {
                let tokens = &tokens[start..end];
                if narrow {
                    self.note(tokens, |token| (token as u16).to_le_bytes());
                } else {
                    self.note(tokens, u32::to_le_bytes);
                }
                batch.tokens.extend(tokens.iter().map(|token| i64::from(*token)));
            }
        }
        Ok(())
    }

    /// Appends tokens to the bytes of the sample; a copy of memory where the machine has the same order of bytes.
    fn note<T: Copy, const N: usize>(&mut self, tokens: &[T], to_bytes: impl Fn(T) -> [u8; N]) {
        let before = self.filled;
        self.filled += tokens.len() * N;
        if self.bytes.len() < self.filled {
            self.bytes.resize(self.filled, 0);
        }
        let (places, _) = self.bytes[before..self.filled].as_chunks_mut::<N>();
        places.iter_mut().zip(tokens).for_each(|(place, token)| *place = to_bytes(*token));
    }

    /// Fills a sample up that has `len` tokens.
    fn pad(&self, batch: &mut Batch, len: u32) {
        let missing = self.seq_len.map_or(0, |seq_len| seq_len - len);
        if missing > 0 {
            let padded = batch.tokens.len() + missing as usize;
            batch.tokens.resize(padded, i64::from(self.columns.pad));
            self.border(batch, missing, false);
        }
    }

    /// Notes a piece of `len` tokens.
    fn border(&self, batch: &mut Batch, len: u32, there: bool) {
        batch.cu_seqlens.push(batch.tokens.len() as i32);
        if self.columns.position_ids {
            batch.position_ids.extend(0..i64::from(len));
        }
        if self.columns.loss_mask {
            batch.loss_mask.resize(batch.loss_mask.len() + len as usize, u8::from(there));
        }
    }
}

impl Window {
    /// Tells whether a document's tokens are there.
    fn is_there(&self, document: u32) -> bool {
        let (start, end) = self.bounds(document);
        end - start == self.lengths[document as usize]
    }

    /// Returns where the tokens of a piece of a document that is there begin and end.
    fn range(&self, segment: &Segment) -> (usize, usize) {
        let (start, end) = self.bounds(segment.document);
        if end - start < segment.start + segment.len {
            return (0, 0);
        }
        let start = (start + segment.start) as usize;
        (start, start + segment.len as usize)
    }

    /// Returns where the tokens of a document begin and end.
    fn bounds(&self, document: u32) -> (u32, u32) {
        let ends = self.documents.ends();
        let document = document as usize;
        (document.checked_sub(1).map_or(0, |before| ends[before]), ends[document])
    }
}
