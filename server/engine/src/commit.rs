//! The only writer of manifests and of commit and tag records.
//!
//! Before an entry is proposed, every object that it refers to was seen in the store with the right length (of packs:
//! the right header, and in it each slice); at each slot of the log the proposal is checked against the state there.
//! Must never refer to an object that a collector may delete.

mod cursors;
mod dataset;
mod error;
mod timeline;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use gigastore_formats::digest::Digest;
use gigastore_formats::limits::MAX_MANIFEST_BYTES;
use gigastore_formats::manifest::checkpoint::{CheckpointMeta, content_digest, write_checkpoint};
use gigastore_formats::manifest::packs::{PackRow, write_packs};
use gigastore_formats::manifest::{Cursors, ManifestError};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::record::{Action, Commit, Entry, Index, Sort, TxnId};
use gigastore_formats::tensor::slice::{Place, SliceRow};
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::{CommitInfo, Committed, FinishRequest};

use crate::engine::Engine;
use crate::join::Merged;
use crate::log::{AppendError, Live, Outcome, State};
use crate::place::Placed;
use crate::read::info;
use crate::store::Body;

pub(crate) use dataset::commit_of;
pub use error::{CommitError, Refusal};
pub(crate) use timeline::CommitterClock;

/// What must hold of the state for a commit to be safe from collectors.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    /// The oldest epoch among the objects that no live commit keeps.
    pub(crate) oldest: Option<u64>,
    /// Live commits that keep older objects: step, record.
    pub(crate) bases: BTreeSet<(u64, u64)>,
}

impl Engine {
    /// Commits the joined parts of a save, or finds that the same content is live already.
    pub(crate) async fn commit_checkpoint(
        &self,
        request: &FinishRequest,
        save: TxnId,
        mut merged: Merged,
        clock: CommitterClock,
    ) -> Result<Committed, CommitError> {
        let (project, run, step) = (&request.save.project, &request.save.run, request.save.step);
        check_tag(request.tag.as_ref())?;
        let state = self.state(project).await?;
        let content = content_digest(merged.rows.iter().map(|row| (&row.slice, &row.blake3)));
        if let Some(live) = state.live(run, step) {
            if live.commit.content != content {
                if merged.compared_to != Some(live.commit.content) {
                    return Err(refused(taken(live, content)));
                }
                self.check_none_lacks(project, &live.commit, &merged).await?;
            }
            self.check_cursors(project, &live.commit, &merged.cursors).await?;
            return self.existing(project, save, run, step, request.tag.as_ref()).await;
        }
        let parent = merged.bases.last().copied();
        let (metadata, cursors) = (merged.metadata.clone(), std::mem::take(&mut merged.cursors));
        let timelines = std::mem::take(&mut merged.timelines);
        let placed = self.place(project, &state, run, merged).await?;
        let world_size = request.save.world_size;
        let meta = CheckpointMeta { run: run.clone(), step, world_size, parent, metadata, cursors: cursors.clone() };
        let Placed { rows, packs, mut needs } = placed;
        let (items, bytes) = (rows.len() as u64, rows.iter().map(|row| row.slice.bytes()).sum());
        let lists = self.ambient.computed(move || write_lists(&meta, &rows, &packs)).await?;
        let epoch = state.epoch;
        needs.oldest = Some(needs.oldest.map_or(epoch, |oldest| oldest.min(epoch)));
        let (manifest, packs) = futures::try_join!(
            self.store_manifest(project, epoch, lists.0),
            self.store_manifest(project, epoch, lists.1)
        )?;
        let timeline = clock.timeline(&*self.ambient, request, &manifest, timelines).await?;
        let timeline = Some(self.store_manifest(project, epoch, timeline).await?);
        let commit = Commit {
            sort: Sort::Checkpoint,
            name: run.clone(),
            number: step,
            manifest,
            packs: Some(packs),
            timeline,
            content,
            bytes,
            items,
            world_size,
        };
        self.append_commit(project, save, commit, request.tag.as_ref(), needs, &cursors).await
    }

