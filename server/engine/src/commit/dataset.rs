//! Commits dataset versions: every file is in the store with its length before the version is proposed.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::manifest::dataset::{Dataset, read_dataset};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::object::ObjectKind;
use gigastore_formats::record::{Commit, Sort};
use gigastore_formats::wire::{Committed, DatasetRequest};

use super::{CommitError, Needs};
use crate::engine::Engine;
use crate::log::State;

/// Files of a dataset whose presence is asked for at once.
const FILES_IN_FLIGHT: usize = 64;

impl Engine {
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
}
