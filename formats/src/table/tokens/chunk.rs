//! One column chunk: its pages, one after the other, to tokens and ends of documents.
//!
//! Must never append tokens without their documents: an error ends the chunk.

use super::codec::{UNCOMPRESSED, Unfolder};
use super::columns::Integers;
use super::file::ChunkFacts;
use super::levels::{LevelsError, LevelsFault, Rows};
use super::pages::{Page, PageFault, PageKind, Pages};
use super::values::{Dictionary, Sink, Token, ValueFault, ValueKind, Values};

/// Tokens that are reserved for each byte of a chunk before its pages are read: four. Text that zstd compresses well
/// keeps half a byte of a token; what takes less grows as it is read.
const TOKENS_A_BYTE: usize = 4;

/// Returns the tokens that room is made for before a chunk of `bytes` bytes is read that claims to have so many: a
/// claim alone must not cost memory.
pub(super) fn expected(claimed: u64, bytes: usize) -> usize {
    bytes.saturating_mul(TOKENS_A_BYTE).min(usize::try_from(claimed).unwrap_or(usize::MAX))
}

/// Why a chunk is not read.
#[derive(Debug)]
pub(super) enum ChunkFault {
    /// Row of the row group, from 0.
    Null {
        row: u64,
    },
    Value {
        row: u64,
        actual: i128,
        limit: u32,
    },
    Page {
        page: usize,
        source: PageFault,
    },
}

/// Reads one column chunk.
pub(super) struct ChunkReader<'a> {
    column: &'a Integers,
    facts: ChunkFacts,
    rows: u64,
    bytes: &'a [u8],
}

impl<'a> ChunkReader<'a> {
    /// Starts on the bytes of a chunk of `rows` rows.
    pub(super) fn new(column: &'a Integers, facts: ChunkFacts, rows: u64, bytes: &'a [u8]) -> Self {
        Self { column, facts, rows, bytes }
    }

    /// Appends its values, and the ends of its rows where they are lists, after making room for as many values as it
    /// seems to have.
    pub(super) fn read<T: Token>(&mut self, tokens: &mut Vec<T>, ends: &mut Vec<u32>) -> Result<(), ChunkFault> {
        tokens.reserve(expected(self.facts.values, self.bytes.len()));
        self.read_into(tokens, ends)
    }

    /// Hands on its values, page by page, and appends the ends of its rows where they are lists.
    pub(super) fn read_into<T: Token>(
        &mut self,
        tokens: &mut impl Sink<T>,
        ends: &mut Vec<u32>,
    ) -> Result<(), ChunkFault> {
        let (first_token, first_end) = (tokens.len(), ends.len());
        let limit = self.column.max.min(T::MAX);
        let kind = ValueKind { stored: self.column.stored, limit };
        let mut rows = self.column.empty.map(|empty| Rows::new(self.rows, self.column.definition, empty));
        let mut unfolder = Unfolder::new(self.facts.codec);
        let mut dictionary = None;
        let mut pages = Pages::new(self.bytes, self.facts.values);
        loop {
            let number = pages.number();
            let fault = |source| ChunkFault::Page { page: number, source };
            let Some(page) = pages.next_page().map_err(fault)? else { break };
            let before = tokens.len();
            match read_page(page, kind, &mut unfolder, rows.as_mut(), &mut dictionary, tokens, ends) {
                Ok(()) => {}
                Err(PageError::Levels(LevelsFault::Null(row))) => return Err(ChunkFault::Null { row }),
                Err(PageError::Levels(LevelsFault::Levels(error))) => return Err(fault(error.into())),
                Err(PageError::Value(ValueFault::Page(source))) => return Err(fault(source)),
                Err(PageError::Value(ValueFault::Value(position, bits))) => {
                    let at = before + position;
                    // The row that is open ends later than all that ended.
                    let ended = ends[first_end..].partition_point(|end| *end as usize <= at);
                    let row = if rows.is_some() { ended } else { at - first_token } as u64;
                    return Err(ChunkFault::Value { row, actual: self.shown(bits), limit });
                }
            }
        }
        if let Some(rows) = rows {
            rows.finish(tokens.len() as u32, ends);
        }
        Ok(())
    }

    /// Tells whether its pages are compressed.
    pub(super) fn is_compressed(&self) -> bool {
        self.facts.codec != UNCOMPRESSED
    }

    /// Returns the number that stored bits mean to its writer.
    fn shown(&self, bits: u64) -> i128 {
        let signed = if self.column.stored == 4 { (bits as u32).cast_signed().into() } else { bits.cast_signed() };
        if self.column.unsigned { bits.into() } else { signed.into() }
    }
}

enum PageError {
    Levels(LevelsFault),
    Value(ValueFault),
}

impl From<ValueFault> for PageError {
    fn from(fault: ValueFault) -> Self {
        Self::Value(fault)
    }
}

impl From<PageFault> for PageError {
    fn from(fault: PageFault) -> Self {
        Self::Value(fault.into())
    }
}

fn read_page<T: Token>(
    page: Page<'_>,
    kind: ValueKind,
    unfolder: &mut Unfolder,
    rows: Option<&mut Rows>,
    dictionary: &mut Option<Dictionary<T>>,
    tokens: &mut impl Sink<T>,
    ends: &mut Vec<u32>,
) -> Result<(), PageError> {
    let (levels, values) = match page.kind {
        PageKind::Dictionary => {
            if dictionary.is_some() {
                return Err(PageFault::Dictionary("it is a second dictionary").into());
            }
            let bytes = unfolder.unfold(page.body, page.unfolded)?;
            *dictionary = Some(Dictionary::read(page.encoding, bytes, page.values, kind)?);
            return Ok(());
        }
        PageKind::V1 => {
            let bytes = unfolder.unfold(page.body, page.unfolded)?;
            if rows.is_none() {
                ([&[][..]; 2], bytes)
            } else {
                let (repetition, rest) = prefixed(bytes)?;
                let (definition, rest) = prefixed(rest)?;
                ([repetition, definition], rest)
            }
        }
        PageKind::V2 { levels: [repetition, definition], compressed } => {
            let (repetition, rest) = page.body.split_at(repetition);
            let (definition, rest) = rest.split_at(definition);
            let expected = page.unfolded - repetition.len() - definition.len();
            let values = if compressed { unfolder.unfold(rest, expected)? } else { rest };
            ([repetition, definition], values)
        }
    };
    let count = match rows {
        Some(rows) => rows.page(levels, page.values, tokens.len() as u32, ends).map_err(PageError::Levels)?,
        None => page.values,
    };
    let (encoding, dictionary) = (page.encoding, dictionary.as_ref());
    Ok(tokens.values(Values { encoding, bytes: values, count, kind, dictionary })?)
}

/// Splits off levels, before which their length stands.
fn prefixed(bytes: &[u8]) -> Result<(&[u8], &[u8]), PageFault> {
    let length = || PageFault::from(LevelsError::Length);
    let (len, rest) = bytes.split_first_chunk::<4>().ok_or_else(length)?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(length)
}
