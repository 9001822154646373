//! Dataset manifests: one row per file, with the facts of its Parquet footer and its group tree.
//!
//! Must never hold a tree that was not proven to belong to its file's digest.

use std::collections::BTreeMap;

use arrow_array::{Array, ArrayRef, BinaryArray, StringArray, UInt64Array};
use arrow_schema::Field;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::bounds::RECORD_WEIGHT;
use super::columns::{
    Columns, Lists, blob, blob_array, number, number_array, records, records_array, text, text_array,
};
use super::head::{Format, Head, Meta, check_number, check_user_metadata};
use super::reader::read_rows;
use super::row::Row;
use super::writer::write_rows;
use super::{ManifestError, MetaError, RowError};
use crate::digest::Digest;
use crate::limits::{FILE_GROUP_BYTES, MAX_BLOB_BYTES, MAX_FILE_ROW_GROUPS, MAX_MANIFEST_BYTES};
use crate::name::{Name, check_path};
use crate::object::Stored;
use crate::table::RowGroup;
use crate::verified::{GroupSize, GroupTree};

const FORMAT: Format = Format { name: "dataset-1", limit: MAX_MANIFEST_BYTES };

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
    /// Its group tree, of [`GroupSize::File`].
    pub tree: GroupTree,
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
        check_user_metadata(&self.metadata)
    }
}

const ROW_GROUP_FIELDS: [&str; 3] = ["offset", "len", "rows"];

impl Row for FileRow {
    const LIST_VALUES: u64 = MAX_FILE_ROW_GROUPS as u64;
    /// 32 bytes for each group of the largest file: 640 MiB.
    const BLOB_BYTES: u64 = MAX_BLOB_BYTES / FILE_GROUP_BYTES * 32;
    const FOUND_BY: &'static str = "path";
    const DISTINCT: &'static [&'static str] = &["blake3", "blob", "groups"];

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
        ]
    }

    fn arrays(rows: &[Self]) -> Vec<ArrayRef> {
        let texts = |of: fn(&Self) -> String| text_array(rows.iter().map(|row| Some(of(row))));
        let numbers = |of: fn(&Self) -> u64| number_array(rows.iter().map(|row| Some(of(row))));
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
        ]
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
        check_number("group size", GroupSize::File.bytes(), self.tree.size().bytes())?;
        let mut rows = 0u64;
        for RowGroup { offset, len, rows: more } in self.row_groups.iter().copied() {
            if offset.checked_add(len).is_none_or(|end| end > self.bytes) {
                return Err(RowError::RowGroup { offset, len, bytes: self.bytes });
            }
            rows = rows.saturating_add(more);
        }
        check_number("number of rows", rows, self.rows)
    }

    fn weight(&self) -> u64 {
        let lists = self.row_groups.len() as u64 * RECORD_WEIGHT + self.tree.values().len() as u64 * 32;
        self.path.len() as u64 + lists + 512
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
        })
    }

    fn row(&self, i: usize) -> Result<FileRow, RowError> {
        let blob: Stored = self.blobs.value(i).parse()?;
        check_digest("blake3", blob.digest, self.digests.value(i).parse()?)?;
        let bytes = self.bytes.value(i);
        let values = self.groups.value(i);
        check_number("bytes of group values", values.len() as u64 / 32 * 32, values.len() as u64)?;
        let tree = GroupTree::proven(blob.digest, GroupSize::File, bytes, values.as_chunks::<32>().0.to_vec())?;
        let [offsets, lens, rows] = self.row_groups.map(|list| list.row(i));
        let row_groups = offsets.iter().zip(lens).zip(rows);
        let row_groups = row_groups.map(|((offset, len), rows)| RowGroup { offset: *offset, len: *len, rows: *rows });
        Ok(FileRow {
            path: self.paths.value(i).to_owned(),
            blob,
            bytes,
            rows: self.rows.value(i),
            schema: self.schemas.value(i).parse()?,
            row_groups: row_groups.collect(),
            tree,
        })
    }
}

fn check_digest(what: &'static str, expected: Digest, actual: Digest) -> Result<(), RowError> {
    if expected == actual { Ok(()) } else { Err(RowError::Differs { what, expected, actual }) }
}

#[cfg(test)]
#[path = "dataset_test.rs"]
mod tests;
