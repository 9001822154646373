//! What a verification has to look at: the distinct packs and files of the commits it covers.
//!
//! Must never take a damaged manifest for an empty one: it is a finding, and what it lists is said to be unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::checkpoint::{Checkpoint, read_checkpoint};
use gigastore_formats::manifest::dataset::{FileRow, read_dataset};
use gigastore_formats::manifest::packs::PackRow;
use gigastore_formats::name::{ProjectName, Target};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::record::{Commit, Sort};
use gigastore_formats::tensor::slice::Codec;
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::{Finding, VerifyReport, VerifyRequest, with_causes};

use crate::engine::Engine;
use crate::log::State;
use crate::read::ReadError;
use crate::store::keys;

/// Slices of one object that a finding names one by one.
const SLICES_NAMED: usize = 8;

/// Objects to be looked at.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) items: Vec<Item>,
}

/// One pack or file.
pub(super) struct Item {
    pub(super) kind: ObjectKind,
    pub(super) object: Stored,
    /// Bytes of the object.
    pub(super) len: u64,
    pub(super) holds: Holds,
}

/// What an object holds, as the manifests say.
pub(super) enum Holds {
    /// A pack: the slices that manifests expect in it, each with the checkpoints that do, and the length of its header.
    Slices { header_len: u64, slices: BTreeMap<Expected, Vec<Arc<str>>> },
    /// A dataset file: its tree, and every path that it has in a version.
    File { tree: GroupTree, paths: BTreeMap<String, Vec<Arc<str>>> },
}

/// A slice that a manifest expects in a pack.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Expected {
    pub(super) offset: u64,
    pub(super) stored_len: u64,
    pub(super) codec: Codec,
    pub(super) blake3: Digest,
    pub(super) slice: String,
}

/// Names the rows that say the same in several manifests: target, and slice or path.
pub(super) fn rows_of<'r>(row: &'r str, targets: &'r [Arc<str>]) -> impl Iterator<Item = String> + 'r {
    targets.iter().map(move |target| format!("{target} {row}"))
}

impl Item {
    /// Names what is lost where the whole object is: all paths of a file, the first slices of a pack.
    pub(super) fn affects(&self) -> Vec<String> {
        match &self.holds {
            Holds::File { paths, .. } => {
                paths.iter().flat_map(|(path, targets)| rows_of(path, targets).collect::<Vec<_>>()).collect()
            }
            Holds::Slices { slices, .. } => {
                let first = slices.iter().take(SLICES_NAMED);
                let mut named: Vec<String> = first
                    .flat_map(|(expected, targets)| rows_of(&expected.slice, targets).collect::<Vec<_>>())
                    .collect();
                if slices.len() > SLICES_NAMED {
                    named.push(format!("and {} more slices", slices.len() - SLICES_NAMED));
                }
                named
            }
        }
    }

    /// Names every row of a manifest that needs bytes which start at `offset` of the object.
    pub(super) fn affects_at(&self, offset: u64) -> Vec<String> {
        match &self.holds {
            Holds::File { .. } => self.affects(),
            Holds::Slices { slices, .. } => {
                let there = slices.iter().filter(|(expected, _)| expected.offset == offset);
                there.flat_map(|(expected, targets)| rows_of(&expected.slice, targets).collect::<Vec<_>>()).collect()
            }
        }
    }
}

impl Engine {
    /// Reads the manifests of all covered commits.
    pub(super) async fn plan(
        &self,
        request: &VerifyRequest,
        state: &State,
        report: &mut VerifyReport,
    ) -> Result<Plan, ReadError> {
        if let Some(name) = &request.name {
            // Refuses names and numbers that are not there, with what there is.
            let selector = request.number.map(gigastore_formats::name::Selector::Number);
            self.resolve(&Target { project: request.project.clone(), name: name.clone(), selector }).await?;
        } else if state.seq == 0 {
            self.project(&request.project).await?;
        }
        let mut objects: BTreeMap<(ObjectKind, Stored), Item> = BTreeMap::new();
        for live in state.covered(request) {
            report.commits += 1;
            let commit = &live.commit;
            let found = match commit.sort {
                Sort::Checkpoint => self.plan_checkpoint(&request.project, commit, &mut objects, report).await,
                Sort::Dataset => self.plan_dataset(&request.project, commit, &mut objects, report).await,
            };
            if let Err(error) = found {
                let affects = vec![format!("all of {}@{}", commit.name, commit.number)];
                report.findings.push(self.unreadable(&request.project, affects, error).await?);
            }
            if let Some(index) = &commit.timeline
                && let Err(error) = self.manifest(&request.project, commit, index).await
            {
                let affects = vec![format!("the timeline of {}@{}", commit.name, commit.number)];
                report.findings.push(self.unreadable(&request.project, affects, error).await?);
            }
        }
        Ok(Plan { items: objects.into_values().collect() })
    }

