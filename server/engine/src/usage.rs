//! What a project stores: what live commits need, what goes with the next collections, and what is kept for little.
//!
//! Must never change anything, nor count an object twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::stream::TryStreamExt;
use gigastore_formats::collect::{UsageReport, UsageRequest};
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::record::Sort;

use crate::collect::{CollectError, Condemned, Found};
use crate::engine::Engine;
use crate::log::Live;
use crate::read::ReadError;
use crate::store::keys;

/// A pack counts as kept for little where less than a quarter of it is used: copied anew it would free three times what
/// it costs.
const SPARSE_SHARE: u64 = 4;

/// What the commits that are live now refer to.
#[derive(Default)]
struct Needed {
    objects: HashSet<(ObjectKind, Stored)>,
    /// Slices of packs, each once: pack and offset.
    slices: HashSet<(Stored, u64)>,
    /// Bytes used of each pack.
    used: HashMap<Stored, u64>,
}

impl Engine {
    /// Adds up what a project stores. Reads every live manifest, and lists every object.
    pub async fn usage(&self, request: &UsageRequest) -> Result<UsageReport, CollectError> {
        let project = &request.project;
        let state = self.state(project).await?;
        if state.seq == 0 {
            self.check_project(project).await?;
        }
        let mut needed = Needed::default();
        let mut report = UsageReport { epoch: state.epoch, ..UsageReport::default() };
        for live in state.names.values().flat_map(|named| named.live.values()) {
            report.live += 1;
            report.logical += live.commit.bytes;
            self.need(project, live, &mut needed).await.map_err(|source| CollectError::Unreadable {
                name: live.commit.name.clone(),
                number: live.commit.number,
                source,
            })?;
        }
        let is_live =
            |live: &Live| state.live(&live.commit.name, live.commit.number).is_some_and(|now| now.seq == live.seq);
        let condemned = match state.fence_of_age(self.ambient.wall_ms(), request.grace_ms) {
            Some(fence) => match self.condemned(project, &fence, false, is_live).await? {
                Found::Condemned(condemned) => Some(condemned),
                Found::Nothing | Found::Superseded => None,
            },
            None => None,
        };
        for kind in ObjectKind::ALL {
            self.add_up(project, kind, &needed, condemned.as_ref(), &mut report).await?;
        }
        Ok(report)
    }

    async fn need(&self, project: &ProjectName, live: &Arc<Live>, needed: &mut Needed) -> Result<(), ReadError> {
        let commit = &live.commit;
        needed.objects.extend(commit.indexes().map(|index| (ObjectKind::Manifest, index.object)));
        match commit.sort {
            Sort::Checkpoint => {
                for row in self.checkpoint(project, commit).await?.rows {
                    let place = row.place;
                    needed.objects.insert((ObjectKind::Pack, place.pack));
                    if needed.slices.insert((place.pack, place.offset)) {
                        *needed.used.entry(place.pack).or_default() += place.stored_len;
                    }
                }
            }
            Sort::Dataset => {
                let rows = self.dataset(project, commit).await?.rows;
                needed.objects.extend(rows.into_iter().map(|row| (ObjectKind::Blob, row.blob)));
            }
        }
        Ok(())
    }

    async fn add_up(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        needed: &Needed,
        condemned: Option<&Condemned>,
        report: &mut UsageReport,
    ) -> Result<(), CollectError> {
        let mut listed = self.objects.listed(&keys::objects(project, kind));
        while let Some(object) = listed.try_next().await? {
            report.stored.add(object.len);
            let Some(stored) = keys::object_of(project, kind, &object.key) else { continue };
            if needed.objects.contains(&(kind, stored)) {
                report.needed.add(object.len);
                let used = needed.used.get(&stored).copied().unwrap_or_default();
                if kind == ObjectKind::Pack && used < object.len / SPARSE_SHARE {
                    report.sparse.add(object.len);
                    report.sparse_used += used;
                }
            } else if condemned.is_some_and(|condemned| condemned.has(kind, &stored)) {
                report.reclaimable.add(object.len);
            } else {
                report.later.add(object.len);
            }
        }
        Ok(())
    }
}