    /// Checks that a save whose every slice was found in a live checkpoint has all of that checkpoint.
    async fn check_none_lacks(&self, project: &ProjectName, live: &Commit, merged: &Merged) -> Result<(), CommitError> {
        let stored = self.checkpoint(project, live).await?;
        let saved: BTreeSet<_> = merged.rows.iter().map(|row| (row.slice.kind(), row.slice.name())).collect();
        let there = stored.rows.iter().map(|row| (row.slice.kind(), row.slice.name()));
        let lacking: BTreeSet<_> = there.filter(|name| !saved.contains(name)).collect();
        match lacking.first() {
            None => Ok(()),
            Some((_, first)) => Err(refused(Refusal::Lacks {
                name: live.name.clone(),
                number: live.number,
                lacking: lacking.len(),
                first: (*first).to_owned(),
            })),
        }
    }

    /// Answers commit `txn`, whose content is live already; only a tag may be new. Its transaction is that of the
    /// commit's own tag, so that all ranks of a save and all their retries set it once.
    async fn existing(
        &self,
        project: &ProjectName,
        txn: TxnId,
        name: &Name,
        number: u64,
        tag: Option<&Name>,
    ) -> Result<Committed, CommitError> {
        if let Some(tag) = tag {
            self.set_tag(project, tag_txn(txn), name, tag, number).await?;
        }
        let state = self.state(project).await?;
        self.log(project).keep(&state).await?;
        let gone = || CommitError::DroppedSince { name: name.clone(), number };
        // Another of the same commit's callers may have come first, and then nothing was there before.
        let existed = !matches!(state.outcome(txn), Some(Outcome::Took(_)));
        Ok(Committed { info: info(&state, name, number).ok_or_else(gone)?, existed })
    }

    /// Points a tag at a live step or version. The operation `txn` has one effect, however often it is asked for: a
    /// retry does not move back what another operation moved since.
    pub async fn set_tag(
        &self,
        project: &ProjectName,
        txn: TxnId,
        name: &Name,
        tag: &Name,
        number: u64,
    ) -> Result<CommitInfo, CommitError> {
        check_tag(Some(tag))?;
        let time = self.ambient.wall_ms();
        let action = Action::Tag { name: name.clone(), tag: tag.clone(), number };
        let of = name.clone();
        let propose = move |state: &State| {
            state.live(&of, number).ok_or_else(|| Refusal::NotLive { name: of.clone(), number })?;
            Ok(vec![Entry { txn, time, action: action.clone() }])
        };
        let state = self.log(project).append(txn, propose).await?.state;
        info(&state, name, number).ok_or_else(|| CommitError::DroppedSince { name: name.clone(), number })
    }

