//! The facts of a user's Parquet file: rows, row groups and where they lie, a fingerprint of the schema.
//!
//! Must never read data pages.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::footer::{FooterError, Group, find_footer, read_footer};
use super::given::{Given, Step};
use super::tokens::{TokenError, TokenFile};
use crate::digest::Digest;
use crate::limits::{MAX_FILE_ROW_GROUPS, MAX_PARQUET_FOOTER_BYTES};
use crate::range::ByteRange;

/// One row group of a Parquet file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RowGroup {
    /// First byte of its column chunks within the file.
    pub offset: u64,
    /// Bytes from there to the end of its last column chunk.
    pub len: u64,
    /// Rows.
    pub rows: u64,
}

/// What the store knows of a Parquet file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParquetFacts {
    /// Rows of all row groups.
    pub rows: u64,
    /// The row groups in the order of the footer.
    pub row_groups: Vec<RowGroup>,
    /// Fingerprint of the schema: BLAKE3 of its canonical text (names, types, repetition, logical types).
    pub schema: Digest,
    /// Leaf columns: dotted path, and repetition and type as text, such as `optional timestamp(us,utc)`.
    pub columns: Vec<(String, String)>,
}

/// The footer of a Parquet file, as it was found.
#[derive(Clone, Debug)]
pub struct Footer {
    bytes: Bytes,
    start: u64,
}

/// Finds the footer of a Parquet file, asking for byte ranges.
///
/// ```
/// # use bytes::Bytes;
/// # use gigastore_formats::range::ByteRange;
/// use gigastore_formats::table::{Footer, FooterReader, Step};
///
/// fn footer(file_len: u64, fetch: impl Fn(ByteRange) -> Bytes) -> Result<Footer, Box<dyn std::error::Error>> {
///     let mut reader = FooterReader::new(file_len);
///     loop {
///         match reader.step()? {
///             Step::Done(footer) => return Ok(footer),
///             Step::Need(ranges) => {
///                 for range in ranges {
///                     reader.give(range, fetch(range))?;
///                 }
///             }
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct FooterReader {
    given: Given,
}

impl FooterReader {
    /// Starts on a file of `file_len` bytes.
    pub fn new(file_len: u64) -> Self {
        Self { given: Given::new(file_len) }
    }

    /// Goes on with what was given so far.
    pub fn step(&mut self) -> Result<Step<Footer>, FooterError> {
        Ok(match find_footer(&self.given, MAX_PARQUET_FOOTER_BYTES)? {
            Step::Need(ranges) => Step::Need(ranges),
            Step::Done((bytes, start)) => Step::Done(Footer { bytes, start }),
        })
    }

    /// Takes the bytes of one range of the file.
    pub fn give(&mut self, range: ByteRange, bytes: Bytes) -> Result<(), FooterError> {
        Ok(self.given.give(range, bytes)?)
    }
}

impl Footer {
    /// Finds the footer of a file of `file_len` bytes, of which `fetch` reads ranges; `refused` says of which file an
    /// error is.
    pub fn read<E>(
        file_len: u64,
        refused: impl Fn(FooterError) -> E,
        mut fetch: impl FnMut(ByteRange) -> Result<Bytes, E>,
    ) -> Result<Self, E> {
        let mut reader = FooterReader::new(file_len);
        loop {
            match reader.step().map_err(&refused)? {
                Step::Done(footer) => return Ok(footer),
                Step::Need(ranges) => {
                    for range in ranges {
                        reader.give(range, fetch(range)?).map_err(&refused)?;
                    }
                }
            }
        }
    }

    /// Finds the footer of a whole file in memory.
    pub fn of(file: &Bytes) -> Result<Self, FooterError> {
        let within = |range: ByteRange| Ok(file.slice(range.start() as usize..range.end() as usize));
        Self::read(file.len() as u64, std::convert::identity, within)
    }

    /// Returns the facts of the file.
    pub fn facts(&self) -> Result<ParquetFacts, FooterError> {
        facts(&self.bytes, self.start)
    }

    /// Returns where the file has its tokens. Their column is `column`, a dotted path or the name of the outermost
    /// element, or else the only list of integers, or the only one named `tokens` or `input_ids`.
    pub fn tokens(&self, column: Option<&str>) -> Result<TokenFile, TokenError> {
        TokenFile::parse(&self.bytes, self.start, column)
    }
}

impl ParquetFacts {
    /// Reads the facts of a whole file in memory.
    pub fn of(file: &Bytes) -> Result<Self, FooterError> {
        Footer::of(file)?.facts()
    }
}

fn facts(footer: &[u8], start: u64) -> Result<ParquetFacts, FooterError> {
    let mut row_groups = Vec::new();
    let head = read_footer(footer, start, &[], |_, group| {
        if row_groups.len() == MAX_FILE_ROW_GROUPS {
            return Err(FooterError::TooManyGroups { limit: MAX_FILE_ROW_GROUPS });
        }
        row_groups.push(row_group(&group));
        Ok(())
    })?;
    let schema = Digest::of(head.schema.text.as_bytes());
    let columns = head.schema.leaves.into_iter().map(|leaf| (leaf.path, leaf.text)).collect();
    Ok(ParquetFacts { rows: head.rows, row_groups, schema, columns })
}

/// A row group without columns has no bytes: it is put at 0.
fn row_group(group: &Group<'_>) -> RowGroup {
    let offset = group.chunks.iter().map(|chunk| chunk.range.start()).min().unwrap_or(0);
    let end = group.chunks.iter().map(|chunk| chunk.range.end()).max().unwrap_or(0);
    RowGroup { offset, len: end - offset, rows: group.rows }
}

#[cfg(test)]
#[path = "row_group_test.rs"]
mod tests;