    async fn plan_checkpoint(
        &self,
        project: &ProjectName,
        commit: &Commit,
        objects: &mut BTreeMap<(ObjectKind, Stored), Item>,
        report: &mut VerifyReport,
    ) -> Result<(), ReadError> {
        // Both lists are read even where one is damaged, so that the report has all damage.
        let packs = self.packs_of(project, commit).await;
        let bytes = self.manifest(project, commit, &commit.manifest).await?;
        let key = keys::object(project, ObjectKind::Manifest, &commit.manifest.object);
        let read = self.ambient.computed(move || read_checkpoint(&bytes)).await;
        let manifest = read.map_err(|source| ReadError::Manifest { key: key.clone(), source })?;
        let packs = packs?;
        count_manifests(commit, report);
        if let Some(problem) = contradiction(commit, &manifest, &packs) {
            let affects = vec![format!("{}@{}", commit.name, commit.number)];
            report.findings.push(Finding { object: key, affects, range: None, problem });
        }
        for row in packs {
            let holds = Holds::Slices { header_len: row.header_len, slices: BTreeMap::new() };
            let item = Item { kind: ObjectKind::Pack, object: row.pack, len: row.bytes, holds };
            objects.entry((ObjectKind::Pack, row.pack)).or_insert(item);
        }
        let target = target_of(commit);
        for row in manifest.rows {
            let Some(item) = objects.get_mut(&(ObjectKind::Pack, row.place.pack)) else { continue };
            if let Holds::Slices { slices, .. } = &mut item.holds {
                let (offset, stored_len, codec) = (row.place.offset, row.place.stored_len, row.place.codec);
                let slice = row.slice.to_string();
                let expected = Expected { offset, stored_len, codec, blake3: row.blake3, slice };
                slices.entry(expected).or_default().push(Arc::clone(&target));
            }
        }
        Ok(())
    }

    async fn plan_dataset(
        &self,
        project: &ProjectName,
        commit: &Commit,
        objects: &mut BTreeMap<(ObjectKind, Stored), Item>,
        report: &mut VerifyReport,
    ) -> Result<(), ReadError> {
        let bytes = self.manifest(project, commit, &commit.manifest).await?;
        let key = keys::object(project, ObjectKind::Manifest, &commit.manifest.object);
        let read = self.ambient.computed(move || read_dataset(&bytes)).await;
        let dataset = read.map_err(|source| ReadError::Manifest { key: key.clone(), source })?;
        count_manifests(commit, report);
        if dataset.content != commit.content {
            let problem = differs("content digest", commit.content, dataset.content);
            let affects = vec![format!("{}@{}", commit.name, commit.number)];
            report.findings.push(Finding { object: key, affects, range: None, problem });
        }
        let target = target_of(commit);
        for FileRow { path, blob, bytes, tree, .. } in dataset.rows {
            let item = objects.entry((ObjectKind::Blob, blob)).or_insert_with(|| {
                let holds = Holds::File { tree, paths: BTreeMap::new() };
                Item { kind: ObjectKind::Blob, object: blob, len: bytes, holds }
            });
            if let Holds::File { paths, .. } = &mut item.holds {
                paths.entry(path).or_default().push(Arc::clone(&target));
            }
        }
        Ok(())
    }

    /// Turns an error of reading a manifest, without which `affects` are lost, into a finding, where it is about this
    /// manifest.
    async fn unreadable(
        &self,
        project: &ProjectName,
        affects: Vec<String>,
        error: ReadError,
    ) -> Result<Finding, ReadError> {
        let problem = with_causes(&error);
        let (object, range) = match error {
            ReadError::Lost { key } | ReadError::Length { key, .. } | ReadError::Manifest { key, .. } => (key, None),
            ReadError::Damaged { key, source } => (key, Some((source.range.start(), source.range.end()))),
            ReadError::Index { .. } => (keys::project(project), None),
            ReadError::Store(error) => return self.not_read(affects, error).await,
            error @ (ReadError::NotFound { .. } | ReadError::Log(_)) => return Err(error),
        };
        Ok(Finding { object, affects, range, problem })
    }
}

/// What a finding calls a commit, such as `run@100`. One text for all its rows.
fn target_of(commit: &Commit) -> Arc<str> {
    format!("{}@{}", commit.name, commit.number).into()
}

fn count_manifests(commit: &Commit, report: &mut VerifyReport) {
    for index in commit.indexes() {
        report.objects += 1;
        report.bytes_read += index.len;
    }
}

/// Compares what record, manifest and list of packs say of each other.
fn contradiction(commit: &Commit, manifest: &Checkpoint, packs: &[PackRow]) -> Option<String> {
    if manifest.content != commit.content {
        return Some(differs("content digest", commit.content, manifest.content));
    }
    let listed: BTreeSet<Stored> = packs.iter().map(|row| row.pack).collect();
    let used: BTreeSet<Stored> = manifest.rows.iter().map(|row| row.place.pack).collect();
    let missing = used.difference(&listed).next()?;
    Some(format!("pack {missing} is used by the manifest and not in the list of packs"))
}

fn differs(what: &str, expected: Digest, actual: Digest) -> String {
    format!("{what} differs from the commit record: expected {expected}, actual {actual}")
}
