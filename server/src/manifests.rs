//! Decoded manifests that are kept: a rank that wants a row of each of 2,000 tensors need not read a manifest of a
//! million; their files; and those that tensors make, laid out, so that a range of one is no more than a look.
//!
//! Must never keep a manifest that was not checked against its commit record.

use std::sync::Arc;

use gigastore_formats::limits::MAX_USER_METADATA_BYTES;
use gigastore_formats::manifest::checkpoint::CheckpointRow;
use gigastore_formats::manifest::dataset::{Dataset, FileRow};
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::Stored;
use gigastore_formats::order::{Cursor, SourceCursor};
use gigastore_formats::plan::Planner;
use gigastore_formats::record::{Commit, Sort};
use gigastore_formats::tensor::files::{FileLayout, LayoutError, View};
use gigastore_formats::wire::{Fault, FaultCode, FileInfo};

use crate::admission::Admitted;
use crate::http::Service;
use crate::kept::Kept;

/// What a heap allocation costs beside its bytes.
const ALLOCATION_BYTES: usize = 16;

/// What any manifest takes that is kept.
const ENTRY_BYTES: u64 = 1 << 10;

/// A manifest that is being read may take this part of the memory for bodies: it counts, and uploads go on.
const READING_SHARE: u64 = 4;

/// Memory that laying out a tensor takes for a moment: its header in the making, beside what is kept of it.
const LAYING_BYTES: u64 = 512;

/// Memory of a file that is listed, beside its path, of which most have fewer bytes than that.
const LISTING_BYTES: u64 = 256;

/// A manifest, and what of it.
type Key = (ProjectName, Stored, Part);

/// What is kept of a manifest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Part {
    /// All its rows.
    Rows,
    /// The files of one view that its tensors make.
    Layout(View),
    /// The list of its files.
    Files,
}

/// A decoded manifest, or what follows from one.
#[derive(Clone, Debug)]
enum Decoded {
    Checkpoint(Arc<Planner>),
    Dataset(Arc<Dataset>),
    /// Or why there is none, which is not worked out again.
    Layout(Result<Arc<FileLayout>, LayoutError>),
    Files(Arc<[FileInfo]>),
}

/// Decoded manifests, within a number of bytes.
#[derive(Debug)]
pub(crate) struct Manifests {
    kept: Kept<Key, Decoded>,
}

impl Manifests {
    pub(crate) fn new(capacity: u64) -> Self {
        Self { kept: Kept::new(capacity) }
    }

    /// Returns the decoded manifest of a checkpoint, ready for plans.
    pub(crate) async fn checkpoint(
        &self,
        service: &Service,
        project: &ProjectName,
        commit: &Commit,
    ) -> Result<Arc<Planner>, Fault> {
        let read = || async {
            let (_admitted, base) = (admitted(service, commit).await?, base_bytes(commit));
            let read = service.engine.checkpoint(project, commit).await.map_err(|error| Fault::from(&error))?;
            let planner = move || {
                let planner = Planner::new(read);
                (base + checkpoint_bytes(&planner), Decoded::Checkpoint(Arc::new(planner)))
            };
            Ok(service.ambient.computed(planner).await)
        };
        match self.get(service, (project.clone(), commit.manifest.object, Part::Rows), read).await? {
            Decoded::Checkpoint(checkpoint) => Ok(checkpoint),
            _ => Err(other_sort(commit)),
        }
    }

    /// Returns the decoded manifest of a dataset.
    pub(crate) async fn dataset(
        &self,
        service: &Service,
        project: &ProjectName,
        commit: &Commit,
    ) -> Result<Arc<Dataset>, Fault> {
        let read = || async {
            let (_admitted, base) = (admitted(service, commit).await?, base_bytes(commit));
            let read = service.engine.dataset(project, commit).await.map_err(|error| Fault::from(&error))?;
            Ok(service.ambient.computed(move || (base + dataset_bytes(&read), Decoded::Dataset(Arc::new(read)))).await)
        };
        match self.get(service, (project.clone(), commit.manifest.object, Part::Rows), read).await? {
            Decoded::Dataset(dataset) => Ok(dataset),
            _ => Err(other_sort(commit)),
        }
    }

