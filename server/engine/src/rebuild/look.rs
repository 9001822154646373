//! Manifests as they lie in the store: each checked against its name, read, and believed only where the objects that it
//! needs are there.
//!
//! Must never take an object's word for what it is: its bytes have the digest of its name, or it is left out.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::stream::TryStreamExt;
use gigastore_formats::digest::Digest;
use gigastore_formats::limits::MAX_MANIFEST_BYTES;
use gigastore_formats::manifest::checkpoint::{Checkpoint, CheckpointRow, read_checkpoint};
use gigastore_formats::manifest::dataset::{Dataset, read_dataset};
use gigastore_formats::manifest::packs::{PackRow, read_packs, write_packs};
use gigastore_formats::manifest::timeline::read_timeline;
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::record::{Commit, Index, Sort};
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::LeftOut;

use super::RebuildError;
use crate::commit::commit_of;
use crate::engine::Engine;
use crate::store::{Listed, StoreError, keys};

/// A checkpoint or dataset version that can be committed.
pub(super) struct Found {
    /// The manifest's key.
    pub(super) key: String,
    pub(super) commit: Commit,
    /// The list of a checkpoint's packs, which is stored again.
    pub(super) packs: Option<Vec<u8>>,
    /// When the manifest was stored, in milliseconds since 1970.
    pub(super) time: u64,
}

/// What a manifest turned out to be.
enum Read {
    Checkpoint(Box<Checkpoint>),
    Dataset(Box<Dataset>),
    Timeline(Name, u64),
    /// A list of packs, which is made again from the manifest.
    Packs,
    Unknown,
}

/// A commit, and the list of a checkpoint's packs.
type Described = (Commit, Option<Vec<u8>>);

/// A timeline of a step, and when it was stored.
type Timelines = BTreeMap<(Name, u64), (u64, Index)>;

