//! What an order is a function of: the files, and how they are to be shuffled and packed.
//!
//! Must never depend on how the order is used: world size, workers, batch size.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Version of the algorithm: another number is another order.
pub const ALGORITHM: u32 = 1;

/// Lanes of an order: 65,536, more than the data-parallel ranks of any cluster this is built for.
pub const MAX_LANES: u32 = 1 << 16;

/// Row groups of a window: 4,096; with row groups of 16 MiB no machine holds more.
pub const MAX_WINDOW: u32 = 1 << 12;

/// Tokens of a sequence: 2^24, sixteen times the longest context in use.
pub const MAX_SEQ_LEN: u32 = 1 << 24;

/// Domain of order ids.
const ID_CONTEXT: &str = "gigastore 2026-11 dataset order id, algorithm 1";

/// Bytes of a table that are hashed at a time: 64 KiB, at which BLAKE3 is about as fast as it gets.
const ID_BUFFER_BYTES: usize = 64 << 10;

/// What names the files of an order, with the rows and tokens of their row groups: a version in which documents were
/// taken down has the same one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderId(Digest);

/// How a dataset is put in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderSpec {
    /// What the shuffle is drawn from; none leaves files, rows and documents as they are.
    pub seed: Option<u64>,
    /// Lanes that samples come from in turn; a multiple of the data-parallel size lets each byte be read once in all.
    pub lanes: u32,
    /// Row groups of a lane whose documents are shuffled together, and that are in memory together.
    pub window: u32,
    /// What a sample is.
    pub packing: Packing,
}

/// What a sample is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum Packing {
    /// One document, whole.
    Documents,
    /// The documents of a window one after the other, cut every `seq_len` tokens; the last sequence of a window may be
    /// shorter.
    Concat {
        /// Tokens of a sequence.
        seq_len: u32,
    },
    /// Whole documents, each in the first sequence of its window that has room for it.
    FirstFit {
        /// Tokens of a sequence.
        seq_len: u32,
        /// What becomes of documents that are longer than a sequence.
        long: Long,
    },
}

/// What becomes of a document that is longer than a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Long {
    /// It is cut into sequences of its own, and a rest that is placed like a document.
    Split,
    /// Its first tokens, as many as a sequence has; the rest is left out.
    Truncate,
}

/// Why an order can't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A number of the specification is out of range.
    #[error("{what} is {actual}: it must be from 1 to {limit}")]
    Number {
        /// Which number.
        what: &'static str,
        /// The most it may be.
        limit: u32,
        /// What it is.
        actual: u32,
    },
    /// More than one lane without a shuffle.
    #[error("an order without a seed has one lane, not {actual}: give a seed, or lanes = 1")]
    SequentialLanes {
        /// The lanes.
        actual: u32,
    },
    /// Files that are not sorted, or one of them twice.
    #[error("the files of an order are sorted by path, each once: {path:?} comes after {before:?}")]
    Unsorted {
        /// The file.
        path: String,
        /// The one before it.
        before: String,
    },
    /// Not one number a row group.
    #[error("the files have {groups} row groups, but there are rows of {rows} and tokens of {tokens}")]
    Numbers {
        /// Row groups of all files.
        groups: usize,
        /// How many numbers of rows there are.
        rows: usize,
        /// How many numbers of tokens.
        tokens: usize,
    },
    /// Tokens that are in no document.
    #[error("row group {group} of the dataset has {tokens} tokens and no rows: its manifest is damaged")]
    NoRows {
        /// The row group, counted through all files.
        group: usize,
        /// Its tokens.
        tokens: u64,
    },
    /// More row groups than are numbered.
    #[error("the dataset has {actual} row groups, the limit is {}", u32::MAX)]
    Groups {
        /// The row groups.
        actual: usize,
    },
    /// The documents of a window can't be numbered.
    #[error(
        "a window of {window} row groups of the dataset may have {actual} {what}, the limit is {}: \
         take a smaller window, or push the files with --rewrite",
        u32::MAX
    )]
    Window {
        /// Row groups of a window.
        window: u32,
        /// `rows` or `tokens`.
        what: &'static str,
        /// As many as the largest row groups have together.
        actual: u64,
    },
}

/// The row groups of all files in the order of the manifest, with what the order needs to know of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupTable {
    pub(super) id: OrderId,
    pub(super) rows: Vec<u64>,
    pub(super) tokens: Vec<u64>,
}

