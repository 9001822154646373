//! Tokens in memory: as narrow as their vocabulary allows, one after the other, with the end of each document.
//!
//! Must never hold more tokens than 32 bits count.

use serde::{Deserialize, Serialize};

use super::chunk::expected;

/// How many bytes a token takes in memory and in our files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenWidth {
    /// Two: vocabularies of at most 65,536 tokens.
    U16,
    /// Four.
    U32,
}

impl TokenWidth {
    /// Returns the narrowest width that holds every token below `vocab_size`.
    pub const fn of_vocabulary(vocab_size: u32) -> Self {
        if vocab_size <= 1 << 16 { Self::U16 } else { Self::U32 }
    }

    /// Returns the bytes of one token.
    pub const fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

    /// Returns the greatest token.
    pub const fn max(self) -> u32 {
        match self {
            Self::U16 => u16::MAX as u32,
            Self::U32 => u32::MAX,
        }
    }
}

/// Tokens of one width.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TokenBuffer {
    /// Two bytes each.
    U16(Vec<u16>),
    /// Four bytes each.
    U32(Vec<u32>),
}

/// What holds the tokens of documents.
pub trait TokenList {
    /// Returns the number of tokens.
    fn len(&self) -> usize;

    /// Tells whether there are no tokens.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the first tokens.
    fn truncate(&mut self, len: usize);
}

/// Some tokens of one width, borrowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenSlice<'a> {
    /// Two bytes each.
    U16(&'a [u16]),
    /// Four bytes each.
    U32(&'a [u32]),
}

/// Documents of one or more row groups: their tokens one after the other, and where each ends.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Documents<T = TokenBuffer> {
    /// The tokens of all documents.
    pub tokens: T,
    /// For each document the position after its last token; it starts where the one before it ends.
    pub ends: Vec<u32>,
}

impl TokenBuffer {
    /// Starts without tokens.
    pub const fn new(width: TokenWidth) -> Self {
        match width {
            TokenWidth::U16 => Self::U16(Vec::new()),
            TokenWidth::U32 => Self::U32(Vec::new()),
        }
    }

    /// Returns the width of its tokens.
    pub const fn width(&self) -> TokenWidth {
        match self {
            Self::U16(_) => TokenWidth::U16,
            Self::U32(_) => TokenWidth::U32,
        }
    }

    /// Returns all tokens.
    pub fn as_slice(&self) -> TokenSlice<'_> {
        match self {
            Self::U16(tokens) => TokenSlice::U16(tokens),
            Self::U32(tokens) => TokenSlice::U32(tokens),
        }
    }

    /// Forgets all tokens and keeps the memory.
    pub fn clear(&mut self) {
        self.truncate(0);
    }
}

impl TokenList for TokenBuffer {
    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn truncate(&mut self, len: usize) {
        match self {
            Self::U16(tokens) => tokens.truncate(len),
            Self::U32(tokens) => tokens.truncate(len),
        }
    }
}

impl<'a> TokenSlice<'a> {
    /// Returns the number of tokens.
    pub const fn len(self) -> usize {
        match self {
            Self::U16(tokens) => tokens.len(),
            Self::U32(tokens) => tokens.len(),
        }
    }

    /// Tells whether there are no tokens.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Returns the token at `position`, where there is one.
    pub fn get(self, position: usize) -> Option<u32> {
        match self {
            Self::U16(tokens) => tokens.get(position).copied().map(u32::from),
            Self::U32(tokens) => tokens.get(position).copied(),
        }
    }

    /// Returns the tokens `start..end`, where there are as many.
    pub fn slice(self, start: usize, end: usize) -> Option<Self> {
        match self {
            Self::U16(tokens) => tokens.get(start..end).map(Self::U16),
            Self::U32(tokens) => tokens.get(start..end).map(Self::U32),
        }
    }

    /// Returns the greatest token, where there are any.
    pub fn greatest(self) -> Option<u32> {
        match self {
            Self::U16(tokens) => tokens.iter().copied().max().map(u32::from),
            Self::U32(tokens) => tokens.iter().copied().max(),
        }
    }

    /// Goes over the tokens.
    pub fn iter(self) -> impl Iterator<Item = u32> + use<'a> {
        let (narrow, wide): (&[u16], &[u32]) = match self {
            Self::U16(tokens) => (tokens, &[]),
            Self::U32(tokens) => (&[], tokens),
        };
        narrow.iter().copied().map(u32::from).chain(wide.iter().copied())
    }
}

impl<'a> From<&'a [u16]> for TokenSlice<'a> {
    fn from(tokens: &'a [u16]) -> Self {
        Self::U16(tokens)
    }
}

impl<'a> From<&'a [u32]> for TokenSlice<'a> {
    fn from(tokens: &'a [u32]) -> Self {
        Self::U32(tokens)
    }
}

impl Documents {
    /// Starts without documents.
    pub const fn new(width: TokenWidth) -> Self {
        Self { tokens: TokenBuffer::new(width), ends: Vec::new() }
    }

    /// Makes room for the tokens of chunks that are read next, each given by the tokens it is said to have and its
    /// bytes: at once, as room that grows is copied.
    pub fn reserve(&mut self, chunks: impl Iterator<Item = (u64, usize)>) {
        let more = chunks.map(|(claimed, bytes)| expected(claimed, bytes)).fold(0, usize::saturating_add);
        match &mut self.tokens {
            TokenBuffer::U16(tokens) => tokens.reserve(more),
            TokenBuffer::U32(tokens) => tokens.reserve(more),
        }
    }

    /// Returns the tokens of one document, where there is such a one.
    pub fn document(&self, number: usize) -> Option<TokenSlice<'_>> {
        let end = *self.ends.get(number)?;
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.tokens.as_slice().slice(start as usize, end as usize)
    }

    /// Returns the same documents, of which those at `empty` (ascending positions) have no tokens.
    pub fn emptied(&self, empty: &[usize]) -> Self {
        let mut emptied = Self::new(self.tokens.width());
        let mut empty = empty.iter().peekable();
        for number in 0..self.len() {
            let gone = empty.next_if(|at| **at == number).is_some();
            match (&mut emptied.tokens, self.document(number).filter(|_| !gone)) {
                (TokenBuffer::U16(into), Some(TokenSlice::U16(tokens))) => into.extend_from_slice(tokens),
                (TokenBuffer::U32(into), Some(TokenSlice::U32(tokens))) => into.extend_from_slice(tokens),
                // All of one width; there are no others.
                _ => {}
            }
            emptied.ends.push(emptied.tokens.len() as u32);
        }
        emptied
    }

    /// Forgets all documents and keeps the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.ends.clear();
    }
}

impl<T: TokenList> Documents<T> {
    /// Returns the number of documents.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Tells whether there are no documents.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns how many tokens each document has, from number `first` on.
    pub fn lengths(&self, first: usize) -> impl Iterator<Item = u32> {
        let start = first.checked_sub(1).map_or(0, |before| self.ends[before]);
        let ends = self.ends[first..].iter().copied();
        std::iter::once(start).chain(ends.clone()).zip(ends).map(|(start, end)| end - start)
    }

    /// Keeps the first documents.
    pub fn truncate(&mut self, documents: usize) {
        self.ends.truncate(documents);
        self.tokens.truncate(self.ends.last().map_or(0, |end| *end as usize));
    }
}
