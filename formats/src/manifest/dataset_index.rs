//! The light index of a dataset version: paths, and per row group its rows and planned tokens, flat.
//!
//! What an order is made of, read without the digests and group trees, so that a million row groups open in the blink
//! of an eye. Must never read a column that an order does not need.

use std::ops::Range;

use arrow_array::Array;
use arrow_schema::Field;
use bytes::Bytes;

use super::columns::{Columns, numbers, records, text};
use super::dataset::{DatasetMeta, FORMAT};
use super::reader::RowsReader;
use super::row::{Gather, Row};
use super::{ManifestError, RowError, Step};
use crate::digest::Digest;
use crate::limits::MAX_FILE_ROW_GROUPS;
use crate::name::check_path;
use crate::range::ByteRange;

/// Row groups of a version whose index is held: 2^26, a petabyte of tokens at 16 MiB each, and 1 GiB of memory.
const MAX_INDEX_GROUPS: usize = 1 << 26;

/// What a version's order is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DatasetIndex {
    /// What the version is.
    pub meta: DatasetMeta,
    /// Digest of its content.
    pub content: Digest,
    /// Its files, sorted by path.
    pub files: Vec<IndexFile>,
    /// Rows of each row group of each file, one file after the other.
    pub rows: Vec<u64>,
    /// Planned tokens of each row group; zeros where the dataset has no token column.
    pub tokens: Vec<u64>,
}

/// A file of an index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexFile {
    /// Path within the dataset.
    pub path: String,
    /// Position of its first row group among those of all files.
    pub first_group: u32,
}

impl DatasetIndex {
    /// Returns the positions of the row groups of file number `file` in [`rows`](Self::rows); none past the last file.
    pub fn groups(&self, file: usize) -> Range<usize> {
        let start = |file: usize| self.files.get(file).map_or(self.rows.len(), |file| file.first_group as usize);
        start(file)..start(file.saturating_add(1))
    }
}

/// Reads an index, asking for byte ranges; used like [`FooterReader`](crate::table::FooterReader).
#[derive(Debug)]
pub struct IndexReader {
    rows: RowsReader<IndexRow, Gathered>,
}

impl IndexReader {
    /// Starts on a manifest of `file_len` bytes.
    pub fn new(file_len: u64) -> Result<Self, ManifestError> {
        Ok(Self { rows: RowsReader::new(FORMAT, file_len, None)? })
    }

    /// Goes on with what was given so far.
    pub fn step(&mut self) -> Result<Step<DatasetIndex>, ManifestError> {
        let (head, Gathered { files, rows, tokens }) = match self.rows.step()? {
            Step::Need(ranges) => return Ok(Step::Need(ranges)),
            Step::Done(done) => done,
        };
        Ok(Step::Done(DatasetIndex { meta: head.meta()?, content: head.content()?, files, rows, tokens }))
    }

    /// Takes the bytes of one range of the manifest.
    pub fn give(&mut self, range: ByteRange, bytes: Bytes) -> Result<(), ManifestError> {
        self.rows.give(range, bytes)
    }
}

#[derive(Debug, Default)]
struct Gathered {
    files: Vec<IndexFile>,
    rows: Vec<u64>,
    tokens: Vec<u64>,
}

impl Gather<IndexRow> for Gathered {
    fn take(&mut self, row: IndexRow) -> Result<(), ManifestError> {
        let first_group = self.rows.len();
        if first_group + row.rows.len() > MAX_INDEX_GROUPS {
            return Err(ManifestError::RowGroups { limit: MAX_INDEX_GROUPS });
        }
        self.files.push(IndexFile { path: row.path, first_group: first_group as u32 });
        self.rows.extend_from_slice(&row.rows);
        self.tokens.extend_from_slice(&row.tokens);
        self.tokens.resize(self.rows.len(), 0);
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct IndexRow {
    path: String,
    rows: Vec<u64>,
    tokens: Vec<u64>,
}

impl Row for IndexRow {
    const LIST_VALUES: u64 = MAX_FILE_ROW_GROUPS as u64;
    const BLOB_BYTES: u64 = 0;
    const FOUND_BY: &'static str = "path";
    const OPTIONAL: &'static [&'static str] = &["row_group_tokens"];

    fn fields() -> Vec<Field> {
        vec![text("path"), records("row_groups", &["rows"]), numbers("row_group_tokens")]
    }

    fn read(
        columns: &Columns<'_>,
        each: &mut dyn FnMut(Result<Self, RowError>) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        let paths = columns.texts("path")?;
        let [rows] = columns.records("row_groups", ["rows"])?;
        let tokens = columns.optional_lists("row_group_tokens")?;
        (0..paths.len()).try_for_each(|i| {
            let tokens = tokens.map_or_else(Vec::new, |tokens| tokens.row(i).to_vec());
            each(Ok(Self { path: paths.value(i).to_owned(), rows: rows.row(i).to_vec(), tokens }))
        })
    }

    fn check(&self) -> Result<(), RowError> {
        check_path(&self.path)?;
        if self.rows.len() > MAX_FILE_ROW_GROUPS {
            return Err(RowError::RowGroups { actual: self.rows.len() });
        }
        let (expected, actual) = (self.rows.len() as u64, self.tokens.len() as u64);
        let whole = actual == 0 || expected == actual;
        if whole { Ok(()) } else { Err(RowError::Number { what: "row groups with token counts", expected, actual }) }
    }

    fn name(&self) -> &str {
        &self.path
    }

    fn label(&self) -> String {
        self.path.clone()
    }

    fn is_before(&self, next: &Self) -> bool {
        self.path < next.path
    }
}

#[cfg(test)]
#[path = "dataset_index_test.rs"]
mod tests;