impl GroupTable {
    /// Makes the table of files, sorted by path: path, and how many of the row groups are its. `rows` and `tokens` have
    /// one number a row group; tokens are those that were planned, whatever was taken down since.
    ///
    /// The order id is BLAKE3, in its mode of deriving keys, over each file: length of its path (32 bits), the path,
    /// number of its row groups (64 bits), and rows and tokens of each (64 bits), little-endian.
    pub fn new<'a>(
        files: impl IntoIterator<Item = (&'a str, usize)>,
        rows: Vec<u64>,
        tokens: Vec<u64>,
    ) -> Result<Self, SpecError> {
        if rows.len() > u32::MAX as usize {
            return Err(SpecError::Groups { actual: rows.len() });
        }
        if let Some(group) = rows.iter().zip(&tokens).position(|(rows, tokens)| *rows == 0 && *tokens > 0) {
            return Err(SpecError::NoRows { group, tokens: tokens[group] });
        }
        let unequal = |groups| SpecError::Numbers { groups, rows: rows.len(), tokens: tokens.len() };
        let mut hasher = blake3::Hasher::new_derive_key(ID_CONTEXT);
        let (mut first, mut buffer, mut before) = (0usize, Vec::new(), None::<&str>);
        for (path, groups) in files {
            if let Some(before) = before.filter(|before| path <= *before) {
                return Err(SpecError::Unsorted { path: path.to_owned(), before: before.to_owned() });
            }
            before = Some(path);
            let end = first.saturating_add(groups);
            let (Some(rows), Some(tokens)) = (rows.get(first..end), tokens.get(first..end)) else {
                return Err(unequal(end));
            };
            buffer.extend_from_slice(&(path.len() as u32).to_le_bytes());
            buffer.extend_from_slice(path.as_bytes());
            buffer.extend_from_slice(&(groups as u64).to_le_bytes());
            for (rows, tokens) in rows.iter().zip(tokens) {
                buffer.extend_from_slice(&rows.to_le_bytes());
                buffer.extend_from_slice(&tokens.to_le_bytes());
                if buffer.len() >= ID_BUFFER_BYTES {
                    hasher.update(&buffer);
                    buffer.clear();
                }
            }
            first = end;
        }
        hasher.update(&buffer);
        if first != rows.len() || first != tokens.len() {
            return Err(unequal(first));
        }
        Ok(Self { id: OrderId(hasher.finalize().into()), rows, tokens })
    }

    /// Returns the order id.
    pub fn id(&self) -> OrderId {
        self.id
    }

    /// Returns the number of row groups.
    pub fn groups(&self) -> usize {
        self.rows.len()
    }

    /// Returns the rows of a row group.
    pub fn rows(&self, group: u32) -> u64 {
        self.rows[group as usize]
    }

    /// Returns the planned tokens of a row group.
    pub fn tokens(&self, group: u32) -> u64 {
        self.tokens[group as usize]
    }
}

impl OrderSpec {
    /// Checks the numbers, and that every window of `table` can be numbered.
    pub fn check(&self, table: &GroupTable) -> Result<(), SpecError> {
        within("lanes", MAX_LANES, self.lanes)?;
        within("window", MAX_WINDOW, self.window)?;
        if let Some(seq_len) = self.packing.seq_len() {
            within("seq_len", MAX_SEQ_LEN, seq_len)?;
        }
        if self.seed.is_none() && self.lanes > 1 {
            return Err(SpecError::SequentialLanes { actual: self.lanes });
        }
        for (what, numbers) in [("rows", &table.rows), ("tokens", &table.tokens)] {
            let largest = numbers.iter().max().copied().unwrap_or(0);
            let actual = largest.saturating_mul(u64::from(self.window).min(numbers.len() as u64));
            if actual > u64::from(u32::MAX) {
                return Err(SpecError::Window { window: self.window, what, actual });
            }
        }
        Ok(())
    }
}

impl Packing {
    /// Returns the tokens of a sequence, where sequences have a length.
    pub fn seq_len(&self) -> Option<u32> {
        match self {
            Self::Documents => None,
            Self::Concat { seq_len } | Self::FirstFit { seq_len, .. } => Some(*seq_len),
        }
    }

    /// Returns the samples of a window of that many rows and planned tokens, where these two decide them.
    pub(super) fn items(&self, rows: u64, tokens: u64) -> Option<u64> {
        match self {
            Self::Documents => Some(rows),
            Self::Concat { seq_len } => Some(tokens.div_ceil(u64::from(*seq_len))),
            Self::FirstFit { .. } => None,
        }
    }
}

impl OrderId {
    /// Returns the digest that it is.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl From<Digest> for OrderId {
    fn from(digest: Digest) -> Self {
        Self(digest)
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for OrderSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seed {
            Some(seed) => write!(f, "seed {seed}, {} lanes, windows of {}, ", self.lanes, self.window)?,
            None => write!(f, "no shuffle, windows of {}, ", self.window)?,
        }
        match self.packing {
            Packing::Documents => write!(f, "documents"),
            Packing::Concat { seq_len } => write!(f, "concatenated and cut at {seq_len}"),
            Packing::FirstFit { seq_len, long: Long::Split } => write!(f, "first fit in {seq_len}, longer ones split"),
            Packing::FirstFit { seq_len, long: Long::Truncate } => {
                write!(f, "first fit in {seq_len}, longer ones cut off")
            }
        }
    }
}

fn within(what: &'static str, limit: u32, actual: u32) -> Result<(), SpecError> {
    if (1..=limit).contains(&actual) { Ok(()) } else { Err(SpecError::Number { what, limit, actual }) }
}
