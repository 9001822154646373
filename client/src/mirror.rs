//! Checkpoints and datasets from one store into another, of whatever kind: objects as they are, under the same digests,
//! and only those that are missing there.
//!
//! Every byte is verified on its way, by the store that takes it; what is committed at the end has the same content
//! digest. Run again, a mirror goes on where it was. Must never commit other content than was read, nor bring back what
//! was dropped in the destination.
//!
//! | file | what |
//! |---|---|
//! | `checkpoint.rs` | a checkpoint: its packs, its rows as parts of a save |
//! | `dataset.rs` | a dataset version: its files, its manifest |

mod checkpoint;
mod dataset;

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::ManifestError;
use gigastore_formats::name::{LATEST, Name, ProjectName, Selector, Target};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::range::ByteRange;
use gigastore_formats::record::{Sort, TxnId};
use gigastore_formats::wire::{CommitInfo, Fault, FaultCode, NameInfo};

use tokio::sync::OnceCell;

use crate::checkpoint::open::OpenError;
use crate::dataset::read::DatasetError;
use crate::error::Coded;
use crate::store::Store;
use crate::transfer::progress::Progress;
use crate::transport::{PieceStream, Pieces, UploadError};

/// Bytes of an object that are read at once: thirty-two groups.
const PIECE_BYTES: u64 = 8 << 20;

/// Reads of one object in flight: two hide the latency of one behind the transfer of the other.
const PIECES_IN_FLIGHT: usize = 2;

/// Objects on their way at once; each holds up to four pieces, 128 MiB in all.
const OBJECTS_IN_FLIGHT: usize = 4;

/// What is mirrored, and where to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MirrorSpec {
    /// The project that is read.
    pub project: ProjectName,
    /// Only this run or dataset of it.
    pub name: Option<Name>,
    /// Only this step, version or tag of it.
    pub selector: Option<Selector>,
    /// The project that is written to, which need not be there.
    pub to: ProjectName,
}

/// A checkpoint or dataset version that is in the destination.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mirrored {
    /// What it is in the source, such as `run@100`.
    pub from: String,
    /// What it is in the destination: a version of a dataset may have another number there.
    pub to: String,
    /// The content digest, the same in both.
    pub content: Digest,
    /// It was there before.
    pub existed: bool,
    /// Packs or files that were sent, and their bytes.
    pub objects: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Tags that were set or moved in the destination.
    pub tags: Vec<String>,
}

/// What a mirror did.
#[derive(Debug, Default)]
pub struct MirrorReport {
    /// What is in the destination now, in the order of the source's log.
    pub mirrored: Vec<Mirrored>,
    /// What was mirrored before and was dropped in the destination since: it stays away.
    pub dropped: Vec<String>,
    /// What was dropped in the source while it was mirrored.
    pub gone: Vec<String>,
    /// Steps that come before one that the destination has: copied now, they would be the newest there, the one that
    /// `latest` means. Asked for by its number, such a step is copied all the same.
    pub late: Vec<String>,
    /// What could not be read whole in the source, and why; the rest went on.
    pub damaged: Vec<(String, MirrorError)>,
}

/// Why something was not mirrored.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// Nothing of the source is meant.
    #[error("{project} has no run or dataset that could be mirrored")]
    Nothing {
        /// The project.
        project: ProjectName,
    },
    /// Another checkpoint is at this step in the destination.
    #[error(
        "{target} is in the destination with other content: expected content digest {expected}, actual {actual}; \
         mirror into another project"
    )]
    Different {
        /// The step.
        target: String,
        /// Content digest in the source.
        expected: Digest,
        /// Content digest in the destination.
        actual: Digest,
    },
    /// The destination has a dataset of that name where the source has a run, or the other way round.
    #[error("{name} is not the same kind of thing in both stores (a run and a dataset): mirror into another project")]
    Sort {
        /// The name.
        name: Name,
    },
    /// An object of the source is damaged; the destination took nothing of it.
    #[error("{object} of the source is damaged, and was not taken: {problem}")]
    Damaged {
        /// The object's key below its project.
        object: String,
        /// What the destination said.
        problem: String,
    },
    /// A checkpoint of the source can't be opened.
    #[error(transparent)]
    Checkpoint(#[from] OpenError),
    /// A dataset of the source can't be opened.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The manifest or a part for the destination can't be written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// One of the stores failed.
    #[error(transparent)]
    Store(#[from] Fault),
}

/// The two stores of a mirror.
struct Mirror<'a> {
    from: &'a Store,
    to: &'a Store,
    spec: &'a MirrorSpec,
    progress: &'a Progress,
    /// What the destination's log has, once somebody asked.
    stood: OnceCell<HashSet<TxnId>>,
}