    /// Returns the files that the tensors of a checkpoint make in one view.
    pub(crate) async fn layout(
        &self,
        service: &Service,
        project: &ProjectName,
        commit: &Commit,
        view: View,
    ) -> Result<Arc<FileLayout>, Fault> {
        let planner = self.checkpoint(service, project, commit).await?;
        self.laid_out(service, project, commit, planner, view).await?.map_err(|error| Fault::from(&error))
    }

    async fn laid_out(
        &self,
        service: &Service,
        project: &ProjectName,
        commit: &Commit,
        planner: Arc<Planner>,
        view: View,
    ) -> Result<Result<Arc<FileLayout>, LayoutError>, Fault> {
        let read = || async {
            let _admitted = briefly(service, planner.checkpoint().rows.len() as u64 * LAYING_BYTES).await?;
            let layout = service.ambient.computed(move || planner.layout(view).map(Arc::new)).await;
            let bytes = layout.as_ref().map_or(0, |layout| layout.memory() as u64);
            Ok((bytes + ENTRY_BYTES, Decoded::Layout(layout)))
        };
        match self.kept.get((project.clone(), commit.manifest.object, Part::Layout(view)), read).await?.0 {
            Decoded::Layout(layout) => Ok(layout),
            _ => Err(other_sort(commit)),
        }
    }

    /// Lists the files of a checkpoint or dataset version, by path; those that were saved alone, where its tensors make
    /// none.
    pub(crate) async fn files(
        &self,
        service: &Service,
        project: &ProjectName,
        commit: &Commit,
    ) -> Result<Arc<[FileInfo]>, Fault> {
        let read = || async {
            let files = match commit.sort {
                Sort::Checkpoint => self.files_of_checkpoint(service, project, commit).await?,
                Sort::Dataset => self.files_of_dataset(service, project, commit).await?,
            };
            let bytes = files.iter().map(|file| (size_of::<FileInfo>() + file.path.len() + ALLOCATION_BYTES) as u64);
            Ok((bytes.sum::<u64>() + ENTRY_BYTES, Decoded::Files(files.into())))
        };
        match self.kept.get((project.clone(), commit.manifest.object, Part::Files), read).await?.0 {
            Decoded::Files(files) => Ok(files),
            _ => Err(other_sort(commit)),
        }
    }

    async fn files_of_checkpoint(
        &self,
        service: &Service,
        project: &ProjectName,
        commit: &Commit,
    ) -> Result<Vec<FileInfo>, Fault> {
        let planner = self.checkpoint(service, project, commit).await?;
        let looked_at = Arc::clone(&planner);
        let view = service.ambient.computed(move || looked_at.listed()).await;
        let layout = self.laid_out(service, project, commit, Arc::clone(&planner), view).await?;
        let _admitted = briefly(service, planner.checkpoint().rows.len() as u64 * LISTING_BYTES).await?;
        Ok(service.ambient.computed(move || planner.files(layout.ok().as_deref())).await)
    }

    async fn files_of_dataset(
        &self,
        service: &Service,
        project: &ProjectName,
        commit: &Commit,
    ) -> Result<Vec<FileInfo>, Fault> {
        let dataset = self.dataset(service, project, commit).await?;
        let _admitted = briefly(service, dataset.rows.len() as u64 * LISTING_BYTES).await?;
        let info = |row: &FileRow| {
            let digest = row.blob.digest;
            FileInfo { path: row.path.clone(), bytes: row.bytes, tag: digest, blake3: Some(digest) }
        };
        Ok(service.ambient.computed(move || dataset.rows.iter().map(info).collect()).await)
    }

    async fn get<F>(&self, service: &Service, key: Key, read: impl FnOnce() -> F) -> Result<Decoded, Fault>
    where
        F: Future<Output = Result<(u64, Decoded), Fault>>,
    {
        let (decoded, read_here) = self.kept.get(key, read).await?;
        let counter = if read_here { &service.metrics.manifests_read } else { &service.metrics.manifests_kept };
        counter.inc();
        Ok(decoded)
    }
}

/// Waits for memory to read a manifest.
async fn admitted(service: &Service, commit: &Commit) -> Result<Admitted, Fault> {
    briefly(service, commit.manifest.len).await
}

