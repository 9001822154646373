//! A dataset version's files, and ranges of them, verified.
//!
//! Must never return or write a byte of a file that was not checked against the version's manifest.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use futures::stream::{Stream, StreamExt, TryStreamExt};
use gigastore_formats::manifest::ManifestError;
use gigastore_formats::manifest::dataset::{DatasetMeta, FileRow, read_dataset};
use gigastore_formats::name::Target;
use gigastore_formats::range::ByteRange;
use gigastore_formats::table::tokens::TokenError;
use gigastore_formats::verified::GroupMismatch;
use gigastore_formats::wire::{CommitInfo, Fault};

use super::bound::Bound;
use super::push::RewriteError;
use crate::checkpoint::open::OpenError;
use crate::staging::{Staging, StagingError};
use crate::store::Store;
use crate::transfer::progress::Progress;

/// Longest read of a file: 8 MiB, 32 groups.
const READ_BYTES: u64 = 8 << 20;

/// Reads of one file in flight.
const READS_IN_FLIGHT: usize = 8;

/// An open dataset version, bound to the record that committed it.
#[derive(Clone, Debug)]
pub struct Dataset {
    bound: Bound,
    meta: DatasetMeta,
    files: Vec<FileRow>,
}

/// Why a dataset could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The target is a checkpoint.
    #[error("{target} is a checkpoint, not a dataset: see `gigastore ckpt`")]
    Checkpoint {
        /// The target.
        target: String,
    },
    /// The manifest's bytes are not those that were committed.
    #[error(transparent)]
    Index(OpenError),
    /// The manifest matches its digest and can't be read.
    #[error("the manifest of {target} can't be read (was it written by a newer version?)")]
    Manifest {
        /// The target.
        target: String,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
    /// The version has no such file.
    #[error("{target} has no file {path:?}")]
    Unknown {
        /// The version.
        target: String,
        /// What was asked for.
        path: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The dataset has no token column.
    #[error("{target} is a table without tokens: push it anew with --tokens-column NAME, if it has some")]
    NoTokens {
        /// The version.
        target: String,
    },
    /// The token column of a file can't be read, though its bytes are those that were committed.
    #[error("{path}: {source}")]
    Tokens {
        /// The file.
        path: String,
        /// What is wrong.
        source: TokenError,
    },
    /// Rows of a file can't be read, though its bytes are those that were committed.
    #[error("{path}: {source}")]
    Rows {
        /// The file.
        path: String,
        /// What is wrong.
        source: RewriteError,
    },
    /// The footer of a file and the manifest differ.
    #[error("{path}: the row groups of its footer are not those that the manifest says; push the file anew")]
    RowGroups {
        /// The file.
        path: String,
    },
    /// The file ends before the range does.
    #[error("{path} has {len} bytes: {range} does not lie inside")]
    Range {
        /// The file.
        path: String,
        /// Its bytes.
        len: u64,
        /// What was asked for.
        range: ByteRange,
    },
    /// Stored bytes are not those that were committed.
    #[error("integrity failure: file {path} in object {object}: {source}")]
    Damaged {
        /// The file.
        path: String,
        /// The object's key below its project.
        object: String,
        /// What is wrong.
        source: GroupMismatch,
    },
    /// The file can't be written.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl Store {
    /// Opens the dataset version that `target` means.
    pub async fn dataset(&self, target: &Target) -> Result<Dataset, DatasetError> {
        let bound = Bound::open(self, target).await?;
        let whole = ByteRange::new(0, bound.info.commit.manifest.len).expect("0 is the smallest number");
        let (_, bytes) = bound.manifest_ranges(&[whole]).await?.pop().expect("one range was asked for");
        let parsed = self.ambient.computed(move || read_dataset(&bytes)).await;
        let found = parsed.map_err(|source| bound.unreadable(source))?;
        Ok(Dataset { bound, meta: found.meta, files: found.rows })
    }
}

impl Dataset {
    /// Returns its commit.
    pub fn info(&self) -> &CommitInfo {
        &self.bound.info
    }

    /// Returns the store that it was opened in.
    pub(crate) fn store(&self) -> &Store {
        &self.bound.store
    }

    /// Returns what its manifest says of it as a whole.
    pub fn meta(&self) -> &DatasetMeta {
        &self.meta
    }

    /// Returns its files, by path.
    pub fn files(&self) -> &[FileRow] {
        &self.files
    }

    /// Reads a range of a file, or all of it, into memory.
    pub async fn read(&self, path: &str, range: Option<ByteRange>, progress: &Progress) -> Result<Bytes, DatasetError> {
        let row = self.row(path)?;
        let len = range.map_or(row.bytes, |range| range.len().min(row.bytes));
        let mut pieces = std::pin::pin!(self.pieces(path, range, progress)?);
        let mut bytes = BytesMut::with_capacity(len as usize);
        while let Some(piece) = pieces.try_next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    /// Reads a range of a file, or all of it, piece after piece. Each piece was checked. Those that are read ahead
    /// count as bytes in flight: take them all, or drop the stream, before the same store is asked for something large.
    pub fn pieces<'d>(
        &'d self,
        path: &str,
        range: Option<ByteRange>,
        progress: &'d Progress,
    ) -> Result<impl Stream<Item = Result<Bytes, DatasetError>> + 'd, DatasetError> {
        let row = self.row(path)?;
        let whole = ByteRange::new(0, row.bytes).expect("0 is the smallest number");
        let range = range.unwrap_or(whole);
        if !whole.contains(&range) {
            return Err(DatasetError::Range { path: path.to_owned(), len: row.bytes, range });
        }
        progress.plan(range.len());
        let pieces = futures::stream::iter(cuts(range)).map(move |cut| self.bound.piece(row, cut, progress));
        Ok(pieces.buffered(READS_IN_FLIGHT).map_ok(|piece| piece.bytes))
    }

    /// Writes a file to the local path `to`, which appears when it is complete. Returns its bytes.
    pub async fn fetch(
        &self,
        path: &str,
        to: &Path,
        overwrite: bool,
        progress: &Progress,
    ) -> Result<u64, DatasetError> {
        let row = self.row(path)?;
        progress.plan(row.bytes);
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut staging = Staging::new(folder, overwrite, &self.bound.store.ambient)?;
        let file = staging.create(&name, row.bytes)?;
        let whole = ByteRange::new(0, row.bytes).expect("0 is the smallest number");
        let mut pieces = futures::stream::iter(cuts(whole))
            .map(|cut| self.bound.piece(row, cut, progress))
            .buffer_unordered(READS_IN_FLIGHT);
        while let Some(piece) = pieces.try_next().await? {
            staging.write(&file, &name, &piece.bytes, piece.start)?;
        }
        staging.finish(&*self.bound.store.ambient).await?;
        Ok(row.bytes)
    }

    /// Returns what the manifest says of a file, if it is there.
    pub(super) fn find(&self, path: &str) -> Option<&FileRow> {
        let found = self.files.binary_search_by(|row| row.path.as_str().cmp(path));
        found.ok().map(|i| &self.files[i])
    }

    /// Returns what the manifest says of a file.
    pub(super) fn row(&self, path: &str) -> Result<&FileRow, DatasetError> {
        self.find(path).ok_or_else(|| DatasetError::Unknown {
            target: self.bound.target.to_string(),
            path: path.to_owned(),
            known: self.files.iter().map(|row| row.path.clone()).collect(),
        })
    }
}

/// Cuts a range at multiples of [`READ_BYTES`], which are group borders.
fn cuts(range: ByteRange) -> Vec<ByteRange> {
    let mut cuts = Vec::new();
    let mut start = range.start();
    while start < range.end() {
        let end = (start / READ_BYTES + 1).saturating_mul(READ_BYTES).min(range.end());
        cuts.push(ByteRange::new(start, end).expect("a cut ends after its start"));
        start = end;
    }
    cuts
}
