//! A dataset version bound to the record that committed it: verified reads of its manifest and of its files.
//!
//! Must never return a byte that was not checked against that record.

use bytes::Bytes;
use gigastore_formats::manifest::ManifestError;
use gigastore_formats::manifest::dataset::FileRow;
use gigastore_formats::name::Target;
use gigastore_formats::object::ObjectKind;
use gigastore_formats::range::ByteRange;
use gigastore_formats::record::Sort;
use gigastore_formats::wire::CommitInfo;

use super::read::DatasetError;
use crate::checkpoint::open::OpenError;
use crate::store::Store;
use crate::transfer::budget::Taken;
use crate::transfer::gather::gather;
use crate::transfer::progress::Progress;

/// A version, the store that it is in, and what it was opened as.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub(super) store: Store,
    pub(super) target: Target,
    pub(super) info: CommitInfo,
}

/// Checked bytes of a file, counted as in flight until somebody takes them.
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) bytes: Bytes,
    _taken: Taken,
}

impl Bound {
    /// Finds the version that `target` means.
    pub(super) async fn open(store: &Store, target: &Target) -> Result<Self, DatasetError> {
        let info = store.resolve(target).await?;
        if info.commit.sort != Sort::Dataset {
            return Err(DatasetError::Checkpoint { target: target.to_string() });
        }
        Ok(Self { store: store.clone(), target: target.clone(), info })
    }

    /// Reads ranges of the manifest.
    pub(super) async fn manifest_ranges(&self, ranges: &[ByteRange]) -> Result<Vec<(ByteRange, Bytes)>, DatasetError> {
        let Self { store, target, info, .. } = self;
        store.index_ranges(target, info, &info.commit.manifest, ranges).await.map_err(|error| match error {
            OpenError::Store(fault) => DatasetError::Store(fault),
            error => DatasetError::Index(error),
        })
    }

    /// Says that the manifest, whose bytes are right, can't be read.
    pub(super) fn unreadable(&self, source: ManifestError) -> DatasetError {
        DatasetError::Manifest { target: self.target.to_string(), source }
    }

    /// Reads and checks the groups around `cut`; returns exactly `cut`.
    pub(super) async fn piece(
        &self,
        row: &FileRow,
        cut: ByteRange,
        progress: &Progress,
    ) -> Result<Piece, DatasetError> {
        let range = row.tree.widened(cut);
        let taken = self.store.budget.take(range.len()).await;
        let (project, blob) = (&self.target.project, (ObjectKind::Blob, &row.blob));
        let checked = match gather(&self.store, project, blob, &row.tree, range, &self.store.buffers).await {
            Ok(checked) => checked,
            Err(fault) => return Err(self.store.lost_or_gone(&self.target, &self.info, fault).await.into()),
        };
        progress.moved(range.len());
        let object = row.blob.key(ObjectKind::Blob);
        let bytes = checked.map_err(|source| DatasetError::Damaged { path: row.path.clone(), object, source })?;
        progress.done(cut.len());
        let start = (cut.start() - range.start()) as usize;
        let bytes = bytes.slice(start..start + cut.len() as usize);
        Ok(Piece { start: cut.start(), bytes, _taken: taken })
    }
}
