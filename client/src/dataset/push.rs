//! Local Parquet files become a version of a dataset.
//!
//! Each is checked (its footer, its row groups) and hashed before anything is sent; unchanged ones are not sent. Must
//! never commit a version of which a file is not in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::manifest::ManifestError;
use gigastore_formats::manifest::dataset::{DatasetMeta, FileRow, write_dataset};
use gigastore_formats::name::{Name, NameError, ProjectName, Target, check_path};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::record::{Sort, TxnId};
use gigastore_formats::table::{FooterError, FooterReader, ParquetFacts, Step};
use gigastore_formats::verified::GroupSize;
use gigastore_formats::wire::{Committed, DatasetRequest, Fault, FaultCode};

use super::read::DatasetError;
use crate::store::Store;
use crate::transfer::buffer::BufferPool;
use crate::transfer::coding::{Compression, Compressor};
use crate::transfer::phases::Phases;
use crate::transfer::progress::Progress;
use crate::transfer::source::{SliceData, SourceError, SourceFile, SourceLook};
use crate::transfer::write::{WriteError, Writer};

/// Files worked on at once; the budget bounds their bytes.
const FILES_IN_FLIGHT: usize = 4;

/// How often a version number is tried that another push took: each try means that somebody else succeeded.
const VERSION_TRIES: u32 = 20;

/// What is pushed, and where.
#[derive(Clone, Debug)]
pub struct PushSpec {
    /// The project.
    pub project: ProjectName,
    /// The dataset.
    pub name: Name,
    /// Whether the files of the newest version are kept; those of the same path are replaced.
    pub append: bool,
    /// User metadata of the version.
    pub metadata: BTreeMap<String, String>,
    /// A tag to set in the same record.
    pub tag: Option<Name>,
}

/// What was pushed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// The version.
    pub committed: Committed,
    /// Files given.
    pub files: usize,
    /// Files that were not in the store.
    pub files_sent: usize,
    /// Bytes of the files given.
    pub bytes: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
}

