//! From a name to its commit, from a commit to its manifest, and ranges of stored objects.
//!
//! Must never guess: what is not live is not found, and a live object that is not there is damage, not absence.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::manifest::checkpoint::{Checkpoint, CheckpointReader, Selection, read_checkpoint};
use gigastore_formats::manifest::dataset::{Dataset, read_dataset};
use gigastore_formats::manifest::packs::{PackRow, read_packs};
use gigastore_formats::manifest::{ManifestError, Step};
use gigastore_formats::name::{Name, ProjectName, Target};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::range::ByteRange;
use gigastore_formats::record::{Commit, Index};
use gigastore_formats::verified::{GroupMismatch, TreeError};
use gigastore_formats::wire::{CommitInfo, DirectPlace, NameInfo, ProjectInfo};

use crate::engine::Engine;
use crate::log::{Live, LogError, Named, State};
use crate::store::{StoreError, keys};

/// Names that an error lists for the caller to suggest from.
const NAMES_LISTED: usize = 1000;

/// Ranges of one manifest that are read at once: four. Its head, its footer, and row groups apart from each other are
/// asked for together, and are 16 MiB at most.
const RANGES_IN_FLIGHT: usize = 4;

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such thing.
    #[error("no {what} {name:?}{of}")]
    NotFound {
        /// Project, run or dataset, step, version or tag.
        what: &'static str,
        /// What was asked for.
        name: String,
        /// In what.
        of: String,
        /// What there is.
        known: Vec<String>,
    },
    /// An object that a live commit refers to is not there.
    #[error("{key} is missing, though a live commit refers to it: the store has lost an object")]
    Lost {
        /// The object's key.
        key: String,
    },
    /// An object's bytes are not what was committed.
    #[error("{key} is damaged: {source}")]
    Damaged {
        /// The object's key.
        key: String,
        /// What is wrong.
        source: GroupMismatch,
    },
    /// An object is shorter or longer than what was committed.
    #[error("{key} is damaged: expected {expected} bytes, actual {actual}")]
    Length {
        /// The object's key.
        key: String,
        /// Bytes committed.
        expected: u64,
        /// Bytes in the store.
        actual: u64,
    },
    /// A commit record's description of its manifest does not hold together.
    #[error("the commit record of {name}@{number} is not valid: {source}")]
    Index {
        /// The run or dataset.
        name: Name,
        /// The step or version.
        number: u64,
        /// What is wrong.
        source: TreeError,
    },
    /// A manifest matches its digest and can't be read: a newer version wrote it.
    #[error("manifest {key} can't be read")]
    Manifest {
        /// The object's key.
        key: String,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads once more what does not match: what was damaged on its way here is right then.
async fn twice<F: Future<Output = Result<Bytes, ReadError>>>(read: impl Fn() -> F) -> Result<Bytes, ReadError> {
    match read().await {
        Err(ReadError::Damaged { .. }) => read().await,
        done => done,
    }
}

impl Engine {
    /// Lists a project's runs and datasets. A project without a log is not found.
    pub async fn project(&self, project: &ProjectName) -> Result<ProjectInfo, ReadError> {
        let state = self.state(project).await?;
        if state.seq == 0 {
            let known = self.projects().await?.iter().map(Name::to_string).collect();
            return Err(not_found("project", project.as_str(), String::new(), known));
        }
        let names = state.names.iter().map(|(name, named)| NameInfo {
            name: name.clone(),
            sort: named.sort,
            live: named.live.values().map(|live| describe(named, live)).collect(),
            highest: named.highest,
        });
        Ok(ProjectInfo { project: project.clone(), seq: state.seq, epoch: state.epoch, names: names.collect() })
    }

    /// Finds the live commit that a target means; `latest` where it names no step, version or tag.
    pub async fn resolve(&self, target: &Target) -> Result<CommitInfo, ReadError> {
        let project = &target.project;
        let state = self.state(project).await?;
        let named = self.named(&state, project, &target.name).await?;
        let selector = target.selector_or_latest();
        let live = named.select(&selector).ok_or_else(|| {
            let numbers = named.live.keys().rev().map(u64::to_string);
            let known = named.tags.keys().map(Name::to_string).chain(numbers).collect();
            let of = format!(" of {project}/{}", target.name);
            not_found("live step, version or tag", &selector.to_string(), of, known)
        })?;
        Ok(describe(named, live))
    }

    /// Finds the live commit of a run or dataset for which `is` holds, given the commit and the number of its record:
    /// the newest of them; `None` where there is none. A run or dataset that is not there is not found. There may be a
    /// million to look at: that is done on the pool.
    pub async fn find(
        &self,
        project: &ProjectName,
        name: &Name,
        is: impl Fn(&Commit, u64) -> bool + Send + 'static,
    ) -> Result<Option<CommitInfo>, ReadError> {
        let state = self.state(project).await?;
        self.named(&state, project, name).await?;
        let name = name.clone();
        let found = self.ambient.computed(move || {
            let named = state.names.get(&name)?;
            let live = named.live.values().rev().find(|live| is(&live.commit, live.seq))?;
            Some(describe(named, live))
        });
        Ok(found.await)
    }

    pub(crate) async fn named<'s>(
        &self,
        state: &'s State,
        project: &ProjectName,
        name: &Name,
    ) -> Result<&'s Named, ReadError> {
        if state.seq == 0 {
            let known = self.projects().await?.iter().map(Name::to_string).collect();
            return Err(not_found("project", project.as_str(), String::new(), known));
        }
        state.names.get(name).ok_or_else(|| {
            let known = state.names.keys().map(Name::to_string).collect();
            not_found("run or dataset", name.as_str(), format!(" in project {project}"), known)
        })
    }

    /// Reads a range of a stored object. The caller checks it against the digests it holds.
    pub async fn read(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        object: &Stored,
        range: ByteRange,
    ) -> Result<Bytes, ReadError> {
        self.objects.get_range(&keys::object(project, kind, object), range).await.map_err(lost)
    }

    /// Reads a range of a stored object as [`read`](Self::read) does, in the pieces that it comes in.
    pub async fn read_pieces(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        object: &Stored,
        range: ByteRange,
    ) -> Result<Vec<Bytes>, ReadError> {
        self.objects.get_pieces(&keys::object(project, kind, object), range).await.map_err(lost)
    }

    /// Returns the file of a stored object, where the store is a folder of this machine. It may not be there.
    pub fn path(&self, project: &ProjectName, kind: ObjectKind, object: &Stored) -> Option<PathBuf> {
        self.objects.path(&keys::object(project, kind, object))
    }

    /// Tells where an object can be read without this engine, for so long; `None` where it can't.
    pub async fn place_of(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        object: &Stored,
        valid: Duration,
    ) -> Result<Option<DirectPlace>, StoreError> {
        if let Some(path) = self.path(project, kind, object) {
            return Ok(Some(DirectPlace::Path(path)));
        }
        let signed = self.objects.signed_url(&keys::object(project, kind, object), valid).await.transpose()?;
        Ok(signed.map(DirectPlace::Url))
    }

    /// Reads a whole manifest, or list of packs, and checks it.
    pub(crate) async fn manifest(
        &self,
        project: &ProjectName,
        commit: &Commit,
        index: &Index,
    ) -> Result<Bytes, ReadError> {
        twice(|| self.manifest_once(project, commit, index)).await
    }

    async fn manifest_once(&self, project: &ProjectName, commit: &Commit, index: &Index) -> Result<Bytes, ReadError> {
        let broken = |source| ReadError::Index { name: commit.name.clone(), number: commit.number, source };
        let tree = index.tree().map_err(broken)?;
        let key = keys::object(project, ObjectKind::Manifest, &index.object);
        // Not a byte more than was committed is read, whatever lies there now.
        let bytes = match self.objects.get(&key, tree.len()).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { key }) => return Err(ReadError::Lost { key }),
            Err(StoreError::TooLong { key, limit, actual }) => {
                return Err(ReadError::Length { key, expected: limit, actual });
            }
            Err(error) => return Err(error.into()),
        };
        if bytes.len() as u64 != tree.len() {
            return Err(ReadError::Length { key, expected: tree.len(), actual: bytes.len() as u64 });
        }
        let checked = self.ambient.computed(move || tree.check_range(0, &bytes).map(|()| bytes)).await;
        checked.map_err(|source| ReadError::Damaged { key, source })
    }

    /// Reads, checks and decodes the manifest of a checkpoint.
    pub async fn checkpoint(&self, project: &ProjectName, commit: &Commit) -> Result<Checkpoint, ReadError> {
        let bytes = self.manifest(project, commit, &commit.manifest).await?;
        let key = keys::object(project, ObjectKind::Manifest, &commit.manifest.object);
        let read = self.ambient.computed(move || read_checkpoint(&bytes)).await;
        read.map_err(|source| ReadError::Manifest { key, source })
    }

    /// Reads the rows of a selection of a checkpoint's tensors: of a large manifest only the groups that hold them,
    /// each checked.
    pub async fn checkpoint_of(
        &self,
        project: &ProjectName,
        commit: &Commit,
        selection: Selection,
    ) -> Result<Checkpoint, ReadError> {
        let index = &commit.manifest;
        let broken = |source| ReadError::Index { name: commit.name.clone(), number: commit.number, source };
        let tree = Arc::new(index.tree().map_err(broken)?);
        let key = || keys::object(project, ObjectKind::Manifest, &index.object);
        let unreadable = |source| ReadError::Manifest { key: key(), source };
        let mut reader = CheckpointReader::new(index.len, selection).map_err(unreadable)?;
        loop {
            // Decoding is long where many rows are wanted.
            let stepped = self.ambient.computed(move || (reader.step(), reader)).await;
            reader = stepped.1;
            let ranges = match stepped.0.map_err(unreadable)? {
                Step::Done(found) => return Ok(found),
                Step::Need(ranges) => ranges,
            };
            let tree = &tree;
            let read = async |range: ByteRange| {
                let bytes = self.read(project, ObjectKind::Manifest, &index.object, range).await?;
                let tree = Arc::clone(tree);
                let checked = self.ambient.computed(move || tree.check_range(range.start(), &bytes).map(|()| bytes));
                checked.await.map_err(|source| ReadError::Damaged { key: key(), source })
            };
            let read = &read;
            let reads = ranges.into_iter().map(|wanted| async move {
                let range = tree.widened(wanted);
                let bytes = twice(|| read(range)).await?;
                let start = (wanted.start() - range.start()) as usize;
                Ok::<_, ReadError>((wanted, bytes.slice(start..start + wanted.len() as usize)))
            });
            let mut given = futures::stream::iter(reads).buffered(RANGES_IN_FLIGHT);
            while let Some((range, bytes)) = given.try_next().await? {
                reader.give(range, bytes).map_err(unreadable)?;
            }
        }
    }

    /// Reads, checks and decodes the manifest of a dataset version.
    pub async fn dataset(&self, project: &ProjectName, commit: &Commit) -> Result<Dataset, ReadError> {
        let bytes = self.manifest(project, commit, &commit.manifest).await?;
        let key = keys::object(project, ObjectKind::Manifest, &commit.manifest.object);
        let read = self.ambient.computed(move || read_dataset(&bytes)).await;
        read.map_err(|source| ReadError::Manifest { key, source })
    }

    /// Reads the list of distinct packs of a checkpoint; none for a dataset.
    pub(crate) async fn packs_of(&self, project: &ProjectName, commit: &Commit) -> Result<Vec<PackRow>, ReadError> {
        let Some(index) = &commit.packs else { return Ok(Vec::new()) };
        let bytes = self.manifest(project, commit, index).await?;
        let key = keys::object(project, ObjectKind::Manifest, &index.object);
        let rows = self.ambient.computed(move || read_packs(&bytes)).await;
        rows.map_err(|source| ReadError::Manifest { key, source })
    }
}

/// Describes a live commit of `state`.
pub(crate) fn info(state: &State, name: &Name, number: u64) -> Option<CommitInfo> {
    let named = state.names.get(name)?;
    Some(describe(named, named.live.get(&number)?))
}

fn describe(named: &Named, live: &Live) -> CommitInfo {
    let number = live.commit.number;
    let (tags, pinned) = (named.tags_of(number), named.pins.contains(&number));
    CommitInfo { commit: live.commit.clone(), seq: live.seq, time: live.time, tags, pinned }
}

fn not_found(what: &'static str, name: &str, of: String, mut known: Vec<String>) -> ReadError {
    known.truncate(NAMES_LISTED);
    ReadError::NotFound { what, name: name.to_owned(), of, known }
}

/// An object that is asked for by the name in a commit is there, or was lost.
fn lost(error: StoreError) -> ReadError {
    match error {
        StoreError::NotFound { key } => ReadError::Lost { key },
        error => error.into(),
    }
}