/// Objects that were sent.
#[derive(Clone, Copy, Default)]
struct Sent {
    objects: u64,
    bytes: u64,
}

/// Copies what `spec` means from one store into another.
///
/// Steps and versions go in the order in which they were committed, so that `latest` means the same in both; a step
/// that could not be copied then (it was damaged, and is repaired since) is not copied behind later ones. Tags are set
/// as they are in the source; pins and policies are the destination's own.
pub async fn mirror(
    from: &Store,
    to: &Store,
    spec: &MirrorSpec,
    progress: &Progress,
) -> Result<MirrorReport, MirrorError> {
    let mirror = Mirror { from, to, spec, progress, stood: OnceCell::new() };
    let wanted = mirror.wanted().await?;
    let there = mirror.destination().await?;
    let mut report = MirrorReport::default();
    // A dataset whose version could not be copied goes no further: the next one would take its number.
    let mut stopped: Vec<Name> = Vec::new();
    let mut last: BTreeMap<Name, u64> = BTreeMap::new();
    let newest = newest_there(&wanted, &there);
    for info in wanted {
        let name = &info.commit.name;
        if stopped.contains(name) {
            continue;
        }
        let known = there.iter().find(|known| known.name == *name);
        if known.is_some_and(|known| known.sort != info.commit.sort) {
            return Err(MirrorError::Sort { name: name.clone() });
        }
        let label = format!("{name}@{}", info.commit.number);
        if spec.selector.is_none()
            && newest.get(name).is_some_and(|newest| info.seq < *newest)
            && !is_there(&info, known)
        {
            report.late.push(label);
            continue;
        }
        let copied = match info.commit.sort {
            Sort::Checkpoint => mirror.checkpoint(&info, known).await,
            Sort::Dataset => mirror.version(&info, known, last.get(name).copied()).await,
        };
        match copied {
            Ok(Some((committed, sent, existed))) => {
                last.insert(name.clone(), committed.commit.number);
                let tags = mirror.tags(&info, &committed).await?;
                let (to, content) = (format!("{name}@{}", committed.commit.number), committed.commit.content);
                let Sent { objects, bytes } = sent;
                report.mirrored.push(Mirrored { from: label, to, content, existed, objects, bytes, tags });
            }
            Ok(None) => report.dropped.push(label),
            Err(error) if is_gone(&error) && !mirror.is_live(&info).await? => report.gone.push(label),
            Err(error) if is_damage(&error) => {
                if info.commit.sort == Sort::Dataset {
                    stopped.push(name.clone());
                }
                report.damaged.push((label, error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(report)
}

/// Finds of each run the record in the source of the last step that the destination has.
fn newest_there(wanted: &[CommitInfo], there: &[NameInfo]) -> BTreeMap<Name, u64> {
    let mut newest = BTreeMap::new();
    for info in wanted.iter().filter(|info| info.commit.sort == Sort::Checkpoint) {
        let known = there.iter().find(|known| known.name == info.commit.name);
        if is_there(info, known) {
            let seq = newest.entry(info.commit.name.clone()).or_insert(info.seq);
            *seq = info.seq.max(*seq);
        }
    }
    newest
}

/// Whether a step of that number is in the destination.
fn is_there(info: &CommitInfo, known: Option<&NameInfo>) -> bool {
    let number = info.commit.number;
    info.commit.sort == Sort::Checkpoint
        && known.is_some_and(|known| known.live.iter().any(|there| there.commit.number == number))
}

/// Whether something was not there that was to be read.
fn is_gone(error: &MirrorError) -> bool {
    matches!(error.code(), FaultCode::NotFound | FaultCode::Gone)
}

/// Whether the source, and not the way or the destination, is at fault.
fn is_damage(error: &MirrorError) -> bool {
    matches!(error.code(), FaultCode::Integrity | FaultCode::Lost | FaultCode::NewerFormat)
}

impl Mirror<'_> {
    /// Lists what is to be mirrored, in the order in which it was committed.
    async fn wanted(&self) -> Result<Vec<CommitInfo>, MirrorError> {
        let MirrorSpec { project, name, selector, .. } = self.spec;
        if let (Some(name), Some(_)) = (name, selector) {
            let target = Target { project: project.clone(), name: name.clone(), selector: selector.clone() };
            return Ok(vec![self.from.resolve(&target).await?]);
        }
        let names = self.from.project(project).await?.names;
        let known = names.iter().map(|info| info.name.to_string()).collect();
        let wanted = names.into_iter().filter(|info| name.as_ref().is_none_or(|only| *only == info.name));
        let mut wanted: Vec<CommitInfo> = wanted.flat_map(|info| info.live).collect();
        wanted.sort_by_key(|info| (info.seq, info.commit.number));
        match (wanted.is_empty(), name) {
            (true, Some(name)) => {
                let text = format!("no run or dataset {:?} in project {project}", name.as_str());
                Err(Fault { known, ..Fault::of(FaultCode::NotFound, text) }.into())
            }
            (true, None) => Err(MirrorError::Nothing { project: project.clone() }),
            (false, _) => Ok(wanted),
        }
    }

    /// Tells whether a commit of the source is live.
    async fn is_live(&self, info: &CommitInfo) -> Result<bool, MirrorError> {
        let selector = Some(Selector::Number(info.commit.number));
        let target = Target { project: self.spec.project.clone(), name: info.commit.name.clone(), selector };
        match self.from.resolve(&target).await {
            Ok(now) => Ok(now.seq == info.seq),
            Err(fault) if matches!(fault.code, FaultCode::NotFound | FaultCode::Gone) => Ok(false),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Lists what the destination has.
    async fn destination(&self) -> Result<Vec<NameInfo>, MirrorError> {
        match self.to.project(&self.spec.to).await {
            Ok(info) => Ok(info.names),
            Err(fault) if fault.code == FaultCode::NotFound => Ok(Vec::new()),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Sets the tags that the source has and the destination has not, or elsewhere.
    async fn tags(&self, source: &CommitInfo, there: &CommitInfo) -> Result<Vec<String>, MirrorError> {
        let mut set = Vec::new();
        for tag in source.tags.iter().filter(|tag| *tag != LATEST && !there.tags.contains(tag)) {
            let name: Name = tag.parse().map_err(|error| Fault::new(FaultCode::Invalid, &error))?;
            let txn = self.to.new_txn("mirror tag");
            let commit = &there.commit;
            self.to.transport.set_tag(&self.spec.to, txn, &commit.name, &name, commit.number).await?;
            set.push(tag.clone());
        }
        Ok(set)
    }

    /// Returns which of the names that the same content may have in the destination it has there, sound and whole.
    async fn there(&self, kind: ObjectKind, candidates: &[Stored], len: u64) -> Result<Option<Stored>, Fault> {
        let lengths = self.to.transport.lengths(&self.spec.to, kind, candidates).await?;
        Ok(candidates.iter().zip(lengths).find(|(_, there)| *there == Some(len)).map(|(stored, _)| *stored))
    }

    /// Returns the bytes of an object of the source from `start` on, as an upload reads them.
    fn pieces(&self, kind: ObjectKind, object: Stored, start: u64, len: u64) -> Pieces {
        let (store, project, progress) = (self.from.clone(), self.spec.project.clone(), self.progress.clone());
        Pieces::new(move || {
            let (store, project, progress) = (store.clone(), project.clone(), progress.clone());
            let whole = ByteRange::new(start.min(len), len).expect("the start is not after the end");
            let read = futures::stream::iter(whole.cut(PIECE_BYTES)).map(move |range| {
                let (store, project, progress) = (store.clone(), project.clone(), progress.clone());
                async move {
                    let _taken = store.budget.take(range.len()).await;
                    let bytes = store.transport.read(&project, kind, &object, range, false).await?;
                    progress.moved(range.len());
                    Ok::<Bytes, Fault>(bytes)
                }
            });
            let boxed = |fault: Fault| -> UploadError { Box::new(fault) };
            let stream: PieceStream = read.buffered(PIECES_IN_FLIGHT).map_err(boxed).boxed();
            stream
        })
    }

    /// Tells a damaged object of the source from other troubles: the destination refuses bytes that do not match.
    async fn refused(&self, kind: ObjectKind, object: &Stored, fault: Fault) -> MirrorError {
        if fault.code != FaultCode::BadUpload {
            return fault.into();
        }
        // A source that can't be reached comes back as a body that broke off.
        match self.from.transport.lengths(&self.spec.project, kind, &[*object]).await {
            Ok(_) => MirrorError::Damaged { object: object.key(kind), problem: fault.message },
            Err(unreachable) => unreachable.into(),
        }
    }
}
