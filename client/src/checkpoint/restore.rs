//! Whole tensors, or any boxes of them, into sinks of the caller, at any world size.
//!
//! Saved boxes are intersected with wanted ones; a wanted box that is not covered by what was saved is an error before
//! a byte is read. Must never report success for a sink that was not filled.

use std::sync::Arc;

use gigastore_formats::name::{Selector, Target};
use gigastore_formats::plan::{Area, MAX_BOXES, PlanBox, PlanRequest};
use gigastore_formats::tensor::boxes::{BoxError, CopyPlan, TensorBox};
use gigastore_formats::tensor::slice::{SliceError, SliceKind};
use gigastore_formats::wire::{CommitInfo, Fault};

use super::open::{Checkpoint, TensorInfo};
use crate::store::Store;
use crate::transfer::progress::Progress;
use crate::transfer::read::{Copy, FetchError, SliceRead, read_slices};
use crate::transfer::sink::{BufferSink, Sink};

/// A box of a tensor that the caller wants, and where its bytes go (row-major, without gaps).
#[derive(Clone)]
pub struct Wanted {
    /// Tensor or file.
    pub kind: SliceKind,
    /// The tensor's name, or the file's path.
    pub name: String,
    /// The box; `None` for all of it.
    pub area: Option<TensorBox>,
    /// Where the bytes go; exactly as long as the box.
    pub sink: Arc<dyn Sink>,
}

/// Why a restore failed. Sinks may hold some of the bytes then, each of them verified.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The checkpoint has no such tensor.
    #[error("{target} has no tensor or file {name:?}")]
    Unknown {
        /// The checkpoint.
        target: String,
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The box does not fit the tensor.
    #[error("{name}: {source}")]
    Box {
        /// The tensor.
        name: String,
        /// What is wrong.
        source: BoxError,
    },
    /// The sink is not as long as the box.
    #[error("the destination of {name} has {actual} bytes, expected {expected}")]
    Length {
        /// The tensor.
        name: String,
        /// Bytes of the box.
        expected: u64,
        /// Bytes of the sink.
        actual: u64,
    },
    /// The saved slices do not cover the box.
    #[error("integrity failure: the manifest of {target} has {actual} of the {expected} bytes of {name} in {area}")]
    Uncovered {
        /// The checkpoint.
        target: String,
        /// The tensor.
        name: String,
        /// The box.
        area: TensorBox,
        /// Bytes of the box.
        expected: u64,
        /// Bytes that slices have of it.
        actual: u64,
    },
    /// What the store planned does not hold together.
    #[error("the store's plan for {target} is not valid")]
    Plan {
        /// The checkpoint.
        target: String,
        /// What is wrong.
        #[source]
        source: SliceError,
    },
    /// Reading failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl Store {
    /// Reads boxes of the checkpoint that `target` means, each unique byte once, without its whole manifest: the store
    /// plans which groups of which packs hold them (a service from a manifest that it keeps decoded). For a rank that
    /// wants a box of every tensor of a checkpoint of millions of slices.
    pub async fn restore(
        &self,
        target: &Target,
        wanted: Vec<Wanted>,
        progress: &Progress,
    ) -> Result<CommitInfo, RestoreError> {
        let mut bound = target.clone();
        let mut wanted = wanted.into_iter().peekable();
        loop {
            let part: Vec<Wanted> = wanted.by_ref().take(MAX_BOXES).collect();
            let area = |one: &Wanted| one.area.as_ref().map(Area::from);
            let plan_box = |one: &Wanted| PlanBox { kind: one.kind, name: one.name.clone(), area: area(one) };
            let request = PlanRequest { boxes: part.iter().map(plan_box).collect() };
            let plan = self.transport.plan(&bound, &request).await.map_err(FetchError::Store)?;
            let info = plan.info.clone();
            // A tag may move between two parts: all are read of the same step.
            bound.selector = Some(Selector::Number(info.commit.number));
            let planned = Checkpoint::of_plan(self.clone(), bound.clone(), plan);
            let checkpoint = planned.map_err(|source| RestoreError::Plan { target: target.to_string(), source })?;
            checkpoint.read(part, progress).await?;
            if wanted.peek().is_none() {
                return Ok(info);
            }
        }
    }
}

