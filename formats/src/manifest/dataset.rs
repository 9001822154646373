//! Dataset manifests: one row per file, with the facts of its Parquet footer and its group tree.
//!
//! Must never hold a tree that was not proven to belong to its file's digest.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::{Array, ArrayRef, BinaryArray, StringArray, UInt64Array};
use arrow_schema::Field;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::bounds::{NUMBER_WEIGHT, RECORD_WEIGHT};
use super::columns::{
    Columns, Lists, blob, blob_array, number, number_array, numbers, numbers_array, records, records_array, text,
    text_array,
};
pub use super::dataset_index::{DatasetIndex, IndexFile, IndexReader};
use super::dataset_tokens::FileTokens;
pub use super::dataset_tokens::{
    LENGTH_BUCKETS, Lineage, MAX_LINEAGE_BYTES, MAX_REMOVED_ROWS, Removed, TokenColumn, add_lengths, count_length,
    length_bucket,
};
use super::head::{Format, Head, Meta, check_number, check_user_metadata};
use super::reader::{RowsReader, read_rows};
use super::row::{Row, WrittenRow};
use super::writer::write_rows;
use super::{ManifestError, MetaError, RowError, Step};
use crate::digest::Digest;
use crate::limits::{GROUP_BYTES, MAX_BLOB_BYTES, MAX_FILE_ROW_GROUPS, MAX_MANIFEST_BYTES};
use crate::name::{Name, check_path};
use crate::object::Stored;
use crate::range::ByteRange;
use crate::table::RowGroup;
use crate::verified::GroupTree;

pub(super) const FORMAT: Format = Format { name: "dataset-1", limit: MAX_MANIFEST_BYTES };

/// What a dataset version is, beside its files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatasetMeta {
    /// The dataset.
    pub name: Name,
    /// The version.
    pub version: u64,
    /// The version it was made from.
    pub parent: Option<u64>,
    /// What the user wrote down.
    pub metadata: BTreeMap<String, String>,
    /// Its token column; none of plain tables, and of versions that older programs pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenColumn>,
    /// Where it came from, as far as that was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Lineage>,
}

/// One file of a dataset version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileRow {
    /// Path within the dataset.
    pub path: String,
    /// The stored object; its digest is that of the file's bytes.
    pub blob: Stored,
    /// Bytes of the file.
    pub bytes: u64,
    /// Rows of the file.
    pub rows: u64,
    /// Fingerprint of its schema, see [`ParquetFacts`](crate::table::ParquetFacts).
    pub schema: Digest,
    /// Its row groups.
    pub row_groups: Vec<RowGroup>,
    /// Its group tree, in groups of [`GROUP_BYTES`].
    pub tree: GroupTree,
    /// Planned tokens of each row group: those of its documents when they were first committed. None where the dataset
    /// has no token column.
    pub tokens: Vec<u64>,
    /// How many documents have which planned length, by [`length_bucket`]. None where the dataset has no token column.
    pub lengths: Vec<u64>,
    /// Documents that were taken down, by row: their rows are empty, and count as before in all of the above.
    pub removed: Vec<Removed>,
}

/// Tells whether as much is known of the tokens of some files as of those of others with the same content.
pub fn same_file_facts(one: &[FileRow], other: &[FileRow]) -> bool {
    let same =
        |(a, b): (&FileRow, &FileRow)| (&a.tokens, &a.lengths, &a.removed) == (&b.tokens, &b.lengths, &b.removed);
    one.len() == other.len() && one.iter().zip(other).all(same)
}

/// A dataset version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dataset {
    /// What it is.
    pub meta: DatasetMeta,
    /// Digest of the content: of paths and digests.
    pub content: Digest,
    /// Its files, sorted by path.
    pub rows: Vec<FileRow>,
}

/// Writes a manifest; refuses rows that are not strictly sorted by path. The same input gives the same bytes.
pub fn write_dataset(meta: &DatasetMeta, rows: &[FileRow]) -> Result<Vec<u8>, ManifestError> {
    write_rows(&Head::new(FORMAT, meta, content_of(rows))?, rows)
}

/// Reads a whole manifest in memory.
pub fn read_dataset(manifest: &Bytes) -> Result<Dataset, ManifestError> {
    let (head, rows) = read_rows::<FileRow>(FORMAT, manifest)?;
    let content = head.check_content(content_of(&rows))?;
    Ok(Dataset { meta: head.meta()?, content, rows })
}

/// Reads the rows of some files of a manifest, asking for byte ranges; used like
/// [`FooterReader`](crate::table::FooterReader). Row groups that can't hold them are not read.
#[derive(Debug)]
pub struct DatasetReader {
    rows: RowsReader<FileRow>,
}

impl DatasetReader {
    /// Starts on a manifest of `file_len` bytes; `paths` are those of the files.
    pub fn new(file_len: u64, paths: BTreeSet<String>) -> Result<Self, ManifestError> {
        Ok(Self { rows: RowsReader::new(FORMAT, file_len, Some(paths))? })
    }

