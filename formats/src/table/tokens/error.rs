//! Why a token column can't be read.
//!
//! Must never leave out which row group, and which row or page of it.

use super::levels::LevelsError;
use super::pages::PageFault;
use crate::table::FooterError;

/// Why a file's tokens can't be read.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The footer can't be believed.
    #[error(transparent)]
    Footer(#[from] FooterError),
    /// The file has no column of this name, or none that could hold tokens.
    #[error("no column {wanted}; lists of integers in the file: {lists:?}; name the one that holds the tokens")]
    Missing {
        /// What was asked for.
        wanted: String,
        /// Columns that could hold tokens.
        lists: Vec<String>,
    },
    /// Several columns could hold the tokens.
    #[error("several columns could hold the tokens: {lists:?}; name one of them")]
    Several {
        /// Columns that could hold tokens.
        lists: Vec<String>,
    },
    /// The column is of a type that tokens are not read from.
    #[error("column {column} is {actual}, with {lists} lists around it; expected one list of integers")]
    Type {
        /// Dotted path.
        column: String,
        /// Its type.
        actual: String,
        /// Lists around its values.
        lists: i16,
    },
    /// The file has no such row group.
    #[error("row group {group} was asked for, the file has {groups}")]
    Group {
        /// The number asked for.
        group: usize,
        /// Row groups of the file.
        groups: usize,
    },
    /// The file has no column of counts.
    #[error("the file has no required integer column n_tokens")]
    NoCounts,
    /// The bytes given are not as many as the column chunk has.
    #[error("row group {group}: {actual} bytes were given for a column chunk of {expected}")]
    Given {
        /// The row group.
        group: usize,
        /// Bytes of the chunk.
        expected: u64,
        /// Bytes given.
        actual: u64,
    },
    /// A row group is over the bound.
    #[error("row group {group} has {actual} {what}, over the limit of {limit}; write the file again in smaller ones")]
    TooLarge {
        /// The row group.
        group: usize,
        /// What it has too many of.
        what: &'static str,
        /// How many it says it has.
        actual: u64,
        /// Most of them.
        limit: u64,
    },
    /// There are more tokens than 32 bits count.
    #[error("row group {group} has {more} tokens, too many after {before}; read fewer row groups at a time")]
    TooMany {
        /// The row group.
        group: usize,
        /// Tokens before.
        before: usize,
        /// Tokens that it says it has.
        more: u64,
    },
    /// A row group has not as many rows as the footer says.
    #[error("row group {group}: the footer says {expected} rows, column {column} has {actual}")]
    Rows {
        /// The row group.
        group: usize,
        /// The column.
        column: String,
        /// Rows as the footer says.
        expected: u64,
        /// Rows of the column.
        actual: u64,
    },
    /// A document or a token is null.
    #[error("row {row} (row group {group}): column {column} has a null; tokens can't be missing")]
    Null {
        /// Row of the file.
        row: u64,
        /// The row group.
        group: usize,
        /// The column.
        column: String,
    },
    /// A value is not a token.
    #[error("row {row} (row group {group}): column {column} has the value {actual}, expected 0..={limit}")]
    Value {
        /// Row of the file.
        row: u64,
        /// The row group.
        group: usize,
        /// The column.
        column: String,
        /// The value.
        actual: i128,
        /// Greatest value that it may have.
        limit: u32,
    },
    /// A page is damaged, or of a kind that is not read.
    #[error("row group {group}, column {column}, page {page}: {source}")]
    Page {
        /// The row group.
        group: usize,
        /// The column.
        column: String,
        /// Number of the page in its chunk, the dictionary counted.
        page: usize,
        /// What is wrong with it.
        source: PageFault,
    },
}

impl From<LevelsError> for PageFault {
    fn from(error: LevelsError) -> Self {
        Self::Levels(error)
    }
}