impl Checkpoint {
    /// Reads everything that is wanted. Each stored byte is fetched once, however many boxes need it.
    pub async fn read(&self, wanted: Vec<Wanted>, progress: &Progress) -> Result<(), RestoreError> {
        let tensors = self.by_name();
        let mut copies: Vec<Vec<Copy>> = vec![Vec::new(); self.rows().len()];
        for one in wanted {
            let Some(tensor) = tensors.get(&(one.kind, one.name.clone())) else {
                let known = tensors.keys().map(|(_, name)| name.clone()).collect();
                return Err(RestoreError::Unknown { target: self.target().to_string(), name: one.name, known });
            };
            self.plan(tensor, &one, &mut copies, progress)?;
        }
        let rows = self.rows().iter().zip(copies).filter(|(_, copies)| !copies.is_empty());
        let slices = rows.map(|(row, copies)| SliceRead { row: row.clone(), copies }).collect();
        self.read_parts(slices, progress).await
    }

    /// Reads parts of slices.
    pub(super) async fn read_parts(&self, slices: Vec<SliceRead>, progress: &Progress) -> Result<(), RestoreError> {
        match read_slices(&self.store, &self.target().project, slices, progress).await {
            Err(FetchError::Store(fault)) => Err(self.explain(fault).await.into()),
            done => Ok(done?),
        }
    }

    /// Reads all of one tensor or file into memory.
    pub async fn read_whole(&self, kind: SliceKind, name: &str) -> Result<Vec<u8>, RestoreError> {
        let tensor = self.by_name().remove(&(kind, name.to_owned()));
        let bytes = tensor.map_or(0, |tensor| tensor.bytes);
        let sink = BufferSink::new(vec![0; bytes as usize]);
        let wanted = Wanted { kind, name: name.to_owned(), area: None, sink: Arc::<BufferSink<_>>::clone(&sink) };
        self.read(vec![wanted], &Progress::default()).await?;
        Ok(sink.into_inner().expect("a restore that is done holds no sink"))
    }

    fn plan(
        &self,
        tensor: &TensorInfo,
        wanted: &Wanted,
        copies: &mut [Vec<Copy>],
        progress: &Progress,
    ) -> Result<(), RestoreError> {
        let boxed = |source| RestoreError::Box { name: tensor.name.clone(), source };
        let area = match &wanted.area {
            Some(area) => area.clone(),
            None => TensorBox::whole(&tensor.shape).map_err(boxed)?,
        };
        area.check_within(&tensor.shape).map_err(boxed)?;
        let expected = area.bytes(tensor.dtype).map_err(boxed)?;
        if wanted.sink.len() != expected {
            let name = tensor.name.clone();
            return Err(RestoreError::Length { name, expected, actual: wanted.sink.len() });
        }
        progress.plan(expected);
        let mut actual = 0;
        for i in tensor.rows.clone() {
            let saved = self.rows()[i].slice.area();
            if let Some(plan) = CopyPlan::new(tensor.dtype, saved, &area).map_err(boxed)? {
                actual += plan.bytes();
                copies[i].push(Copy { plan, sink: Arc::clone(&wanted.sink) });
            }
        }
        // Boxes of one tensor do not overlap (the commit saw to it, and a plan that was damaged on its way is not
        // taken), so that equal sums mean every byte.
        if actual != expected {
            let (target, name) = (self.target().to_string(), tensor.name.clone());
            return Err(RestoreError::Uncovered { target, name, area, expected, actual });
        }
        Ok(())
    }

    async fn explain(&self, fault: Fault) -> FetchError {
        FetchError::Store(self.store.lost_or_gone(self.target(), self.info(), fault).await)
    }
}
