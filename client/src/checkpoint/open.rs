//! From a target to its manifest: the rows of the wanted tensors, read by verified ranges.
//!
//! Must never parse a byte of a manifest that was not checked against the commit record.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::manifest::checkpoint::{
    Checkpoint as Found, CheckpointMeta, CheckpointReader, CheckpointRow, Selection,
};
use gigastore_formats::manifest::packs::{PackRow, read_packs};
use gigastore_formats::manifest::timeline::{Timeline, read_timeline};
use gigastore_formats::manifest::{Cursors, ManifestError, Step};
use gigastore_formats::name::Target;
use gigastore_formats::object::ObjectKind;
use gigastore_formats::plan::{PlanAnswer, PlannedSlice, Planner};
use gigastore_formats::range::{ByteRange, coalesce};
use gigastore_formats::record::{Index, Sort};
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::files::{FileLayout, LayoutError, View};
use gigastore_formats::tensor::slice::{SliceError, SliceKind};
use gigastore_formats::verified::{GroupMismatch, TreeError};
use gigastore_formats::wire::{CommitInfo, Fault};

use crate::store::Store;

/// Longest read of a manifest; see the reads of packs.
const READ_BYTES: u64 = 8 << 20;

/// Unwanted bytes that are read rather than asked around.
const GAP_BYTES: u64 = 256 << 10;

/// Reads of one manifest at once. What is asked for together is 16 MiB at most.
const READS_IN_FLIGHT: usize = 4;

/// The files that tensors make in one view, or why they make none.
pub(super) type LaidOut = Result<Arc<FileLayout>, LayoutError>;

/// An open checkpoint, bound to the record that committed it.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub(crate) store: Store,
    target: Target,
    info: CommitInfo,
    /// What its manifest says, or the part of it that was read, ready for plans.
    pub(super) planner: Arc<Planner>,
    /// The files that its tensors make, once somebody asked for them.
    pub(super) layouts: Arc<Mutex<BTreeMap<View, LaidOut>>>,
}

/// A tensor or file of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorInfo {
    /// Tensor or file.
    pub kind: SliceKind,
    /// Its name, or path.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Logical bytes.
    pub bytes: u64,
    /// Positions of its slices in [`Checkpoint::rows`].
    pub rows: std::ops::Range<usize>,
}