impl Engine {
    /// Reads every manifest of a project. Returns those that can be committed, and the highest epoch in which any was
    /// stored: nobody but an engine does that. What else was uploaded in a later one waits until the project is there
    /// again.
    pub(super) async fn look_at_manifests(
        &self,
        project: &ProjectName,
        left: &mut Vec<LeftOut>,
    ) -> Result<(Vec<Found>, u64), RebuildError> {
        let (mut found, mut timelines, mut epoch) = (Vec::new(), Timelines::new(), 0);
        let mut listed: Vec<Listed> =
            self.objects.listed(&keys::objects(project, ObjectKind::Manifest)).try_collect().await?;
        listed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        for Listed { key, modified_ms: time, .. } in listed {
            let Some(object) = keys::object_of(project, ObjectKind::Manifest, &key) else { continue };
            epoch = epoch.max(object.epoch);
            let mut leave = |why: &str| left.push(LeftOut { object: key.clone(), why: why.to_owned() });
            let bytes = match self.objects.get(&key, MAX_MANIFEST_BYTES).await {
                Ok(bytes) => bytes,
                Err(StoreError::NotFound { .. } | StoreError::Short { .. } | StoreError::TooLong { .. }) => {
                    leave("it can't be read whole");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let copy = bytes.clone();
            let tree = self.ambient.computed(move || GroupTree::of(&copy)).await;
            if tree.root() != object.digest {
                leave("it is damaged: its bytes do not have the digest of its name");
                continue;
            }
            let index = Index::new(object, &tree);
            let commit = match self.ambient.computed(move || read_any(&bytes)).await {
                Read::Checkpoint(checkpoint) => self.commit_of_checkpoint(project, index, *checkpoint).await?,
                Read::Dataset(dataset) => self.commit_of_dataset(project, index, *dataset).await?,
                Read::Timeline(run, step) => {
                    let newest = timelines.entry((run, step)).or_insert_with(|| (time, index.clone()));
                    if time >= newest.0 {
                        *newest = (time, index);
                    }
                    continue;
                }
                Read::Packs => continue,
                Read::Unknown => Err("no manifest of a known version".to_owned()),
            };
            match commit {
                Ok((commit, packs)) => found.push(Found { key, commit, packs, time }),
                Err(why) => leave(&why),
            }
        }
        for one in found.iter_mut().filter(|one| one.commit.sort == Sort::Checkpoint) {
            let timeline = timelines.get(&(one.commit.name.clone(), one.commit.number));
            one.commit.timeline = timeline.map(|(_, index)| index.clone());
        }
        Ok((found, epoch))
    }

    /// Describes a checkpoint, or says what it lacks.
    async fn commit_of_checkpoint(
        &self,
        project: &ProjectName,
        manifest: Index,
        checkpoint: Checkpoint,
    ) -> Result<Result<Described, String>, RebuildError> {
        let mut packs: BTreeMap<Stored, PackRow> = BTreeMap::new();
        for row in &checkpoint.rows {
            let (pack, header_len) = (row.place.pack, row.place.header_len);
            let new = PackRow { pack, header_len, bytes: 0, slices: 0, used: 0 };
            let pack = packs.entry(pack).or_insert(new);
            (pack.slices, pack.used) = (pack.slices + 1, pack.used + row.place.stored_len);
        }
        let mut rows_of: BTreeMap<Stored, Vec<&CheckpointRow>> = BTreeMap::new();
        checkpoint.rows.iter().for_each(|row| rows_of.entry(row.place.pack).or_default().push(row));
        for pack in packs.values_mut() {
            let key = keys::object(project, ObjectKind::Pack, &pack.pack);
            let header = self.pack_header(&key, pack.pack.digest, pack.header_len).await?;
            let Some((header, _)) = header else {
                return Ok(Err(format!("{key} is missing, or its header is damaged")));
            };
            let (expected, actual) = (header.object_len(), self.objects.len(&key).await?);
            if actual != Some(expected) {
                return Ok(Err(format!("{key} should have {expected} bytes, and has {}", actual.unwrap_or_default())));
            }
            let places: BTreeSet<(u64, Digest)> =
                header.entries().iter().map(|entry| (entry.stored.start(), entry.slice.tree.root())).collect();
            let mut rows = rows_of[&pack.pack].iter();
            if let Some(row) = rows.find(|row| !places.contains(&(row.place.offset, row.blake3))) {
                return Ok(Err(format!("{key} has no slice {} where the manifest says", row.slice)));
            }
            pack.bytes = expected;
        }
        let rows: Vec<PackRow> = packs.into_values().collect();
        let list = self.ambient.computed(move || write_packs(&rows)).await?;
        let epoch = manifest.object.epoch;
        let (tree, list) = self.ambient.computed(move || (GroupTree::of(&list), list)).await;
        let packs = Index::new(Stored { digest: tree.root(), epoch }, &tree);
        let commit = Commit {
            sort: Sort::Checkpoint,
            name: checkpoint.meta.run,
            number: checkpoint.meta.step,
            manifest,
            packs: Some(packs),
            timeline: None,
            content: checkpoint.content,
            bytes: checkpoint.rows.iter().map(|row| row.slice.bytes()).sum(),
            items: checkpoint.rows.len() as u64,
            world_size: checkpoint.meta.world_size,
        };
        Ok(Ok((commit, Some(list))))
    }

    /// Describes a dataset version, or says what it lacks.
    async fn commit_of_dataset(
        &self,
        project: &ProjectName,
        manifest: Index,
        dataset: Dataset,
    ) -> Result<Result<Described, String>, RebuildError> {
        for row in &dataset.rows {
            let actual = self.len_of(project, ObjectKind::Blob, &row.blob).await?;
            if actual != Some(row.bytes) {
                let (key, expected) = (keys::object(project, ObjectKind::Blob, &row.blob), row.bytes);
                let actual = actual.map_or("is missing".to_owned(), |actual| format!("has {actual}"));
                return Ok(Err(format!("{} in {key} should have {expected} bytes, and {actual}", row.path)));
            }
        }
        Ok(Ok((commit_of(manifest, &dataset), None)))
    }
}

/// Reads a manifest of whatever kind it is.
fn read_any(bytes: &Bytes) -> Read {
    if let Ok(checkpoint) = read_checkpoint(bytes) {
        return Read::Checkpoint(Box::new(checkpoint));
    }
    if let Ok(dataset) = read_dataset(bytes) {
        return Read::Dataset(Box::new(dataset));
    }
    if read_packs(bytes).is_ok() {
        return Read::Packs;
    }
    read_timeline(bytes).map_or(Read::Unknown, |timeline| Read::Timeline(timeline.meta.run, timeline.meta.step))
}
