//! The only writer of manifests and of commit and tag records.
//!
//! Before an entry is proposed, every object that it refers to was seen in the store with the right length (of packs:
//! the
//! right header, and in it each slice); at each slot of the log the proposal is checked against the state there. Must
//! never refer to an object that a collector may delete.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::digest::Digest;
use gigastore_formats::limits::MAX_MANIFEST_BYTES;
use gigastore_formats::manifest::ManifestError;
use gigastore_formats::manifest::checkpoint::{CheckpointMeta, content_digest, write_checkpoint};
use gigastore_formats::manifest::dataset::{Dataset, read_dataset};
use gigastore_formats::manifest::packs::{PackRow, write_packs};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::record::{Action, Commit, Entry, Index, Sort, TxnId};
use gigastore_formats::tensor::slice::{Place, SliceRow};
use gigastore_formats::verified::{GroupSize, GroupTree};
use gigastore_formats::wire::{CommitInfo, Committed, DatasetRequest, FinishRequest};

use crate::engine::Engine;
use crate::join::Merged;
use crate::log::{AppendError, Live, LogError, State};
use crate::place::{PlaceError, Placed};
use crate::read::{ReadError, info};
use crate::store::{Body, StoreError};
use crate::upload::UploadError;

/// Files of a dataset whose presence is asked for at once.
const FILES_IN_FLIGHT: usize = 64;

/// Why a commit does not stand at the tail of the log.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Another checkpoint is live at this step.
    #[error(
        "{name}@{number} exists with other content: expected content digest {expected}, actual {actual}; save \
         under another step or run"
    )]
    Taken {
        /// The run.
        name: Name,
        /// The step.
        number: u64,
        /// Content digest of what is live.
        expected: Digest,
        /// Content digest of what was to be committed.
        actual: Digest,
    },
    /// The name is that of a dataset, not a run, or the other way round.
    #[error("{name} is a {actual:?}, not a {expected:?}: choose another name")]
    WrongSort {
        /// The name.
        name: Name,
        /// What was to be committed.
        expected: Sort,
        /// What it is.
        actual: Sort,
    },
    /// Another version of the dataset came first.
    #[error("{name}@{number} can't be committed: the newest version is {newest}; run the same again")]
    NotNext {
        /// The dataset.
        name: Name,
        /// The version that was to be committed.
        number: u64,
        /// The newest.
        newest: u64,
    },
    /// The target of a tag is not live.
    #[error("{name}@{number} does not exist")]
    NotLive {
        /// The run or dataset.
        name: Name,
        /// The step or version.
        number: u64,
    },
    /// Objects uploaded for this commit may be collected by now.
    #[error(
        "objects of this commit were uploaded in epoch {oldest} and the project is in {epoch} now: run the same \
         again, what is missing is sent anew"
    )]
    Expired {
        /// The oldest epoch among the objects.
        oldest: u64,
        /// The project's epoch.
        epoch: u64,
    },
    /// A checkpoint whose packs are referred to was dropped meanwhile.
    #[error(
        "step {base} of {name}, whose unchanged slices this checkpoint shares, was dropped meanwhile: run the same \
         again"
    )]
    BaseDropped {
        /// The run.
        name: Name,
        /// The step.
        base: u64,
    },
}