/// Why a version was not committed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// No file was given.
    #[error("no file to push: name at least one Parquet file")]
    NoFiles,
    /// Two files would have the same path in the dataset.
    #[error(
        "{first} and {second} would both be {path:?} in the dataset: push them from different folders, or rename one"
    )]
    SamePath {
        /// The path.
        path: String,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
    /// The dataset's name is that of a run.
    #[error("{target} is a run: push under another name")]
    Run {
        /// The target.
        target: String,
    },
    /// A file's name can't be a path in a dataset.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A file is not a sound Parquet file.
    #[error("{path} is not a sound Parquet file: {source}")]
    Parquet {
        /// The file.
        path: String,
        /// What is wrong.
        source: FooterError,
    },
    /// A file can't be read, or changed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A file was not stored.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The manifest can't be made.
    #[error("the manifest can't be made")]
    Manifest(#[from] ManifestError),
    /// The newest version can't be read.
    #[error(transparent)]
    Newest(#[from] DatasetError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Fault),
}

/// What a push would make a version of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Preview {
    /// Files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Their rows.
    pub rows: u64,
}

/// Looks at files as a push does: each must be a sound Parquet file with a name of its own. Reads no data of them.
pub fn preview(files: &[PathBuf]) -> Result<Preview, PushError> {
    let mut preview = Preview::default();
    for local in name_files(files)?.values() {
        let file = SourceFile::open(local)?;
        preview.files += 1;
        preview.bytes += file.len();
        preview.rows += facts(&file)?.rows;
    }
    Ok(preview)
}

/// A local file that was checked and hashed.
struct Checked {
    row: FileRow,
    sent: bool,
}

impl Store {
    /// Pushes files as a new version: exactly these, or with [`append`](PushSpec::append) also those of the newest one.
    /// A folder stands for the `.parquet` files below it. Where nothing changed no version is made.
    pub async fn push(&self, spec: &PushSpec, files: &[PathBuf], progress: &Progress) -> Result<Pushed, PushError> {
        let named = name_files(files)?;
        let epoch = self.epoch(&spec.project).await?;
        let writer = Writer {
            phases: Phases::begin(&self.ambient),
            store: self.clone(),
            project: spec.project.clone(),
            epoch,
            compressor: Compressor::new(Compression::Off, &self.ambient),
            pool: BufferPool::default(),
            groups: BufferPool::default(),
            progress: progress.clone(),
        };
        // Looked at, and opened only when it is its turn: a process may have fewer open files than a dataset has.
        let mut seen = Vec::with_capacity(named.len());
        for (path, local) in named {
            let look = SourceLook::at(&local)?;
            progress.plan(look.len());
            seen.push((path, look));
        }
        let checked: Vec<Checked> = futures::stream::iter(seen)
            .map(|(path, look)| send(&writer, path, look))
            .buffered(FILES_IN_FLIGHT)
            .try_collect()
            .await?;
        let sent = || checked.iter().filter(|file| file.sent);
        let (files_sent, bytes_sent) = (sent().count(), sent().map(|file| file.row.bytes).sum());
        let (files, bytes) = (checked.len(), checked.iter().map(|file| file.row.bytes).sum());
        let rows = checked.into_iter().map(|file| (file.row.path.clone(), file.row)).collect();
        let committed = self.commit_version(spec, epoch, rows).await?;
        Ok(Pushed { committed, files, files_sent, bytes, bytes_sent })
    }

    async fn epoch(&self, project: &ProjectName) -> Result<u64, Fault> {
        match self.transport.project(project).await {
            Ok(info) => Ok(info.epoch),
            Err(fault) if fault.code == FaultCode::NotFound => Ok(0),
            Err(fault) => Err(fault),
        }
    }

    async fn commit_version(
        &self,
        spec: &PushSpec,
        epoch: u64,
        rows: BTreeMap<String, FileRow>,
    ) -> Result<Committed, PushError> {
        let txn = TxnId::derive(&[b"push", &self.ambient.random_bytes()]);
        let mut tries = 1;
        loop {
            // Before the newest version is opened: one that is committed in between is a conflict then, and the next
            // try stands on it.
            let highest = self.highest(spec).await?;
            let newest = self.newest(spec).await?;
            let mut all = match (&newest, spec.append) {
                (Some(dataset), true) => {
                    dataset.files().iter().map(|row| (row.path.clone(), row.clone())).collect::<BTreeMap<_, _>>()
                }
                _ => BTreeMap::new(),
            };
            all.extend(rows.clone());
            let parent = newest.as_ref().map(|dataset| dataset.info().commit.number);
            let version = highest.map_or(1, |highest| highest + 1);
            let meta = DatasetMeta {
                name: spec.name.clone(),
                version,
                parent,
                metadata: spec.metadata.clone(),
                tokens: None,
                lineage: None,
            };
            let rows = all.into_values().collect::<Vec<_>>();
            let manifest = self.ambient.computed(move || write_dataset(&meta, &rows)).await?;
            let request = DatasetRequest { project: spec.project.clone(), txn, epoch, tag: spec.tag.clone() };
            match self.transport.commit_dataset(&request, Bytes::from(manifest)).await {
                Err(fault) if fault.code == FaultCode::Conflict && tries < VERSION_TRIES => {
                    // Another push took this number, or the conflict is another one and stays.
                    if self.highest(spec).await? == highest {
                        return Err(fault.into());
                    }
                    tries += 1;
                }
                done => return Ok(done?),
            }
        }
    }

    /// Opens the newest live version, if there is one.
    async fn newest(&self, spec: &PushSpec) -> Result<Option<super::read::Dataset>, PushError> {
        let target = Target { project: spec.project.clone(), name: spec.name.clone(), selector: None };
        match self.dataset(&target).await {
            Ok(dataset) => Ok(Some(dataset)),
            Err(DatasetError::Store(fault)) if fault.code == FaultCode::NotFound => Ok(None),
            Err(DatasetError::Checkpoint { target }) => Err(PushError::Run { target }),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the highest version that was ever committed.
    async fn highest(&self, spec: &PushSpec) -> Result<Option<u64>, PushError> {
        match self.transport.project(&spec.project).await {
            Ok(info) => {
                let found = info.names.into_iter().find(|name| name.name == spec.name && name.sort == Sort::Dataset);
                Ok(found.map(|name| name.highest))
            }
            Err(fault) if fault.code == FaultCode::NotFound => Ok(None),
            Err(fault) => Err(fault.into()),
        }
    }
}

/// Checks, hashes and sends one file.
async fn send(writer: &Writer, path: String, look: SourceLook) -> Result<Checked, PushError> {
    let file = look.open()?;
    let copy = Arc::clone(&file);
    let facts = writer.store.ambient.computed(move || facts(&copy)).await?;
    let data = SliceData::File(file.region(0, file.len()));
    let tree = writer.tree(GroupSize::File, &data).await?;
    let (bytes, digest) = (tree.len(), tree.root());
    let transport = &writer.store.transport;
    let epochs = [Some(writer.epoch), writer.epoch.checked_sub(1)];
    let candidates: Vec<Stored> = epochs.into_iter().flatten().map(|epoch| Stored { digest, epoch }).collect();
    let lengths = transport.lengths(&writer.project, ObjectKind::Blob, &candidates).await.map_err(PushError::Store)?;
    let there = candidates.iter().zip(lengths).find(|(_, len)| *len == Some(bytes)).map(|(blob, _)| *blob);
    let (blob, sent) = match there {
        Some(blob) => (blob, false),
        None => (writer.blob(tree.clone(), data.clone()).await?, true),
    };
    file.check_unchanged()?;
    writer.progress.done(bytes);
    let row = FileRow {
        path,
        blob,
        bytes,
        rows: facts.rows,
        schema: facts.schema,
        row_groups: facts.row_groups,
        tree,
        tokens: Vec::new(),
        lengths: Vec::new(),
        removed: Vec::new(),
    };
    Ok(Checked { row, sent })
}

/// Reads what a file's footer says.
fn facts(file: &SourceFile) -> Result<ParquetFacts, PushError> {
    let unsound = |source| PushError::Parquet { path: file.path().display().to_string(), source };
    let mut reader = FooterReader::new(file.len());
    loop {
        match reader.step().map_err(unsound)? {
            Step::Done(facts) => return Ok(facts),
            Step::Need(ranges) => {
                for range in ranges {
                    let mut bytes = vec![0; range.len() as usize];
                    file.read_at(range.start(), &mut bytes)?;
                    reader.give(range, Bytes::from(bytes)).map_err(unsound)?;
                }
            }
        }
    }
}

/// Gives each file its path in the dataset: its name, or for a folder the path below it.
fn name_files(files: &[PathBuf]) -> Result<BTreeMap<String, PathBuf>, PushError> {
    let mut named: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in files {
        for (path, local) in expand(file)? {
            check_path(&path)?;
            if let Some(first) = named.insert(path.clone(), local.clone()) {
                let (first, second) = (first.display().to_string(), local.display().to_string());
                return Err(PushError::SamePath { path, first, second });
            }
        }
    }
    if named.is_empty() { Err(PushError::NoFiles) } else { Ok(named) }
}

fn expand(file: &Path) -> Result<Vec<(String, PathBuf)>, PushError> {
    if !file.is_dir() {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        return Ok(vec![(name, file.to_owned())]);
    }
    let unreadable = |path: &Path, source| SourceError::Io { path: path.display().to_string(), source };
    let (mut found, mut folders) = (BTreeSet::new(), vec![file.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|source| unreadable(&folder, source))? {
            let entry = entry.map_err(|source| unreadable(&folder, source))?;
            let path = entry.path();
            if entry.file_type().map_err(|source| unreadable(&path, source))?.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "parquet") {
                found.insert(path);
            }
        }
    }
    let below = |path: PathBuf| {
        let parts = path.strip_prefix(file).unwrap_or(&path).iter().map(|part| part.to_string_lossy().into_owned());
        (parts.collect::<Vec<_>>().join("/"), path)
    };
    Ok(found.into_iter().map(below).collect())
}
