//! Commits dataset versions: every file is in the store with its length, and safe from collectors, before the version
//! is proposed.
//!
//! Must never take a client's word for what keeps a file: the parent's own manifest is read.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::manifest::Cursors;
use gigastore_formats::manifest::dataset::{Dataset, read_dataset, same_file_facts};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::record::{Commit, Index, Sort};
use gigastore_formats::wire::{Committed, DatasetRequest};

use super::{CommitError, Needs, check_tag};
use crate::engine::Engine;
use crate::log::{Live, State};

/// Files of a dataset whose presence is asked for at once.
const FILES_IN_FLIGHT: usize = 64;

impl Engine {
    /// Commits a dataset version of which `manifest` is the manifest, or finds that the newest version has the same
    /// files, of which the same is known. The commit goes on where its caller goes away; the same call again waits for
    /// it.
    pub async fn commit_dataset(
        &self,
        request: &DatasetRequest,
        manifest: Bytes,
    ) -> Result<Committed, Arc<CommitError>> {
        let (engine, request, key) = (self.clone(), request.clone(), request.txn);
        let work = async move { Ok(engine.commit_version(&request, manifest).await?) };
        self.datasets_joining.join(&*self.ambient, key, work).await
    }

    async fn commit_version(&self, request: &DatasetRequest, manifest: Bytes) -> Result<Committed, CommitError> {
        let project = &request.project;
        check_tag(request.tag.as_ref())?;
        let copy = manifest.clone();
        let dataset = self.ambient.computed(move || read_dataset(&copy)).await?;
        let name = dataset.meta.name.clone();
        let state = self.state(project).await?;
        if state.outcome(request.txn).is_none() {
            let newest = state.names.get(&name).and_then(|named| named.live.values().next_back());
            if let Some(live) =
                newest.filter(|live| live.commit.content == dataset.content && live.commit.sort == Sort::Dataset)
            {
                let there = self.dataset(project, &live.commit).await?;
                if same_facts(&there, &dataset) {
                    return self.existing(project, request.txn, &name, live.commit.number, request.tag.as_ref()).await;
                }
            }
        }
        let needs = self.check_files(project, &state, &name, &dataset).await?;
        let manifest = self.store_manifest(project, state.epoch, manifest.into()).await?;
        let commit = commit_of(manifest, &dataset);
        self.append_commit(project, request.txn, commit, request.tag.as_ref(), needs, &Cursors::new()).await
    }

    /// Checks that every file of a dataset is in the store with its length; says what must hold for all to stay.
    async fn check_files(
        &self,
        project: &ProjectName,
        state: &State,
        name: &Name,
        dataset: &Dataset,
    ) -> Result<Needs, CommitError> {
        // The manifest itself is stored under the epoch of `state`.
        let mut needs = Needs { oldest: Some(state.epoch), bases: BTreeSet::new() };
        let parent = dataset.meta.parent.and_then(|parent| state.live(name, parent));
        let parent = parent.filter(|live| live.commit.sort == Sort::Dataset);
        let expired = dataset.rows.iter().any(|row| row.blob.epoch < state.epoch && !state.is_usable(row.blob.epoch));
        let kept = match parent {
            Some(live) if expired => self.kept_by_version(project, live).await?,
            _ => HashSet::new(),
        };
        for row in &dataset.rows {
            let epoch = row.blob.epoch;
            if epoch > state.epoch {
                return Err(CommitError::Epoch { path: row.path.clone(), expected: state.epoch, actual: epoch });
            }
            match parent {
                Some(live) if !state.is_usable(epoch) && kept.contains(&row.blob) => {
                    needs.bases.insert((live.commit.number, live.seq));
                }
                _ => needs.oldest = needs.oldest.min(Some(epoch)),
            }
        }
        let mut files = Vec::with_capacity(dataset.rows.len());
        files.extend(dataset.rows.iter().map(|row| (row.path.clone(), row.bytes, row.blob)));
        let checks = futures::stream::iter(files).map(|(path, expected, blob)| async move {
            // Of a file that an older version has, too, damage is no news; what is sent anew was put right.
            match self.len_of(project, ObjectKind::Blob, &blob).await? {
                Some(actual) if actual == expected => Ok(()),
                actual => Err(CommitError::File { path, expected, actual }),
            }
        });
        checks.buffer_unordered(FILES_IN_FLIGHT).try_collect::<()>().await?;
        self.keep_names(project, ObjectKind::Blob, dataset.rows.iter().map(|row| row.blob)).await?;
        Ok(needs)
    }

    /// Returns the files that a live version keeps from being collected.
    async fn kept_by_version(&self, project: &ProjectName, live: &Live) -> Result<HashSet<Stored>, CommitError> {
        let dataset = self.dataset(project, &live.commit).await?;
        Ok(dataset.rows.into_iter().map(|row| row.blob).collect())
    }
}

/// Returns the commit of a version whose manifest is stored.
pub(crate) fn commit_of(manifest: Index, dataset: &Dataset) -> Commit {
    Commit {
        sort: Sort::Dataset,
        name: dataset.meta.name.clone(),
        number: dataset.meta.version,
        manifest,
        packs: None,
        timeline: None,
        content: dataset.content,
        bytes: dataset.rows.iter().map(|row| row.bytes).sum(),
        items: dataset.rows.len() as u64,
        world_size: 0,
    }
}

/// Tells whether as much is known of the tokens of one version as of those of another one with the same files.
fn same_facts(one: &Dataset, other: &Dataset) -> bool {
    one.meta.tokens == other.meta.tokens && same_file_facts(&one.rows, &other.rows)
}
