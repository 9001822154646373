//! A step that is there already: does it hold what this rank was to save?
//!
//! The same boxes are compared by digest; other boxes by reading the stored checkpoint in this rank's boxes. Equal is
//! success, with nothing sent. Must never call different content equal, nor read what a digest decides.

use std::sync::{Arc, PoisonError};

use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::checkpoint::Selection;
use gigastore_formats::manifest::part::PartMeta;
use gigastore_formats::name::{Selector, Target};
use gigastore_formats::tensor::slice::SliceId;
use gigastore_formats::verified::StreamHasher;
use gigastore_formats::wire::{CommitInfo, Committed, Fault, SaveRequest};

use super::open::Checkpoint;
use super::restore::{RestoreError, Wanted};
use super::save::{CheckpointSave, SaveError};
use crate::transfer::progress::Progress;
use crate::transfer::sink::BufferSink;
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
    /// Compares the rows of a rank with the checkpoint at this step.
    pub(super) async fn compare(&self, existing: &CommitInfo, rows: &[PartRow]) -> Result<(), SaveError> {
        let (project, name) = (self.request.project.clone(), self.request.run.clone());
        let target = Target { project, name, selector: Some(Selector::Number(existing.commit.number)) };
        let names = rows.iter().map(|row| row.slice.name().to_owned()).collect();
        let stored = self.store.checkpoint_of(&target, Selection::Names(names)).await?;
        let tensors = stored.by_name();
        for row in rows {
            let id = &row.slice;
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
            let there = match same_box {
                Some(old) => old.blake3,
                None => self.digest_in(&stored, id).await?,
            };
            if there != row.blake3 {
                return Err(differs("BLAKE3 of slice", there.to_string(), row.blake3.to_string()).into());
            }
        }
        Ok(())
    }

    /// Reads the stored checkpoint in the box of a slice, piece after piece; returns the digest of what is there.
    async fn digest_in(&self, stored: &Checkpoint, id: &SliceId) -> Result<Digest, SaveError> {
        let boxed = |source| CompareError::Read(RestoreError::Box { name: id.name().to_owned(), source });
        let mut hasher = StreamHasher::default();
        for area in id.area().split(id.dtype(), PIECE_BYTES).map_err(boxed)? {
            let sink = BufferSink::new(vec![0; area.bytes(id.dtype()).map_err(boxed)? as usize]);
            let sent = Arc::<BufferSink<Vec<u8>>>::clone(&sink);
            let wanted = Wanted { kind: id.kind(), name: id.name().to_owned(), area: Some(area), sink: sent };
            stored.read(vec![wanted], &Progress::default()).await.map_err(CompareError::Read)?;
            let bytes = sink.into_inner().expect("a restore that is done holds no sink");
            let update = move || {
                hasher.update(&bytes);
                hasher
            };
            hasher = self.store.ambient.computed(update).await;
        }
        Ok(hasher.finish().root())
    }

    /// Finishes a save whose step was taken by another while it ran: begins again, once, as the save of a step that is
    /// there, and compares what its ranks have delivered. `taken` is what the store said.
    pub(super) async fn finish_as_existing(&self, taken: Fault) -> Result<Committed, SaveError> {
        // The same on every rank, so that they meet again.
        let attempt = format!("again-{}", Digest::of(self.request.attempt.as_bytes()));
        let request = SaveRequest { attempt, ..self.request.clone() };
        let session = self.store.transport.begin_save(&request).await?;
        let Some(existing) = session.existing else { return Err(taken.into()) };
        let delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (rank, rows) in delivered {
            self.compare(&existing, &rows).await?;
            let meta = PartMeta { compared_to: Some(existing.commit.content), ..self.part_meta(rank) };
            self.deliver(session.save, meta, rows).await?;
        }
        Ok(self.store.transport.finish_save(&self.finish_request(&request)).await?)
    }
}