    /// Goes on with what was given so far. Files that the version does not have are not among the rows; the digest is
    /// that of the whole content.
    pub fn step(&mut self) -> Result<Step<Dataset>, ManifestError> {
        let (head, rows) = match self.rows.step()? {
            Step::Need(ranges) => return Ok(Step::Need(ranges)),
            Step::Done(done) => done,
        };
        Ok(Step::Done(Dataset { meta: head.meta()?, content: head.content()?, rows }))
    }

    /// Takes the bytes of one range of the manifest.
    pub fn give(&mut self, range: ByteRange, bytes: Bytes) -> Result<(), ManifestError> {
        self.rows.give(range, bytes)
    }
}

/// Returns the digest of a dataset's content, wherever the bytes lie: BLAKE3 over one line a file, sorted by path: path
/// and BLAKE3, separated by a tab.
pub fn content_digest<'a>(files: impl IntoIterator<Item = (&'a str, &'a Digest)>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for (path, digest) in files {
        hasher.update(format!("{path}\t{digest}\n").as_bytes());
    }
    hasher.finalize().into()
}

fn content_of(rows: &[FileRow]) -> Digest {
    content_digest(rows.iter().map(|row| (row.path.as_str(), &row.blob.digest)))
}

impl Meta for DatasetMeta {
    fn check(&self) -> Result<(), MetaError> {
        check_user_metadata(&self.metadata)?;
        self.tokens.as_ref().map_or(Ok(()), TokenColumn::check)?;
        self.lineage.as_ref().map_or(Ok(()), Lineage::check)
    }
}

const ROW_GROUP_FIELDS: [&str; 3] = ["offset", "len", "rows"];
const REMOVED_FIELDS: [&str; 2] = ["row", "tokens"];
/// What older programs did not write.
const TOKENS: &str = "row_group_tokens";
const LENGTHS: &str = "lengths";
const REMOVED: &str = "removed";

impl Row for FileRow {
    const LIST_VALUES: u64 = MAX_FILE_ROW_GROUPS as u64;
    /// 32 bytes for each group of the largest file: 640 MiB.
    const BLOB_BYTES: u64 = MAX_BLOB_BYTES / GROUP_BYTES * 32;
    const FOUND_BY: &'static str = "path";
    const OPTIONAL: &'static [&'static str] = &[TOKENS, LENGTHS, REMOVED];

    fn fields() -> Vec<Field> {
        vec![
            text("path"),
            text("blake3"),
            text("blob"),
            number("bytes"),
            number("rows"),
            text("schema"),
            records("row_groups", &ROW_GROUP_FIELDS),
            blob("groups"),
            numbers(TOKENS),
            numbers(LENGTHS),
            records(REMOVED, &REMOVED_FIELDS),
        ]
    }

    fn list_values(column: &str) -> u64 {
        match column {
            LENGTHS => LENGTH_BUCKETS as u64,
            REMOVED => MAX_REMOVED_ROWS as u64,
            _ => Self::LIST_VALUES,
        }
    }

    fn read(
        columns: &Columns<'_>,
        each: &mut dyn FnMut(Result<Self, RowError>) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        let found = FileColumns::find(columns)?;
        (0..found.paths.len()).try_for_each(|i| each(found.row(i)))
    }

    fn check(&self) -> Result<(), RowError> {
        check_path(&self.path)?;
        if self.bytes > MAX_BLOB_BYTES {
            return Err(RowError::FileTooLong { actual: self.bytes });
        }
        if self.row_groups.len() > MAX_FILE_ROW_GROUPS {
            return Err(RowError::RowGroups { actual: self.row_groups.len() });
        }
        check_digest("root of the group values", self.blob.digest, self.tree.root())?;
        check_number("length of the group tree", self.bytes, self.tree.len())?;
        check_number("group size", GROUP_BYTES, self.tree.group_bytes())?;
        let mut rows = 0u64;
        for RowGroup { offset, len, rows: more } in self.row_groups.iter().copied() {
            if offset.checked_add(len).is_none_or(|end| end > self.bytes) {
                return Err(RowError::RowGroup { offset, len, bytes: self.bytes });
            }
            rows = rows.saturating_add(more);
        }
        check_number("number of rows", rows, self.rows)?;
        let Self { rows, row_groups, tokens, lengths, removed, .. } = self;
        FileTokens { rows: *rows, row_groups: row_groups.len(), tokens, lengths, removed }.check()
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

impl WrittenRow for FileRow {
    const DISTINCT: &'static [&'static str] = &["blake3", "blob", "groups", "row_group_tokens.list.element"];

    fn arrays(rows: &[Self]) -> Vec<ArrayRef> {
        let texts = |of: fn(&Self) -> String| text_array(rows.iter().map(|row| Some(of(row))));
        let numbers = |of: fn(&Self) -> u64| number_array(rows.iter().map(|row| Some(of(row))));
        let removed = |row: &Self| row.removed.iter().map(|removed| [removed.row, removed.tokens]).collect();
        let groups = |row: &Self| row.row_groups.iter().map(|group| [group.offset, group.len, group.rows]).collect();
        vec![
            texts(|row| row.path.clone()),
            texts(|row| row.blob.digest.to_string()),
            texts(|row| row.blob.to_string()),
            numbers(|row| row.bytes),
            numbers(|row| row.rows),
            texts(|row| row.schema.to_string()),
            records_array(ROW_GROUP_FIELDS, rows.iter().map(groups)),
            blob_array(rows.iter().map(|row| row.tree.values().as_flattened())),
            numbers_array(rows.iter().map(|row| row.tokens.as_slice())),
            numbers_array(rows.iter().map(|row| row.lengths.as_slice())),
            records_array(REMOVED_FIELDS, rows.iter().map(removed)),
        ]
    }

    fn weight(&self) -> u64 {
        let lists = self.row_groups.len() as u64 * RECORD_WEIGHT + self.tree.values().len() as u64 * 32;
        let numbers = (self.tokens.len() + self.lengths.len()) as u64 * NUMBER_WEIGHT;
        self.path.len() as u64 + lists + numbers + self.removed.len() as u64 * RECORD_WEIGHT + 512
    }

    fn unused(rows: &[Self]) -> Vec<&'static str> {
        let used = |column: &str| match column {
            TOKENS => rows.iter().any(|row| !row.tokens.is_empty()),
            LENGTHS => rows.iter().any(|row| !row.lengths.is_empty()),
            _ => rows.iter().any(|row| !row.removed.is_empty()),
        };
        Self::OPTIONAL.iter().copied().filter(|column| !used(column)).collect()
    }
}

