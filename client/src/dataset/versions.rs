//! Versions beside each other: what one has that another one has not, and a version without some files.
//!
//! Must never read or send a file: the manifests say it all.

use std::collections::{BTreeMap, BTreeSet};

use gigastore_formats::manifest::ManifestError;
use gigastore_formats::manifest::dataset::{FileRow, Lineage};
use gigastore_formats::name::{Name, Target};
use gigastore_formats::wire::{Committed, Fault};

use super::commit::{Draft, Place};
use super::read::{Dataset, DatasetError};
use crate::store::Store;

/// What a file is, as far as versions are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FileSums {
    /// Bytes.
    pub bytes: u64,
    /// Documents, those that were taken down among them.
    pub documents: u64,
    /// Planned tokens.
    pub tokens: u64,
    /// Documents that were taken down.
    pub taken_down: u64,
}

/// A file that one of two versions has, or both have with different bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileChange {
    /// Its path.
    pub path: String,
    /// What it is in the first version, where that has it.
    pub before: Option<FileSums>,
    /// What it is in the second version, where that has it.
    pub after: Option<FileSums>,
}

/// How two versions differ.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VersionDiff {
    /// Files that differ, by path.
    pub changes: Vec<FileChange>,
    /// Files that both versions have.
    pub same: u64,
    /// All of the first version.
    pub before: FileSums,
    /// All of the second version.
    pub after: FileSums,
}

/// Why files were not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The newest version has no such file.
    #[error("{target} has no file {path:?}; nothing was removed")]
    Unknown {
        /// The dataset.
        target: String,
        /// What was asked for.
        path: String,
        /// What there is.
        known: Vec<String>,
    },
    /// No file would be left.
    #[error("{target} would have no files left: a version has at least one")]
    Empty {
        /// The dataset.
        target: String,
    },
    /// There is no such dataset.
    #[error("{target} has no versions")]
    Absent {
        /// The dataset.
        target: String,
    },
    /// The newest version can't be read.
    #[error(transparent)]
    Newest(#[from] DatasetError),
    /// The manifest can't be made.
    #[error("the manifest can't be made")]
    Manifest(#[from] ManifestError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl FileSums {
    /// Returns what a file is.
    pub fn of(row: &FileRow) -> Self {
        let (tokens, taken_down) = (row.tokens.iter().sum(), row.removed.len() as u64);
        Self { bytes: row.bytes, documents: row.rows, tokens, taken_down }
    }

    /// Returns the sums of all files.
    pub fn of_all(rows: &[FileRow]) -> Self {
        rows.iter().map(Self::of).fold(Self::default(), |a, b| Self {
            bytes: a.bytes.saturating_add(b.bytes),
            documents: a.documents.saturating_add(b.documents),
            tokens: a.tokens.saturating_add(b.tokens),
            taken_down: a.taken_down.saturating_add(b.taken_down),
        })
    }
}

/// Compares the files of two versions by their digests.
pub fn compare(before: &[FileRow], after: &[FileRow]) -> VersionDiff {
    let mut found: BTreeMap<&str, (Option<&FileRow>, Option<&FileRow>)> = BTreeMap::new();
    before.iter().for_each(|row| found.entry(&row.path).or_default().0 = Some(row));
    after.iter().for_each(|row| found.entry(&row.path).or_default().1 = Some(row));
    let mut diff =
        VersionDiff { before: FileSums::of_all(before), after: FileSums::of_all(after), ..Default::default() };
    for (path, (before, after)) in found {
        if before.map(|row| row.blob.digest) == after.map(|row| row.blob.digest) {
            diff.same += 1;
            continue;
        }
        let (before, after) = (before.map(FileSums::of), after.map(FileSums::of));
        diff.changes.push(FileChange { path: path.to_owned(), before, after });
    }
    diff
}

impl Store {
    /// Commits a version of the dataset that `from` names, without some of the newest version's files: those of these
    /// paths, or in folders of these names. `command` is what the version remembers of it.
    pub async fn remove_files(
        &self,
        from: &Target,
        paths: &[String],
        tag: Option<Name>,
        command: String,
    ) -> Result<Committed, RemoveError> {
        let place = Place { project: from.project.clone(), name: from.name.clone(), tag };
        let epoch = self.epoch(&place.project).await?;
        self.commit_draft(&place, epoch, |newest| without(from, newest, paths, &command)).await
    }
}

fn without(from: &Target, newest: Option<&Dataset>, paths: &[String], command: &str) -> Result<Draft, RemoveError> {
    let target = || from.to_string();
    let newest = newest.ok_or_else(|| RemoveError::Absent { target: target() })?;
    let mut gone: BTreeSet<&str> = BTreeSet::new();
    for path in paths {
        let folder = path.trim_end_matches('/');
        let below = |row: &&FileRow| {
            row.path == *path || row.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
        };
        let found = newest.files().iter().filter(below).map(|row| row.path.as_str());
        let before = gone.len();
        gone.extend(found);
        if gone.len() == before && !gone.contains(path.as_str()) {
            let known = newest.files().iter().map(|row| row.path.clone()).collect();
            return Err(RemoveError::Unknown { target: target(), path: path.clone(), known });
        }
    }
    let rows: Vec<FileRow> = newest.files().iter().filter(|row| !gone.contains(row.path.as_str())).cloned().collect();
    if rows.is_empty() {
        return Err(RemoveError::Empty { target: target() });
    }
    Ok(Draft { lineage: Some(descended(newest, command)), ..Draft::like(newest, rows) })
}

/// Returns the lineage of a version that a command made of another one.
pub(super) fn descended(newest: &Dataset, command: &str) -> Lineage {
    Lineage { command: command.to_owned(), ..newest.meta().lineage.clone().unwrap_or_default() }
}

impl Draft {
    /// Makes a draft of other files, and all else as in a version.
    pub(super) fn like(newest: &Dataset, rows: Vec<FileRow>) -> Self {
        let meta = newest.meta();
        Self { metadata: meta.metadata.clone(), tokens: meta.tokens.clone(), lineage: meta.lineage.clone(), rows }
    }
}
