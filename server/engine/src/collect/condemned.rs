//! What a fence condemned: a pure function of the log up to its record.
//!
//! Must never take epoch and references from two different records, nor leave out a commit whose manifest can't be
//! read.

use std::collections::HashSet;
use std::sync::Arc;

use futures::stream::StreamExt;
use gigastore_formats::collect::Fence;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::record::{Commit, Sort};

use super::CollectError;
use crate::engine::Engine;
use crate::log::Live;
use crate::read::ReadError;

/// Commits whose manifests are read at once, where they are short.
const COMMITS_IN_FLIGHT: usize = 8;

/// Manifests up to this length are read side by side: eight of 8 MiB, some 30,000 slices each, decode into 100 MiB.
/// Longer ones are read one after another.
const SHORT_MANIFEST_BYTES: u64 = 8 << 20;

/// What is to be said of a fence.
pub(crate) enum Found {
    /// It is one of the first two: no key is old enough.
    Nothing,
    /// A newer collection has deleted what one of its commits referred to, and everything that it condemned.
    Superseded,
    /// It condemned these.
    Condemned(Condemned),
}

/// The keys that a fence condemned, even of objects that are not stored yet.
pub(crate) struct Condemned {
    /// Commits that were live.
    pub(crate) live: u64,
    /// Keys of this epoch or an older one are condemned, unless they are kept.
    newest: u64,
    kept: HashSet<(ObjectKind, Stored)>,
}

impl Condemned {
    pub(crate) fn has(&self, kind: ObjectKind, stored: &Stored) -> bool {
        stored.epoch <= self.newest && !self.kept.contains(&(kind, *stored))
    }
}

impl Engine {
    /// Finds what `fence` condemned: reads and verifies the manifests of all commits live at its record. With `keep`
    /// the state there is kept for the next collector, where it was far to it. What commits refer to for which `known`
    /// answers yes is not read, and not kept: the caller knows it.
    pub(crate) async fn condemned(
        &self,
        project: &ProjectName,
        fence: &Fence,
        keep: bool,
        known: impl Fn(&Live) -> bool,
    ) -> Result<Found, CollectError> {
        let Some(newest) = fence.epoch.checked_sub(2) else { return Ok(Found::Nothing) };
        let at = self.log(project).state_at(fence.seq, keep).await?;
        let lives: Vec<Arc<Live>> = at.names.values().flat_map(|named| named.live.values().cloned()).collect();
        let live = lives.len() as u64;
        let lives = lives.into_iter().filter(|live| !known(live));
        let is_short = |live: &Arc<Live>| live.commit.indexes().all(|index| index.len <= SHORT_MANIFEST_BYTES);
        let (short, long): (Vec<_>, Vec<_>) = lives.partition(is_short);
        let mut kept = HashSet::new();
        for (lives, at_once) in [(short, COMMITS_IN_FLIGHT), (long, 1)] {
            let reads = lives.into_iter().map(|live| async move {
                let referred = self.referred(project, &live.commit, newest).await;
                (live, referred)
            });
            let mut reads = futures::stream::iter(reads).buffered(at_once);
            while let Some((live, referred)) = reads.next().await {
                match referred {
                    Ok(referred) => kept.extend(referred),
                    Err(source) => return self.unknown(project, &live, source).await,
                }
            }
        }
        Ok(Found::Condemned(Condemned { live, newest, kept }))
    }

    /// Explains that what a commit refers to can't be read.
    async fn unknown(&self, project: &ProjectName, live: &Live, source: ReadError) -> Result<Found, CollectError> {
        let (name, number) = (live.commit.name.clone(), live.commit.number);
        if matches!(source, ReadError::Lost { .. }) {
            let now = self.state(project).await?;
            // Dropped after the fence, and collected by a fence after that. Whatever this fence condemned that one
            // did too: nothing of an epoch that old can have been committed between them.
            if now.live(&name, number).is_none_or(|now| now.seq != live.seq) {
                return Ok(Found::Superseded);
            }
        }
        Err(CollectError::Unreadable { name, number, source })
    }

    /// Reads the manifest of a commit, and returns what it names of epoch `newest` or before.
    async fn referred(
        &self,
        project: &ProjectName,
        commit: &Commit,
        newest: u64,
    ) -> Result<Vec<(ObjectKind, Stored)>, ReadError> {
        let mut referred: Vec<(ObjectKind, Stored)> =
            commit.indexes().map(|index| (ObjectKind::Manifest, index.object)).collect();
        match commit.sort {
            Sort::Checkpoint => {
                // The list of packs says no more than the manifest that it was made from.
                let rows = self.checkpoint(project, commit).await?.rows;
                let used: HashSet<Stored> = rows.into_iter().map(|row| row.place.pack).collect();
                referred.extend(used.into_iter().map(|pack| (ObjectKind::Pack, pack)));
            }
            Sort::Dataset => {
                let rows = self.dataset(project, commit).await?.rows;
                referred.extend(rows.into_iter().map(|row| (ObjectKind::Blob, row.blob)));
            }
        }
        referred.retain(|(_, stored)| stored.epoch <= newest);
        Ok(referred)
    }
}
