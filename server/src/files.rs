//! The files of a checkpoint or dataset as they are served: saved ones, and safetensors files that the tensors of a
//! checkpoint make, put together from whatever slices they were saved in.
//!
//! Must never give a byte that was not checked against the commit, nor hold more of a file than the range that is asked
//! for.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::try_join_all;
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::digest::Digest;
use gigastore_formats::limits::PACK_1_GROUP_BYTES;
use gigastore_formats::name::ProjectName;
use gigastore_formats::plan::{COPY_BYTES, FileRead, MAX_COPIES, Planner, SlicePart, Unplanned};
use gigastore_formats::range::ByteRange;
use gigastore_formats::record::{Commit, Sort};
use gigastore_formats::tensor::files::{FileLayout, INDEX, TensorFile, View};
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_formats::wire::{Fault, FaultCode};
use tokio::sync::Mutex;

use crate::content::Content;
use crate::http::Shared;

/// Parts of slices that are read at once for one answer: three, so that beside its blocks an answer takes less than
/// 7 MiB, and the default memory is enough for eight, as many as clients of hubs download at once.
const PARTS_AT_ONCE: usize = 3;

/// Bytes of a part: 1 MiB, a group of packs of version 1.
const PART_BYTES: u64 = PACK_1_GROUP_BYTES;

/// Memory of a part that is read: as it is stored, and opened.
const PART_MEMORY_BYTES: u64 = 2 * PART_BYTES;

/// What is copied where it was read, not on the pool: a few microseconds, about what going there takes.
const SHORT_COPY_BYTES: usize = 16 << 10;

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
    /// Held by the one block of an answer that is being put together.
    turn: Arc<Mutex<()>>,
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
        let layout = shared.manifests.layout(shared, project, commit, view).await?;
        if path == INDEX {
            let index = layout.index().zip(layout.index_digest());
            return Ok(index.map(|(index, digest)| Self::Index(index.clone(), digest)));
        }
        let position = layout.files().iter().position(|file| file.name == path);
        let made = |position| {
            let (shared, project) = (Arc::clone(shared), project.clone());
            Self::Made(Made { shared, project, planner, layout, position, turn: Arc::default() })
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

    /// Returns the memory that reading a range takes beside its blocks.
    pub(crate) fn memory(&self, range: ByteRange) -> u64 {
        let Self::Made(made) = self else { return 0 };
        let slices = made.planner.slices_in(&made.layout, made.file(), range);
        let parts = slices.saturating_add(usize::try_from(range.len() / PART_BYTES).unwrap_or(usize::MAX));
        let parts = if slices == 0 { 0 } else { parts.min(PARTS_AT_ONCE) };
        parts as u64 * PART_MEMORY_BYTES + slices.min(MAX_COPIES) as u64 * COPY_BYTES
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
        let _turn = self.turn.lock().await;
        let (mut gathered, mut left) = (BytesMut::zeroed(range.len() as usize), Unplanned::from(range));
        while !left.is_empty() {
            let (planner, layout, position) = (Arc::clone(&self.planner), Arc::clone(&self.layout), self.position);
            let plan = move || {
                let planned = planner.read_file(&layout, &layout.files()[position], &mut left);
                planned.map(|planned| (planned, left))
            };
            let planned;
            (planned, left) = self.shared.ambient.computed(plan).await.map_err(|error| Fault::from(&error))?;
            let Some(planned) = planned else { break };
            let mut piece = gathered.split_off((planned.range.start() - range.start()) as usize);
            let rest = piece.split_off(planned.range.len() as usize);
            gathered.unsplit(self.gather(planned, piece).await?);
            gathered.unsplit(rest);
        }
        Ok(gathered.freeze())
    }

    /// Reads what was planned.
    async fn gather(&self, planned: FileRead, mut to: BytesMut) -> Result<BytesMut, Fault> {
        to[..planned.header.len()].copy_from_slice(&planned.header);
        let parts = planned.parts.into_iter().map(Arc::new);
        let parts = parts.flat_map(|part| part.range.cut(PART_BYTES).map(move |range| (Arc::clone(&part), range)));
        let groups = futures::stream::iter(parts).map(|(part, range)| self.groups(part, range));
        let mut groups = std::pin::pin!(groups.buffer_unordered(PARTS_AT_ONCE));
        while let Some((part, groups)) = groups.try_next().await? {
            for (start, bytes) in groups {
                to = self.put(&part, start, bytes, to).await?;
            }
        }
        Ok(to)
    }

    /// Reads the groups of a slice that a range touches, at once; tells where each starts. The slice is looked up here,
    /// not ahead: a lookup that is not polled while groups are read would hold what these wait for.
    async fn groups(
        &self,
        part: Arc<SlicePart>,
        range: ByteRange,
    ) -> Result<(Arc<SlicePart>, Vec<(u64, Bytes)>), Fault> {
        let row = &self.planner.checkpoint().rows[part.row];
        let slice = Content::of_slice(&self.shared, &self.project, row).await?;
        let groups = try_join_all(range.cut(slice.group_bytes()).map(|range| slice.group(range))).await?;
        Ok((part, groups))
    }

    /// Puts a group where it belongs.
    async fn put(&self, part: &Arc<SlicePart>, start: u64, bytes: Bytes, mut to: BytesMut) -> Result<BytesMut, Fault> {
        if bytes.len() <= SHORT_COPY_BYTES {
            scatter(part, start, &bytes, &mut to)?;
            return Ok(to);
        }
        // Of a tensor that is cut along its columns these are many short runs.
        let part = Arc::clone(part);
        let scattered = move || scatter(&part, start, &bytes, &mut to).map(|()| to);
        self.shared.ambient.computed(scattered).await
    }
}

/// Puts what was read of a slice, from its byte `start` on, where it belongs.
fn scatter(part: &SlicePart, start: u64, bytes: &Bytes, to: &mut [u8]) -> Result<(), Fault> {
    let range = ByteRange::with_len(start, bytes.len() as u64);
    let range = range.map_err(|error| Fault::new(FaultCode::Integrity, &error))?;
    for run in part.copies.iter().flat_map(|copy| copy.within(range)) {
        let (from, at, len) = ((run.from - start) as usize, run.to as usize, run.len as usize);
        to[at..at + len].copy_from_slice(&bytes[from..from + len]);
    }
    Ok(())
}