/// Waits for memory of so many bytes, or of the part that there is for manifests.
async fn briefly(service: &Service, bytes: u64) -> Result<Admitted, Fault> {
    service.admission.memory(bytes.min(service.admission.all() / READING_SHARE)).await
}

fn other_sort(commit: &Commit) -> Fault {
    let text = format!("{}@{} is not what its manifest says", commit.name, commit.number);
    Fault { object: Some(commit.manifest.object.to_string()), ..Fault::of(FaultCode::Integrity, text) }
}

/// Returns the memory of a manifest beside its rows and cursors: the user's metadata, of which it has no more than its
/// own bytes.
fn base_bytes(commit: &Commit) -> u64 {
    commit.manifest.len.min(MAX_USER_METADATA_BYTES as u64) + ENTRY_BYTES
}

/// Returns the memory of the rows and cursors of a checkpoint, and of what finds the rows.
fn checkpoint_bytes(planner: &Planner) -> u64 {
    let row = |row: &CheckpointRow| {
        // The shape, and the offsets and sizes of the box.
        let numbers = 3 * size_of_val(row.slice.global_shape());
        size_of::<CheckpointRow>() + row.slice.name().len() + numbers + 4 * ALLOCATION_BYTES
    };
    // A cursor is mostly lanes; the vector of them has at most twice the room that they need.
    let source =
        |one: &SourceCursor| size_of::<SourceCursor>() + one.dataset.len() + 2 * size_of_val(one.lanes.as_slice());
    let cursors = planner.checkpoint().meta.cursors.iter().map(|(name, cursor)| {
        let sources: usize = cursor.sources.iter().map(source).sum();
        size_of::<Cursor>() + name.len() + sources + 4 * ALLOCATION_BYTES
    });
    let rows: usize = planner.checkpoint().rows.iter().map(row).sum();
    (rows + cursors.sum::<usize>() + planner.index_bytes()) as u64
}

/// Returns the memory of the rows of a dataset.
fn dataset_bytes(dataset: &Dataset) -> u64 {
    let row = |row: &FileRow| {
        let (groups, values) = (size_of_val(row.row_groups.as_slice()), size_of_val(row.tree.values()));
        let numbers = size_of_val(row.tokens.as_slice()) + size_of_val(row.lengths.as_slice());
        let lists = groups + values + numbers + size_of_val(row.removed.as_slice());
        size_of::<FileRow>() + row.path.len() + lists + 6 * ALLOCATION_BYTES
    };
    dataset.rows.iter().map(row).sum::<usize>() as u64
}

#[cfg(test)]
mod tests {
    use gigastore_formats::digest::Digest;
    use gigastore_formats::manifest::checkpoint::{Checkpoint, CheckpointMeta};
    use gigastore_formats::tensor::boxes::TensorBox;
    use gigastore_formats::tensor::dtype::Dtype;
    use gigastore_formats::tensor::slice::{Codec, Place, SliceId, SliceRow};

    use super::*;
    use crate::run::Limits;

    #[test]
    fn a_million_rows_fit() {
        // Three dimensions, and a name as long as those of public models.
        let row = |i: u64| {
            let whole = TensorBox::whole(&[8, 8, 8]).unwrap();
            let slice = SliceId::tensor(&format!("{i:060}"), Dtype::BF16, &[8, 8, 8], whole).unwrap();
            let pack = Stored { digest: Digest::of(b"pack"), epoch: 0 };
            let place = Place { pack, header_len: 0, offset: 0, stored_len: slice.bytes(), codec: Codec::Raw };
            SliceRow { slice, blake3: Digest::of(b"slice"), place }
        };
        let (run, metadata) = ("run".parse().unwrap(), Default::default());
        let meta = CheckpointMeta { run, step: 1, world_size: 1, parent: None, metadata, cursors: Default::default() };
        let rows = (0..1000).map(row).collect();
        let planner = Planner::new(Checkpoint { meta, content: Digest::of(b"content"), rows });
        let all = checkpoint_bytes(&planner) * 1000 + ENTRY_BYTES + MAX_USER_METADATA_BYTES as u64;
        assert!(all <= Limits::default().manifests, "{all} bytes");
    }
}
