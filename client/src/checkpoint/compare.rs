//! A step that is there already: does it hold what this rank was to save?
//!
//! The same boxes are compared by digest; other boxes by reading the stored checkpoint in this rank's boxes. Equal is
//! success, with nothing sent. Must never call different content equal, nor read what a digest decides.

use std::sync::Arc;

use gigastore_formats::manifest::checkpoint::Selection;
use gigastore_formats::name::{Selector, Target};
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::slice::{SliceId, SliceKind};
use gigastore_formats::wire::CommitInfo;

use super::open::Checkpoint;
use super::restore::{RestoreError, Wanted};
use super::save::{CheckpointSave, Loaded, SaveError};
use crate::transfer::progress::Progress;
use crate::transfer::sink::BufferSink;
use crate::transfer::source::SliceData;
use crate::transfer::write::PartRow;

/// Bytes of a stored checkpoint that are read at once to be compared.
const PIECE_BYTES: u64 = 64 << 20;

/// Why the checkpoint at this step is not what was to be saved.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A tensor is not in it, or of another type or shape.
    #[error(
        "{target} exists with other content: {what} {name} is {expected} there, {actual} here; save under another \
         step or run"
    )]
    Differs {
        /// The checkpoint.
        target: String,
        /// What differs.
        what: &'static str,
        /// The tensor or slice.
        name: String,
        /// What the checkpoint has.
        expected: String,
        /// What was to be saved.
        actual: String,
    },
    /// The checkpoint could not be read.
    #[error(transparent)]
    Read(#[from] RestoreError),
}

impl CheckpointSave {
    /// Compares this rank's slices with the checkpoint at this step; returns their rows, without places.
    pub(super) async fn compare(&self, existing: &CommitInfo, slices: Vec<Loaded>) -> Result<Vec<PartRow>, SaveError> {
        let (project, name) = (self.request.project.clone(), self.request.run.clone());
        let target = Target { project, name, selector: Some(Selector::Number(existing.commit.number)) };
        let names = slices.iter().map(|(id, _)| id.name().to_owned()).collect();
        let stored = self.store.checkpoint_of(&target, Selection::Names(names)).await?;
        let rows = self.hash_only(slices.clone()).await?;
        let tensors = stored.by_name();
        for (row, (id, data)) in rows.iter().zip(&slices) {
            let differs = |what, expected: String, actual: String| CompareError::Differs {
                target: target.to_string(),
                what,
                name: id.to_string(),
                expected,
                actual,
            };
            let Some(tensor) = tensors.get(&(id.kind(), id.name().to_owned())) else {
                return Err(differs("tensor", "absent".to_owned(), "present".to_owned()).into());
            };
            let text = |dtype: &dyn std::fmt::Display, shape: &[u64]| format!("{dtype} {shape:?}");
            let (there, here) = (text(&tensor.dtype, &tensor.shape), text(&id.dtype(), id.global_shape()));
            if there != here {
                return Err(differs("tensor", there, here).into());
            }
            let same_box = stored.rows()[tensor.rows.clone()].iter().find(|old| old.slice.area() == id.area());
            match same_box {
                Some(old) if old.blake3 == row.blake3 => {}
                Some(old) => return Err(differs("slice", old.blake3.to_string(), row.blake3.to_string()).into()),
                None => {
                    if let Some(area) = self.first_difference(&stored, id, data).await? {
                        let there = format!("different in {area}");
                        return Err(differs("slice", there, row.blake3.to_string()).into());
                    }
                }
            }
        }
        Ok(rows)
    }

    /// Reads the stored checkpoint in the box of a slice, piece after piece; returns the first piece that differs.
    async fn first_difference(
        &self,
        stored: &Checkpoint,
        id: &SliceId,
        data: &SliceData,
    ) -> Result<Option<TensorBox>, SaveError> {
        let name = || id.name().to_owned();
        let boxed = |source| CompareError::Read(RestoreError::Box { name: name(), source });
        let mut start = 0;
        for area in id.area().split(id.dtype(), PIECE_BYTES).map_err(boxed)? {
            let len = area.bytes(id.dtype()).map_err(boxed)?;
            let sink = BufferSink::new(vec![0; len as usize]);
            let sent = Arc::<BufferSink<Vec<u8>>>::clone(&sink);
            let wanted = Wanted { kind: SliceKind::Tensor, name: name(), area: Some(area.clone()), sink: sent };
            stored.read(vec![wanted], &Progress::default()).await.map_err(CompareError::Read)?;
            let there = sink.into_inner().expect("a restore that is done holds no sink");
            let part = data.part(start, len);
            let same = self.store.ambient.computed(move || {
                let mut here = vec![0; there.len()];
                part.read_at(0, &mut here).map(|()| here == there)
            });
            if !same.await? {
                return Ok(Some(area));
            }
            start += len;
        }
        Ok(None)
    }
}
