//! What the run's latest checkpoint has already, so that it is not sent again.
//!
//! Must never keep a save from being made: where the latest checkpoint is damaged, everything is sent, and the caller
//! is told.

use std::collections::{BTreeSet, HashMap};

use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::checkpoint::Selection;
use gigastore_formats::manifest::part::PartMeta;
use gigastore_formats::name::{Selector, Target};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::tensor::slice::Place;
use gigastore_formats::wire::FaultCode;

use super::open::Checkpoint;
use super::save::{CheckpointSave, Loaded, SaveError};
use crate::error::Coded;

/// Places of content that the store has, by digest and length.
pub(super) type Known = HashMap<(Digest, u64), Place<Digest>>;

impl CheckpointSave {
    /// Finds where the run's latest checkpoint has content of the same tensors.
    pub(super) async fn known(&self, slices: &[Loaded], meta: &mut PartMeta) -> Result<Known, SaveError> {
        if !self.spec.dedup {
            return Ok(Known::new());
        }
        let (project, run) = (self.request.project.clone(), self.request.run.clone());
        let latest = Target { project: project.clone(), name: run.clone(), selector: None };
        let info = match self.store.resolve(&latest).await {
            Ok(info) => info,
            Err(fault) if fault.code == FaultCode::NotFound => return Ok(Known::new()),
            Err(fault) => return Err(fault.into()),
        };
        let base = info.commit.number;
        let target = Target { project, name: run, selector: Some(Selector::Number(base)) };
        let names = slices.iter().map(|(id, _)| id.name().to_owned()).collect();
        let checkpoint = match self.store.checkpoint_of(&target, Selection::Names(names)).await {
            Ok(checkpoint) => checkpoint,
            Err(error) if is_damage(error.code()) => {
                self.note(format!("everything was sent, because {target} can't be compared with: {error}"));
                return Ok(Known::new());
            }
            Err(error) => return Err(error.into()),
        };
        let lost = self.lost_packs(&checkpoint).await?;
        if let Some(first) = lost.first() {
            let (count, key) = (lost.len(), first.key(ObjectKind::Pack));
            self.note(format!("the slices of {count} packs were sent again that {target} has lost, first {key}"));
        }
        meta.bases = vec![base];
        let rows = checkpoint.rows().iter().filter(|row| !lost.contains(&row.place.pack));
        let places = rows.map(|row| {
            let Place { pack, header_len, offset, stored_len, codec } = row.place.clone();
            ((row.blake3, row.slice.bytes()), Place { pack: pack.digest, header_len, offset, stored_len, codec })
        });
        Ok(places.collect())
    }

    /// Finds packs of a checkpoint that are not in the store: what refers to them could not be committed.
    async fn lost_packs(&self, checkpoint: &Checkpoint) -> Result<BTreeSet<Stored>, SaveError> {
        let packs: BTreeSet<Stored> = checkpoint.rows().iter().map(|row| row.place.pack).collect();
        let packs: Vec<Stored> = packs.into_iter().collect();
        let lengths = self.store.transport.lengths(&self.request.project, ObjectKind::Pack, &packs).await?;
        Ok(packs.into_iter().zip(lengths).filter(|(_, len)| len.is_none()).map(|(pack, _)| pack).collect())
    }
}

/// Whether a checkpoint can't be used whatever is tried.
fn is_damage(code: FaultCode) -> bool {
    matches!(code, FaultCode::Integrity | FaultCode::Lost | FaultCode::NewerFormat | FaultCode::Gone)
}
