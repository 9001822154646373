//! A version opened for training: its light index at once, its files' facts as they are needed.
//!
//! Must never read the whole manifest of a large version, and never hold facts of files without bound.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::manifest::Step;
use gigastore_formats::manifest::dataset::{DatasetIndex, DatasetReader, FileRow, IndexReader};
use gigastore_formats::name::Target;
use gigastore_formats::range::{ByteRange, coalesce};
use gigastore_formats::table::tokens::{TokenError, TokenFile};
use gigastore_formats::wire::CommitInfo;

use super::bound::Bound;
use super::kept::Kept;
use super::read::DatasetError;
use super::rows;
use crate::store::Store;
use crate::transfer::progress::Progress;

/// Bytes of files' rows that are kept: 256 MiB, the group trees of 2 TiB of files.
const KEPT_BYTES: u64 = 256 << 20;

/// Row groups of files whose footers are kept: 2^19, of some 100 bytes each.
const KEPT_GROUPS: u64 = 1 << 19;

/// Bytes of a manifest all of whose files are read together with the first one: 64 MiB, the group trees of 500 GiB of
/// files, in about the time that a few requests to a store take.
const WHOLE_BYTES: u64 = 64 << 20;

/// Longest read that is not cut: 32 MiB, two row groups of the default size. A longer one is put together from pieces.
const READ_BYTES: u64 = 32 << 20;

/// Unwanted bytes that are read rather than asked around: one verified group.
const GAP_BYTES: u64 = 256 << 10;

/// Reads of one call in flight; the budget bounds their bytes.
const READS_IN_FLIGHT: usize = 8;

/// An open dataset version of which little was read. Cheap to clone; clones share what is kept.
#[derive(Clone, Debug)]
pub struct IndexedDataset {
    pub(super) bound: Bound,
    index: Arc<DatasetIndex>,
    files: Arc<Files>,
}

/// What was read of single files.
#[derive(Debug)]
struct Files {
    rows: Kept<Arc<FileRow>>,
    footers: Kept<TokenFile>,
    /// Held while rows or footers are read, so that what several ask for together is read once.
    reading: tokio::sync::Mutex<()>,
}

impl Store {
    /// Opens the dataset version that `target` means, reading only what an order is made of: a million row groups take
    /// some tens of milliseconds.
    pub async fn dataset_index(&self, target: &Target) -> Result<IndexedDataset, DatasetError> {
        let bound = Bound::open(self, target).await?;
        let mut reader = IndexReader::new(bound.info.commit.manifest.len).map_err(|source| bound.unreadable(source))?;
        let index = loop {
            let (stepped, read) = self.ambient.computed(move || (reader.step(), reader)).await;
            reader = read;
            match stepped.map_err(|source| bound.unreadable(source))? {
                Step::Done(index) => break index,
                Step::Need(ranges) => {
                    for (range, bytes) in bound.manifest_ranges(&ranges).await? {
                        reader.give(range, bytes).map_err(|source| bound.unreadable(source))?;
                    }
                }
            }
        };
        let (rows, footers) = (Kept::new(KEPT_BYTES), Kept::new(KEPT_GROUPS));
        let files = Files { rows, footers, reading: tokio::sync::Mutex::new(()) };
        Ok(IndexedDataset { bound, index: Arc::new(index), files: Arc::new(files) })
    }
}

impl IndexedDataset {
    /// Returns its paths, and the rows and planned tokens of its row groups.
    pub fn index(&self) -> &DatasetIndex {
        &self.index
    }

    /// Returns its commit.
    pub fn info(&self) -> &CommitInfo {
        &self.bound.info
    }

    /// Returns what the manifest says of file number `file`, its group tree included. Read when it is first asked for,
    /// and kept while there is room.
    pub async fn file(&self, file: usize) -> Result<Arc<FileRow>, DatasetError> {
        if let Some(row) = self.files.rows.get(file) {
            return Ok(row);
        }
        let _reading = self.files.reading.lock().await;
        self.read_file(file).await
    }

    /// Returns where file number `file` has its tokens, from its footer. Read when it is first asked for, and kept
    /// while there is room.
    pub async fn token_file(&self, file: usize) -> Result<TokenFile, DatasetError> {
        if let Some(found) = self.files.footers.get(file) {
            return Ok(found);
        }
        let tokens = self.index.meta.tokens.as_ref();
        let tokens = tokens.ok_or_else(|| DatasetError::NoTokens { target: self.bound.target.to_string() })?;
        let _reading = self.files.reading.lock().await;
        if let Some(found) = self.files.footers.get(file) {
            return Ok(found);
        }
        let row = self.read_file(file).await?;
        let unsound = |source| DatasetError::Tokens { path: row.path.clone(), source };
        let footer = rows::footer(self, &row).await?.map_err(TokenError::from);
        let found = footer.and_then(|footer| footer.tokens(Some(&tokens.column))).map_err(unsound)?;
        // What the manifest says was taken from this footer; the two differ only where one of them is wrong.
        let planned = self.index.rows.get(self.index.groups(file)).unwrap_or_default();
        let there: Vec<u64> = (0..found.groups()).map(|group| found.rows(group)).collect();
        if planned != there {
            return Err(DatasetError::RowGroups { path: row.path.clone() });
        }
        self.files.footers.keep(file, file, found.clone(), there.len() as u64 + 1);
        Ok(found)
    }