/// The columns of a batch.
struct FileColumns<'a> {
    paths: &'a StringArray,
    digests: &'a StringArray,
    blobs: &'a StringArray,
    bytes: &'a UInt64Array,
    rows: &'a UInt64Array,
    schemas: &'a StringArray,
    row_groups: [Lists<'a>; 3],
    groups: &'a BinaryArray,
    tokens: Option<Lists<'a>>,
    lengths: Option<Lists<'a>>,
    removed: Option<[Lists<'a>; 2]>,
}

impl<'a> FileColumns<'a> {
    fn find(columns: &Columns<'a>) -> Result<Self, ManifestError> {
        Ok(Self {
            paths: columns.texts("path")?,
            digests: columns.texts("blake3")?,
            blobs: columns.texts("blob")?,
            bytes: columns.numbers("bytes")?,
            rows: columns.numbers("rows")?,
            schemas: columns.texts("schema")?,
            row_groups: columns.records("row_groups", ROW_GROUP_FIELDS)?,
            groups: columns.blobs("groups")?,
            tokens: columns.optional_lists(TOKENS)?,
            lengths: columns.optional_lists(LENGTHS)?,
            removed: columns.has(REMOVED).then(|| columns.records(REMOVED, REMOVED_FIELDS)).transpose()?,
        })
    }

    fn row(&self, i: usize) -> Result<FileRow, RowError> {
        let blob: Stored = self.blobs.value(i).parse()?;
        check_digest("blake3", blob.digest, self.digests.value(i).parse()?)?;
        let bytes = self.bytes.value(i);
        let values = self.groups.value(i);
        check_number("bytes of group values", values.len() as u64 / 32 * 32, values.len() as u64)?;
        let tree = GroupTree::proven(blob.digest, bytes, values.as_chunks::<32>().0.to_vec())?;
        let [offsets, lens, rows] = self.row_groups.map(|list| list.row(i));
        let row_groups = offsets.iter().zip(lens).zip(rows);
        let row_groups = row_groups.map(|((offset, len), rows)| RowGroup { offset: *offset, len: *len, rows: *rows });
        let list = |lists: Option<Lists<'_>>| lists.map_or_else(Vec::new, |lists| lists.row(i).to_vec());
        let removed = |lists: [Lists<'_>; 2]| {
            let [rows, tokens] = lists.map(|list| list.row(i));
            rows.iter().zip(tokens).map(|(row, tokens)| Removed { row: *row, tokens: *tokens }).collect()
        };
        Ok(FileRow {
            path: self.paths.value(i).to_owned(),
            blob,
            bytes,
            rows: self.rows.value(i),
            schema: self.schemas.value(i).parse()?,
            row_groups: row_groups.collect(),
            tree,
            tokens: list(self.tokens),
            lengths: list(self.lengths),
            removed: self.removed.map_or_else(Vec::new, removed),
        })
    }
}

fn check_digest(what: &'static str, expected: Digest, actual: Digest) -> Result<(), RowError> {
    if expected == actual { Ok(()) } else { Err(RowError::Differs { what, expected, actual }) }
}

#[cfg(test)]
#[path = "dataset_test.rs"]
mod tests;