/// Why a checkpoint, dataset version or tag was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// It does not stand at the tail of the log, or it is not known whether it was appended.
    #[error(transparent)]
    Append(#[from] AppendError<Refusal>),
    /// It took effect, and was dropped since.
    #[error("{name}@{number} was committed by this operation, and dropped since")]
    DroppedSince {
        /// The run or dataset.
        name: Name,
        /// The step or version.
        number: u64,
    },
    /// A pack is not as a rank said.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A dataset file is missing, or has another length than its manifest says.
    #[error(
        "file {path} is not in the store as its manifest says: expected {expected} bytes, actual {actual:?}; push \
         it again"
    )]
    File {
        /// Its path in the dataset.
        path: String,
        /// Its bytes.
        expected: u64,
        /// The bytes in the store, if it is there.
        actual: Option<u64>,
    },
    /// A manifest could not be made, or can't be read.
    #[error("the manifest is not valid")]
    Manifest(#[from] ManifestError),
    /// A manifest is longer than a manifest may be.
    #[error("the manifest has {actual} bytes, over the limit of {MAX_MANIFEST_BYTES}: save fewer, larger slices")]
    TooLong {
        /// Its bytes.
        actual: u64,
    },
    /// A manifest could not be stored.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// A manifest could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

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
        merged: Merged,
    ) -> Result<Committed, CommitError> {
        let (project, run, step) = (&request.save.project, &request.save.run, request.save.step);
        let state = self.state(project).await?;
        let content = content_digest(merged.rows.iter().map(|row| (&row.slice, &row.blake3)));
        if let Some(live) = state.live(run, step) {
            let same = live.commit.content == content || merged.compared_to == Some(live.commit.content);
            if !same {
                return Err(refused(taken(live, content)));
            }
            let request_tag = request.tag.as_ref();
            return self.existing(project, run, step, request_tag).await;
        }
        let parent = merged.bases.last().copied();
        let metadata = merged.metadata.clone();
        let placed = self.place(project, &state, run, merged).await?;
        let meta = CheckpointMeta { run: run.clone(), step, world_size: request.save.world_size, parent, metadata };
        let Placed { rows, packs, mut needs } = placed;
        let (items, bytes) = (rows.len() as u64, rows.iter().map(|row| row.slice.bytes()).sum());
        let lists = self.ambient.computed(move || write_lists(&meta, &rows, &packs)).await?;
        let epoch = state.epoch;
        needs.oldest = Some(needs.oldest.map_or(epoch, |oldest| oldest.min(epoch)));
        let manifest = self.store_manifest(project, epoch, lists.0).await?;
        let packs = Some(self.store_manifest(project, epoch, lists.1).await?);
        let commit = Commit {
            sort: Sort::Checkpoint,
            name: run.clone(),
            number: step,
            manifest,
            packs,
            content,
            bytes,
            items,
            world_size: request.save.world_size,
        };
        self.append_commit(project, save, commit, request.tag.as_ref(), &needs).await
    }

    /// Answers a commit whose content is live already; only a tag may be new.
    async fn existing(
        &self,
        project: &ProjectName,
        name: &Name,
        number: u64,
        tag: Option<&Name>,
    ) -> Result<Committed, CommitError> {
        if let Some(tag) = tag {
            self.set_tag(project, name, tag, number).await?;
        }
        let state = self.state(project).await?;
        let gone = || CommitError::DroppedSince { name: name.clone(), number };
        Ok(Committed { info: info(&state, name, number).ok_or_else(gone)?, existed: true })
    }

    /// Commits a dataset version of which `manifest` is the manifest, or finds that the newest version has the same
    /// files.
    pub async fn commit_dataset(&self, request: &DatasetRequest, manifest: Bytes) -> Result<Committed, CommitError> {
        let project = &request.project;
        let copy = manifest.clone();
        let dataset = self.ambient.computed(move || read_dataset(&copy)).await?;
        let (name, number) = (dataset.meta.name.clone(), dataset.meta.version);
        let state = self.state(project).await?;
        if state.outcome(request.txn).is_none() {
            let newest = state.names.get(&name).and_then(|named| named.live.values().next_back());
            if let Some(live) =
                newest.filter(|live| live.commit.content == dataset.content && live.commit.sort == Sort::Dataset)
            {
                return self.existing(project, &name, live.commit.number, request.tag.as_ref()).await;
            }
        }
        let needs = self.check_files(project, &state, &name, &dataset).await?;
        let manifest = self.store_manifest(project, request.epoch, manifest.into()).await?;
        let commit = Commit {
            sort: Sort::Dataset,
            name,
            number,
            manifest,
            packs: None,
            content: dataset.content,
            bytes: dataset.rows.iter().map(|row| row.bytes).sum(),
            items: dataset.rows.len() as u64,
            world_size: 0,
        };
        self.append_commit(project, request.txn, commit, request.tag.as_ref(), &needs).await
    }

    /// Checks that every file of a dataset is in the store with its length.
    async fn check_files(
        &self,
        project: &ProjectName,
        state: &State,
        name: &Name,
        dataset: &Dataset,
    ) -> Result<Needs, CommitError> {
        let mut needs = Needs { oldest: Some(state.epoch), bases: BTreeSet::new() };
        let base = dataset.meta.parent.and_then(|parent| state.live(name, parent));
        for row in &dataset.rows {
            match base {
                Some(live) if !state.is_usable(row.blob.epoch) => {
                    needs.bases.insert((live.commit.number, live.seq));
                }
                _ => needs.oldest = needs.oldest.min(Some(row.blob.epoch)),
            }
        }
        let mut files = Vec::with_capacity(dataset.rows.len());
        files.extend(dataset.rows.iter().map(|row| (row.path.clone(), row.bytes, row.blob)));
        let checks = futures::stream::iter(files).map(|(path, expected, blob)| async move {
            match self.lengths(project, ObjectKind::Blob, &[blob]).await?.pop().flatten() {
                Some(actual) if actual == expected => Ok(()),
                actual => Err(CommitError::File { path, expected, actual }),
            }
        });
        checks.buffer_unordered(FILES_IN_FLIGHT).try_collect::<()>().await?;
        Ok(needs)
    }

    /// Points a tag at a live step or version.
    pub async fn set_tag(
        &self,
        project: &ProjectName,
        name: &Name,
        tag: &Name,
        number: u64,
    ) -> Result<CommitInfo, CommitError> {
        let txn = TxnId::derive(&[b"tag", &self.ambient.random_bytes()]);
        let time = self.ambient.wall_ms();
        let action = Action::Tag { name: name.clone(), tag: tag.clone(), number };
        let not_live = || Refusal::NotLive { name: name.clone(), number };
        let log = self.log(project);
        let appended = log.append(txn, |state| {
            state.live(name, number).ok_or_else(not_live)?;
            Ok(vec![Entry { txn, time, action: action.clone() }])
        });
        let state = appended.await?.state;
        info(&state, name, number).ok_or_else(|| CommitError::DroppedSince { name: name.clone(), number })
    }

    async fn append_commit(
        &self,
        project: &ProjectName,
        txn: TxnId,
        commit: Commit,
        tag: Option<&Name>,
        needs: &Needs,
    ) -> Result<Committed, CommitError> {
        let (name, number, time) = (commit.name.clone(), commit.number, self.ambient.wall_ms());
        let mut entries = vec![Entry { txn, time, action: Action::Commit(Box::new(commit.clone())) }];
        if let Some(tag) = tag {
            let action = Action::Tag { name: name.clone(), tag: tag.clone(), number };
            entries.push(Entry { txn: TxnId::derive(&[b"tag of", txn.0.as_bytes()]), time, action });
        }
        let log = self.log(project);
        let appended = log.append(txn, |state| {
            check(state, &commit, needs)?;
            Ok(entries.clone())
        });
        match appended.await {
            Ok(appended) => {
                let gone = || CommitError::DroppedSince { name: name.clone(), number };
                Ok(Committed { info: info(&appended.state, &name, number).ok_or_else(gone)?, existed: false })
            }
            // Another save of the same step came first; with the same content that is success.
            Err(AppendError::Refused(Refusal::Taken { expected, actual, .. })) if expected == actual => {
                self.existing(project, &name, number, tag).await
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn store_manifest(&self, project: &ProjectName, epoch: u64, bytes: Vec<u8>) -> Result<Index, CommitError> {
        let actual = bytes.len() as u64;
        if actual > MAX_MANIFEST_BYTES {
            return Err(CommitError::TooLong { actual });
        }
        let hashed = self.ambient.computed(move || (GroupTree::of(GroupSize::File, &bytes), bytes));
        let (tree, bytes) = hashed.await;
        let object = Stored { digest: tree.root(), epoch };
        let key = crate::store::keys::object(project, ObjectKind::Manifest, &object);
        self.store_object(key, actual, Body::Whole(vec![bytes.into()])).await?;
        Ok(Index::new(object, &tree))
    }
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