/// Why a checkpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The target is a dataset.
    #[error("{target} is a dataset, not a checkpoint: see `gigastore data`")]
    Dataset {
        /// The target.
        target: String,
    },
    /// The commit record's description of the manifest does not hold together.
    #[error("integrity failure: the commit record of {target} is not valid")]
    Index {
        /// The target.
        target: String,
        /// What is wrong.
        #[source]
        source: TreeError,
    },
    /// The manifest's bytes are not those that were committed.
    #[error("integrity failure: manifest of {target}, object {object}: {source}")]
    Damaged {
        /// The target.
        target: String,
        /// The object's key below its project.
        object: String,
        /// What is wrong.
        source: GroupMismatch,
    },
    /// The manifest matches its digest and can't be read.
    #[error("the manifest of {target} can't be read (was it written by a newer version?)")]
    Manifest {
        /// The target.
        target: String,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl Store {
    /// Opens the checkpoint that `target` means, with all its rows.
    pub async fn checkpoint(&self, target: &Target) -> Result<Checkpoint, OpenError> {
        self.checkpoint_of(target, Selection::All).await
    }

    /// Opens the checkpoint that `target` means, with the rows of a selection of its tensors.
    pub async fn checkpoint_of(&self, target: &Target, selection: Selection) -> Result<Checkpoint, OpenError> {
        let info = self.resolve(target).await?;
        let named = || target.to_string();
        if info.commit.sort != Sort::Checkpoint {
            return Err(OpenError::Dataset { target: named() });
        }
        let unreadable = |source| OpenError::Manifest { target: named(), source };
        let mut reader = CheckpointReader::new(info.commit.manifest.len, selection).map_err(unreadable)?;
        let found = loop {
            // A million rows take seconds to decode.
            let stepped = self.ambient.computed(move || (reader.step(), reader)).await;
            reader = stepped.1;
            match stepped.0.map_err(unreadable)? {
                Step::Done(found) => break found,
                Step::Need(ranges) => {
                    for (range, bytes) in self.index_ranges(target, &info, &info.commit.manifest, &ranges).await? {
                        reader.give(range, bytes).map_err(unreadable)?;
                    }
                }
            }
        };
        let planner = self.ambient.computed(move || Arc::new(Planner::new(found))).await;
        Ok(Checkpoint { store: self.clone(), target: target.clone(), info, planner, layouts: Arc::default() })
    }

    /// Reads the list of the distinct packs of the checkpoint that `target` means.
    pub async fn packs(&self, target: &Target) -> Result<Vec<PackRow>, OpenError> {
        let info = self.resolve(target).await?;
        let Some(index) = &info.commit.packs else {
            return Err(OpenError::Dataset { target: target.to_string() });
        };
        let whole = ByteRange::new(0, index.len).expect("0 is the smallest number");
        let mut read = self.index_ranges(target, &info, index, &[whole]).await?;
        let (_, bytes) = read.pop().expect("one range was asked for");
        read_packs(&bytes).map_err(|source| OpenError::Manifest { target: target.to_string(), source })
    }

    /// Reads what the phases of the save of the checkpoint that `target` means took; `None` where that was not
    /// recorded, as of saves by older versions.
    pub async fn timeline(&self, target: &Target) -> Result<Option<Timeline>, OpenError> {
        let info = self.resolve(target).await?;
        if info.commit.sort != Sort::Checkpoint {
            return Err(OpenError::Dataset { target: target.to_string() });
        }
        let Some(index) = &info.commit.timeline else { return Ok(None) };
        let whole = ByteRange::new(0, index.len).expect("0 is the smallest number");
        let mut read = self.index_ranges(target, &info, index, &[whole]).await?;
        let (_, bytes) = read.pop().expect("one range was asked for");
        let timeline = self.ambient.computed(move || read_timeline(&bytes)).await;
        timeline.map(Some).map_err(|source| OpenError::Manifest { target: target.to_string(), source })
    }

    /// Reads ranges of a manifest, widened to groups and checked.
    pub(crate) async fn index_ranges(
        &self,
        target: &Target,
        info: &CommitInfo,
        index: &Index,
        ranges: &[ByteRange],
    ) -> Result<Vec<(ByteRange, Bytes)>, OpenError> {
        let named = || target.to_string();
        let tree = index.tree().map_err(|source| OpenError::Index { target: named(), source })?;
        let tree = &Arc::new(tree);
        let widened: Vec<ByteRange> = ranges.iter().map(|range| tree.widened(*range)).collect();
        let reads = coalesce(&widened, GAP_BYTES, READ_BYTES).into_iter().map(|read| async move {
            let range = tree.widened(read.range);
            let tree = Arc::clone(tree);
            let check = move |bytes: Bytes| tree.check_range(range.start(), &bytes).map(|()| bytes);
            let read_here = self.read_checked(&target.project, ObjectKind::Manifest, &index.object, range, check).await;
            let checked = match read_here {
                Ok(checked) => checked,
                Err(fault) => return Err(self.lost_or_gone(target, info, fault).await.into()),
            };
            let object = || index.object.key(ObjectKind::Manifest);
            let damaged = |source| OpenError::Damaged { target: target.to_string(), object: object(), source };
            Ok::<_, OpenError>((read.wanted, range, checked.map_err(damaged)?))
        });
        let mut read = futures::stream::iter(reads).buffered(READS_IN_FLIGHT);
        let mut given = Vec::with_capacity(ranges.len());
        while let Some((members, range, bytes)) = read.try_next().await? {
            for wanted in members.into_iter().map(|i| ranges[i]) {
                let start = (wanted.start() - range.start()) as usize;
                given.push((wanted, bytes.slice(start..start + wanted.len() as usize)));
            }
        }
        Ok(given)
    }
}

impl Checkpoint {
    /// Takes the rows that the store planned for some boxes.
    pub(super) fn of_plan(store: Store, target: Target, plan: PlanAnswer) -> Result<Self, SliceError> {
        let PlanAnswer { info, meta, slices } = plan;
        let rows = slices.into_iter().map(PlannedSlice::row).collect::<Result<_, _>>()?;
        let planner = Arc::new(Planner::new(Found { meta, content: info.commit.content, rows }));
        Ok(Self { store, target, info, planner, layouts: Arc::default() })
    }

    /// Returns what it was opened as.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Returns its commit.
    pub fn info(&self) -> &CommitInfo {
        &self.info
    }

    /// Returns what its manifest says of it as a whole.
    pub fn meta(&self) -> &CheckpointMeta {
        &self.planner.checkpoint().meta
    }

    /// Returns where the data streams were when it was saved, by their names, with what all ranks together had seen:
    /// what a stream goes on from, at any world size.
    pub fn cursors(&self) -> &Cursors {
        &self.meta().cursors
    }

    /// Returns its slices, by kind, name and offsets.
    pub fn rows(&self) -> &[CheckpointRow] {
        &self.planner.checkpoint().rows
    }

    /// Returns its tensors and files, by kind and name.
    pub fn tensors(&self) -> Vec<TensorInfo> {
        let mut start = 0;
        let same =
            |a: &CheckpointRow, b: &CheckpointRow| a.slice.kind() == b.slice.kind() && a.slice.name() == b.slice.name();
        let groups = self.rows().chunk_by(same).map(|rows| {
            let first = &rows[0].slice;
            let range = start..start + rows.len();
            start = range.end;
            TensorInfo {
                kind: first.kind(),
                name: first.name().to_owned(),
                dtype: first.dtype(),
                shape: first.global_shape().to_vec(),
                bytes: rows.iter().map(|row| row.slice.bytes()).sum(),
                rows: range,
            }
        });
        groups.collect()
    }

    /// Returns its tensors and files by kind and name.
    pub(crate) fn by_name(&self) -> BTreeMap<(SliceKind, String), TensorInfo> {
        self.tensors().into_iter().map(|tensor| ((tensor.kind, tensor.name.clone()), tensor)).collect()
    }
}