    async fn append_commit(
        &self,
        project: &ProjectName,
        txn: TxnId,
        commit: Commit,
        tag: Option<&Name>,
        needs: Needs,
        cursors: &Cursors,
    ) -> Result<Committed, CommitError> {
        let (name, number, time) = (commit.name.clone(), commit.number, self.ambient.wall_ms());
        let mut entries = vec![Entry { txn, time, action: Action::Commit(Box::new(commit.clone())) }];
        if let Some(tag) = tag {
            let action = Action::Tag { name: name.clone(), tag: tag.clone(), number };
            entries.push(Entry { txn: tag_txn(txn), time, action });
        }
        let propose = move |state: &State| {
            check(state, &commit, &needs)?;
            Ok(entries.clone())
        };
        match self.log(project).append(txn, propose).await {
            Ok(appended) => {
                let gone = || CommitError::DroppedSince { name: name.clone(), number };
                Ok(Committed { info: info(&appended.state, &name, number).ok_or_else(gone)?, existed: false })
            }
            // Another save of the same step came first; with the same content that is success.
            Err(AppendError::Refused(Refusal::Taken { expected, actual, .. })) if expected == actual => {
                if let Some(live) = self.state(project).await?.live(&name, number) {
                    self.check_cursors(project, &live.commit, cursors).await?;
                }
                self.existing(project, txn, &name, number, tag).await
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn store_manifest(&self, project: &ProjectName, epoch: u64, bytes: Vec<u8>) -> Result<Index, CommitError> {
        let actual = bytes.len() as u64;
        if actual > MAX_MANIFEST_BYTES {
            return Err(CommitError::TooLong { actual });
        }
        let hash = move || (GroupTree::of(&bytes), bytes);
        let (tree, bytes) = self.ambient.computed_over(actual as usize, hash).await;
        let object = Stored { digest: tree.root(), epoch };
        self.store_content(project, ObjectKind::Manifest, object, actual, Body::Whole(vec![bytes.into()])).await?;
        Ok(Index::new(object, &tree))
    }
}

/// Returns the transaction of the tag that comes with commit `txn`.
fn tag_txn(txn: TxnId) -> TxnId {
    TxnId::derive(&[b"tag of", txn.0.as_bytes()])
}

/// Refuses a tag that would be read as something else.
fn check_tag(tag: Option<&Name>) -> Result<(), CommitError> {
    let refuse = |source| refused(Refusal::Tag(source));
    tag.map_or(Ok(()), |tag| Name::new_tag(tag.as_str()).map(drop).map_err(refuse))
}

/// Says whether `commit` would stand after `state`, with all that it refers to safe from collectors.
fn check(state: &State, commit: &Commit, needs: &Needs) -> Result<(), Refusal> {
    let name = || commit.name.clone();
    if let Some(named) = state.names.get(&commit.name) {
        if named.sort != commit.sort {
            return Err(Refusal::WrongSort { name: name(), expected: commit.sort, actual: named.sort });
        }
        match (commit.sort, named.live.get(&commit.number)) {
            (Sort::Checkpoint, Some(live)) => return Err(taken(live, commit.content)),
            (Sort::Dataset, _) if commit.number != named.highest + 1 => {
                return Err(Refusal::NotNext { name: name(), number: commit.number, newest: named.highest });
            }
            _ => {}
        }
    } else if commit.sort == Sort::Dataset && commit.number != 1 {
        return Err(Refusal::NotNext { name: name(), number: commit.number, newest: 0 });
    }
    if let Some(oldest) = needs.oldest.filter(|oldest| !state.is_usable(*oldest)) {
        return Err(Refusal::Expired { oldest, epoch: state.epoch });
    }
    let dropped = |(step, seq): &&(u64, u64)| state.live(&commit.name, *step).is_none_or(|live| live.seq != *seq);
    if let Some((base, _)) = needs.bases.iter().find(dropped) {
        return Err(Refusal::BaseDropped { name: name(), base: *base });
    }
    Ok(())
}

fn taken(live: &Arc<Live>, actual: Digest) -> Refusal {
    let (name, number) = (live.commit.name.clone(), live.commit.number);
    Refusal::Taken { name, number, expected: live.commit.content, actual }
}

fn refused(refusal: Refusal) -> CommitError {
    CommitError::Append(AppendError::Refused(refusal))
}

/// Writes the manifest of a checkpoint and the list of its packs. `lens` are header length and length of each pack.
fn write_lists(
    meta: &CheckpointMeta,
    rows: &[SliceRow<Place<Stored>>],
    lens: &BTreeMap<Stored, (u64, u64)>,
) -> Result<(Vec<u8>, Vec<u8>), ManifestError> {
    let mut used: HashMap<Stored, (u64, u64)> = HashMap::new();
    for row in rows {
        let (slices, bytes) = used.entry(row.place.pack).or_default();
        *slices += 1;
        *bytes += row.place.stored_len;
    }
    let packs: Vec<PackRow> = lens
        .iter()
        .map(|(pack, (header_len, bytes))| {
            let (slices, used) = used.get(pack).copied().unwrap_or_default();
            PackRow { pack: *pack, header_len: *header_len, bytes: *bytes, slices, used }
        })
        .collect();
    Ok((write_checkpoint(meta, rows)?, write_packs(&packs)?))
}
