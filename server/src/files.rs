//! The files of a checkpoint or dataset as they are served: saved ones, and safetensors files that the tensors of a
//! checkpoint make, put together from whatever slices they were saved in.
//!
//! Must never give a byte that was not checked against the commit, nor hold more of a file than the range that is asked
//! for.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::digest::Digest;
use gigastore_formats::name::ProjectName;
use gigastore_formats::plan::{Planner, SlicePart};
use gigastore_formats::range::ByteRange;
use gigastore_formats::record::{Commit, Sort};
use gigastore_formats::tensor::files::{FileLayout, INDEX, TensorFile, View};
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_formats::wire::{Fault, FaultCode, FileInfo};

use crate::cache::BLOCK_BYTES;
use crate::content::Content;
use crate::http::Shared;

/// Slices that are read at once for one range: each is a part of it, and holds up to two groups more.
const SLICES_AT_ONCE: usize = 4;

/// Memory of a range of a block while it is put together: what comes from slices, beside where it goes.
pub(crate) const ASSEMBLY_BYTES: u64 = BLOCK_BYTES;

/// A file whose bytes can be read.
#[derive(Clone, Debug)]
pub(crate) enum Opened {
    /// One that was saved.
    Saved(Content),
    /// One that tensors make.
    Made(Made),
    /// The index of several such, and its BLAKE3.
    Index(Bytes, Digest),
}

/// A safetensors file that tensors make.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    shared: Shared,
    project: ProjectName,
    planner: Arc<Planner>,
    layout: Arc<FileLayout>,
    position: usize,
}

/// Lists the files of a checkpoint or dataset version, by path.
pub(crate) async fn list(shared: &Shared, project: &ProjectName, commit: &Commit) -> Result<Vec<FileInfo>, Fault> {
    match commit.sort {
        Sort::Checkpoint => {
            let planner = shared.manifests.checkpoint(shared, project, commit).await?;
            let layout = shared.manifests.layout(shared, project, commit, None).await?;
            Ok(shared.ambient.computed(move || planner.files(&layout)).await)
        }
        Sort::Dataset => {
            let dataset = shared.manifests.dataset(shared, project, commit).await?;
            let info = |row: &gigastore_formats::manifest::dataset::FileRow| {
                let digest = row.blob.digest;
                FileInfo { path: row.path.clone(), bytes: row.bytes, tag: digest, blake3: Some(digest) }
            };
            Ok(dataset.rows.iter().map(info).collect())
        }
    }
}

impl Opened {
    /// Finds a file of a checkpoint or dataset version; `None` where it has no such. What was saved comes before what
    /// tensors make.
    pub(crate) async fn find(
        shared: &Shared,
        project: &ProjectName,
        commit: &Commit,
        path: &str,
    ) -> Result<Option<Self>, Fault> {
        if commit.sort == Sort::Dataset {
            let dataset = shared.manifests.dataset(shared, project, commit).await?;
            let row = dataset.rows.binary_search_by(|row| row.path.as_str().cmp(path)).ok();
            return Ok(row.map(|i| Self::Saved(Content::of_file(shared, project, &dataset.rows[i]))));
        }
        let planner = shared.manifests.checkpoint(shared, project, commit).await?;
        if let Some(row) = planner.rows_of(SliceKind::File, path).first() {
            return Ok(Some(Self::Saved(Content::of_slice(shared, project, row).await?)));
        }
        let Some(view) = View::of(path) else { return Ok(None) };
        let layout = shared.manifests.layout(shared, project, commit, Some(view)).await?;
        if path == INDEX {
            return Ok(layout.index().map(|index| Self::Index(index.clone(), Digest::of(index))));
        }
        let position = layout.files().iter().position(|file| file.name == path);
        let made = |position| {
            let (shared, project) = (Arc::clone(shared), project.clone());
            Self::Made(Made { shared, project, planner, layout, position })
        };
        Ok(position.map(made))
    }

    /// Returns its bytes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Saved(content) => content.len(),
            Self::Made(made) => made.file().len,
            Self::Index(index, _) => index.len() as u64,
        }
    }

    /// Returns what names its content for caches.
    pub(crate) fn tag(&self) -> Digest {
        match self {
            Self::Saved(content) => content.digest(),
            Self::Made(made) => made.file().tag,
            Self::Index(_, digest) => *digest,
        }
    }

    /// Returns the memory that reading a block takes beside the block itself.
    pub(crate) fn memory(&self) -> u64 {
        if matches!(self, Self::Made(_)) { ASSEMBLY_BYTES } else { 0 }
    }

    /// Reads a range that lies within it, verified.
    pub(crate) async fn read(&self, range: ByteRange) -> Result<Bytes, Fault> {
        match self {
            Self::Saved(content) => content.read(range).await,
            Self::Made(made) => made.read(range).await,
            Self::Index(index, _) => Ok(index.slice(range.start() as usize..range.end() as usize)),
        }
    }
}

impl Made {
    fn file(&self) -> &TensorFile {
        &self.layout.files()[self.position]
    }

    async fn read(&self, range: ByteRange) -> Result<Bytes, Fault> {
        let (planner, layout, position) = (Arc::clone(&self.planner), Arc::clone(&self.layout), self.position);
        let plan = move || planner.read_file(&layout, &layout.files()[position], range);
        let planned = self.shared.ambient.computed(plan).await.map_err(|error| Fault::from(&error))?;
        let mut gathered = BytesMut::zeroed(range.len() as usize);
        gathered[..planned.header.len()].copy_from_slice(&planned.header);
        let parts = futures::stream::iter(planned.parts).map(|part| self.part(part)).buffered(SLICES_AT_ONCE);
        let mut parts = std::pin::pin!(parts);
        while let Some((part, pieces)) = parts.try_next().await? {
            // Of a tensor that is cut along its columns these are many short runs.
            let scattered = self.shared.ambient.computed(move || {
                let done = scatter(&part, &pieces, &mut gathered);
                done.map(|()| gathered)
            });
            gathered = scattered.await?;
        }
        Ok(gathered.freeze())
    }

    /// Reads what is wanted of a slice.
    async fn part(&self, part: SlicePart) -> Result<(SlicePart, Vec<(u64, Bytes)>), Fault> {
        let row = &self.planner.checkpoint().rows[part.row];
        let slice = Content::of_slice(&self.shared, &self.project, row).await?;
        let pieces = slice.pieces(part.range).await?;
        Ok((part, pieces))
    }
}

/// Puts what was read of a slice where it belongs.
fn scatter(part: &SlicePart, pieces: &[(u64, Bytes)], to: &mut [u8]) -> Result<(), Fault> {
    for (start, bytes) in pieces {
        let range = ByteRange::with_len(*start, bytes.len() as u64);
        let range = range.map_err(|error| Fault::new(FaultCode::Integrity, &error))?;
        for run in part.copies.iter().flat_map(|copy| copy.within(range)) {
            let (from, at, len) = ((run.from - start) as usize, run.to as usize, run.len as usize);
            to[at..at + len].copy_from_slice(&bytes[from..from + len]);
        }
    }
    Ok(())
}