    /// Reads ranges of a file, each checked against the file's group tree. What is returned no longer counts as bytes
    /// in flight.
    pub async fn read_ranges(&self, row: &FileRow, ranges: &[ByteRange]) -> Result<Vec<Bytes>, DatasetError> {
        if let Some(range) = ranges.iter().find(|range| range.end() > row.bytes) {
            return Err(DatasetError::Range { path: row.path.clone(), len: row.bytes, range: *range });
        }
        let progress = &Progress::default();
        let reads = coalesce(ranges, GAP_BYTES, READ_BYTES).into_iter().map(|read| async move {
            let bytes = self.read(row, read.range, progress).await?;
            Ok::<_, DatasetError>((read, bytes))
        });
        let mut found = vec![Bytes::new(); ranges.len()];
        let mut reads = futures::stream::iter(reads).buffered(READS_IN_FLIGHT);
        while let Some((read, bytes)) = reads.try_next().await? {
            for i in read.wanted {
                let start = (ranges[i].start() - read.range.start()) as usize;
                found[i] = bytes.slice(start..start + ranges[i].len() as usize);
            }
        }
        Ok(found)
    }

    async fn read(&self, row: &FileRow, range: ByteRange, progress: &Progress) -> Result<Bytes, DatasetError> {
        if range.len() <= READ_BYTES {
            return Ok(self.bound.piece(row, range, progress).await?.bytes);
        }
        let mut pieces =
            futures::stream::iter(range.cut(READ_BYTES)).map(|cut| self.bound.piece(row, cut, progress)).buffered(2);
        let mut bytes = BytesMut::with_capacity(range.len() as usize);
        while let Some(piece) = pieces.try_next().await? {
            bytes.extend_from_slice(&piece.bytes);
        }
        Ok(bytes.freeze())
    }

    /// Reads what the manifest says of a file, and of others with it where the manifest is small.
    async fn read_file(&self, file: usize) -> Result<Arc<FileRow>, DatasetError> {
        if let Some(row) = self.files.rows.get(file) {
            return Ok(row);
        }
        let unknown = |path: String| {
            let (target, known) = (self.bound.target.to_string(), Vec::new());
            DatasetError::Unknown { target, path, known }
        };
        let path = &self.index.files.get(file).ok_or_else(|| unknown(format!("number {file}")))?.path;
        let whole = self.bound.info.commit.manifest.len <= WHOLE_BYTES;
        let wanted = match whole {
            true => self.index.files.iter().map(|file| file.path.clone()).collect(),
            false => BTreeSet::from([path.clone()]),
        };
        for row in self.rows(wanted).await? {
            let number = self.index.files.binary_search_by(|file| file.path.cmp(&row.path));
            let (number, bytes) = (number.map_err(|_| unknown(row.path.clone()))?, row_bytes(&row));
            self.files.rows.keep(number, file, Arc::new(row), bytes);
        }
        self.files.rows.get(file).ok_or_else(|| unknown(path.clone()))
    }

    async fn rows(&self, wanted: BTreeSet<String>) -> Result<Vec<FileRow>, DatasetError> {
        let unreadable = |source| self.bound.unreadable(source);
        let mut reader = DatasetReader::new(self.bound.info.commit.manifest.len, wanted).map_err(unreadable)?;
        loop {
            let (stepped, read) = self.bound.store.ambient.computed(move || (reader.step(), reader)).await;
            reader = read;
            match stepped.map_err(unreadable)? {
                Step::Done(dataset) => return Ok(dataset.rows),
                Step::Need(ranges) => {
                    for (range, bytes) in self.bound.manifest_ranges(&ranges).await? {
                        reader.give(range, bytes).map_err(unreadable)?;
                    }
                }
            }
        }
    }
}

/// Returns about how many bytes of memory a row takes.
fn row_bytes(row: &FileRow) -> u64 {
    let groups = size_of_val(row.row_groups.as_slice()) + size_of_val(row.tree.values());
    let tokens = size_of_val(row.tokens.as_slice()) + size_of_val(row.lengths.as_slice());
    (size_of::<FileRow>() + row.path.len() + groups + tokens + size_of_val(row.removed.as_slice())) as u64
}
