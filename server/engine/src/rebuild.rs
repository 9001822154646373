//! A log made anew from what it has committed: where every record is lost, manifests, packs and files still say what
//! there was.
//!
//! What only the log knew is lost unless a folded state is left: what was dropped, tags, pins and policies. Must never
//! write where there is a log, nor commit anything whose manifest does not verify or whose objects are not there.
//!
//! | file | what |
//! |---|---|
//! | `look.rs` | manifests, each checked against its name, and the objects that it needs |
//! | `records.rs` | the records that commit them |

mod look;
mod records;

use std::collections::BTreeMap;

use gigastore_formats::limits::MAX_FOLDED_BYTES;
use gigastore_formats::manifest::ManifestError;
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::object::ObjectKind;
use gigastore_formats::record::{Entry, Index, Sort};
use gigastore_formats::sealed::unseal;
use gigastore_formats::wire::{LeftOut, RebuildReport, Recovered};

use crate::engine::Engine;
use crate::log::{AppendError, LogError, Outcome, State};
use crate::read::ReadError;
use crate::store::{Body, Created, StoreError, keys};

use look::Found;

/// Why no log was made.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// There are records.
    #[error(
        "{project} has {records} log records, first {first}: a log is only made anew where none is there; restore \
         what is missing of this one from a copy of the bucket, or move its records away if nothing else is left"
    )]
    LogThere {
        /// The project.
        project: ProjectName,
        /// How many.
        records: usize,
        /// The key of the first.
        first: String,
    },
    /// Somebody else writes to the log that is being made.
    #[error(
        "log record {seq} of {project} was written by somebody else meanwhile: stop all writers, and see what is there"
    )]
    Busy {
        /// The project.
        project: ProjectName,
        /// The record.
        seq: u64,
    },
    /// Two manifests of one step or version, and nothing says which of them was committed.
    #[error(
        "{name}@{number} has two manifests of different content, {first} and {second}, and no folded state says which \
         of them was committed (a save that lost against another leaves such a one, and so does a step that was \
         dropped and saved anew): look at both, move the wrong one out of the store, and run the same again"
    )]
    Ambiguous {
        /// The run or dataset.
        name: Name,
        /// The step or version.
        number: u64,
        /// Key of the newer manifest.
        first: String,
        /// Key of the older one.
        second: String,
    },
    /// The list of packs of a checkpoint is there, and damaged.
    #[error("{key} should have {expected} bytes, and has {actual}: move it away, and it is made anew")]
    List {
        /// Its key.
        key: String,
        /// Its bytes.
        expected: u64,
        /// Bytes that it has.
        actual: u64,
    },
    /// There is nothing to make a log of.
    #[error("{project} has no manifest that verifies: there is nothing to make a log of")]
    Nothing {
        /// The project.
        project: ProjectName,
    },
    /// A list of packs could not be written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A record could not be written.
    #[error(transparent)]
    Append(#[from] AppendError<NotAlone>),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Something could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Another record stands where the next one should.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("log record {seq} is not one that was to be written")]
pub struct NotAlone {
    /// The record.
    pub seq: u64,
}

impl Engine {
    /// Makes the log of a project anew from its manifests, packs and files; with `dry_run` only says what it would
    /// hold. Run again after it was interrupted, it goes on.
    ///
    /// Steps of a run come in the order of their numbers, so that `latest` is the highest; their times are those of
    /// their manifests. Nobody else may write to the project meanwhile.
    pub async fn rebuild_log(&self, project: &ProjectName, dry_run: bool) -> Result<RebuildReport, RebuildError> {
        let mut left = Vec::new();
        let folded = self.left_state(project).await?;
        let (found, epoch) = self.look_at_manifests(project, &mut left).await?;
        let chosen = choose(found, folded.as_ref(), &mut left)?;
        if chosen.is_empty() {
            return Err(RebuildError::Nothing { project: project.clone() });
        }
        let now = self.ambient.wall_ms();
        let records = records::records(project, &chosen, folded.as_ref(), epoch, now);
        let there = self.check_no_log(project, &records).await?;
        if !dry_run {
            for one in chosen.values() {
                if let (Some(list), Some(packs)) = (&one.packs, &one.commit.packs) {
                    self.store_list(project, packs, list.clone()).await?;
                }
            }
            for (i, entries) in records.iter().enumerate().skip(there) {
                self.append_rebuilt(project, i as u64, entries).await?;
            }
            // Those of the lost log would pass for newer ones than this log has.
            for (_, key) in self.log(project).folded_keys().await? {
                self.objects.delete_cache(&key).await?;
            }
        }
        let recovered = chosen.values().map(|one| Recovered {
            name: one.commit.name.clone(),
            number: one.commit.number,
            sort: one.commit.sort,
            content: one.commit.content,
            manifest: one.commit.manifest.object,
            time: one.time,
        });
        let folded = folded.map(|state| state.seq);
        Ok(RebuildReport { recovered: recovered.collect(), left, records: records.len() as u64, epoch, folded })
    }

    /// Stores a list of packs under the epoch of its manifest, where the lost commit had it: what is there is not sent
    /// again. The log that would say that this epoch has begun is the one that is lost.
    async fn store_list(&self, project: &ProjectName, packs: &Index, list: Vec<u8>) -> Result<(), RebuildError> {
        let key = keys::object(project, ObjectKind::Manifest, &packs.object);
        let stored = self.objects.store(&key, Body::Whole(vec![list.into()])).await?;
        match stored {
            Created::Exists(actual) if actual != packs.len => {
                Err(RebuildError::List { key, expected: packs.len, actual })
            }
            _ => Ok(()),
        }
    }

    /// Refuses a project that has a log, unless it is one that this operation began; returns how many of its records
    /// are there.
    async fn check_no_log(&self, project: &ProjectName, records: &[Vec<Entry>]) -> Result<usize, RebuildError> {
        let folder = keys::log(project);
        let listed = self.objects.list(&folder).await?;
        let mut there: Vec<String> =
            listed.into_iter().map(|(key, _)| key).filter(|key| key.ends_with(".json")).collect();
        there.sort_unstable();
        let Some(first) = there.first().cloned() else { return Ok(0) };
        let refused = || RebuildError::LogThere { project: project.clone(), records: there.len(), first };
        // Records that can't be read are a log, too.
        let Ok(state) = self.state(project).await else { return Err(refused()) };
        let ours = |(i, entries): (usize, &Vec<Entry>)| {
            let seq = i as u64 + 1;
            entries.iter().all(|entry| match state.outcome(entry.txn) {
                Some(Outcome::Took(at) | Outcome::Void(at, _)) => at == seq,
                None => false,
            })
        };
        let begun = there.len();
        if state.seq as usize == begun && begun <= records.len() && records.iter().enumerate().take(begun).all(ours) {
            return Ok(begun);
        }
        Err(refused())
    }

    async fn append_rebuilt(&self, project: &ProjectName, before: u64, entries: &[Entry]) -> Result<(), RebuildError> {
        let Some(first) = entries.first() else { return Ok(()) };
        let (log, txn, entries) = (self.log(project), first.txn, entries.to_vec());
        let appended = log.append(txn, move |state| match state.seq == before {
            true => Ok(entries.clone()),
            false => Err(NotAlone { seq: before + 1 }),
        });
        match appended.await {
            Ok(_) => Ok(()),
            Err(AppendError::Refused(NotAlone { seq })) => Err(RebuildError::Busy { project: project.clone(), seq }),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the newest folded state that is left, if any can be read. It stands on no record any more, but its own
    /// digest says that it is what somebody folded.
    async fn left_state(&self, project: &ProjectName) -> Result<Option<State>, StoreError> {
        for (seq, key) in self.log(project).folded_keys().await? {
            let bytes = match self.objects.get(&key, MAX_FOLDED_BYTES).await {
                Ok(bytes) => bytes,
                Err(StoreError::NotFound { .. } | StoreError::TooLong { .. } | StoreError::Short { .. }) => continue,
                Err(error) => return Err(error),
            };
            let state = self.ambient.computed(move || unseal::<State>(&bytes, MAX_FOLDED_BYTES)).await;
            // A damaged one is passed over: an older one says less, and says it truly.
            if let Ok((state, _)) = state
                && state.seq == seq
            {
                return Ok(Some(state));
            }
        }
        Ok(None)
    }
}

/// Takes one manifest for each step and version, and says why others are left out.
fn choose(
    mut found: Vec<Found>,
    folded: Option<&State>,
    left: &mut Vec<LeftOut>,
) -> Result<BTreeMap<(Name, u64), Found>, RebuildError> {
    // The newest first: one that was committed again after a drop.
    found.sort_by_key(|one| (std::cmp::Reverse(one.time), one.commit.manifest.object));
    let mut sorts: BTreeMap<Name, Sort> =
        folded.iter().flat_map(|state| state.names.iter().map(|(name, named)| (name.clone(), named.sort))).collect();
    let mut chosen: BTreeMap<(Name, u64), Found> = BTreeMap::new();
    for one in found {
        let (name, number) = (one.commit.name.clone(), one.commit.number);
        let object = one.key.clone();
        let mut leave = |why: String| left.push(LeftOut { object: object.clone(), why });
        if *sorts.entry(name.clone()).or_insert(one.commit.sort) != one.commit.sort {
            leave(format!("{name} is both a run and a dataset"));
            continue;
        }
        if let Some(named) = folded.and_then(|state| state.names.get(&name)) {
            match named.live.get(&number) {
                Some(live) if live.commit.manifest.object != one.commit.manifest.object => {
                    leave(format!("{name}@{number} was committed with another manifest, as a folded state says"));
                    continue;
                }
                None if number <= named.highest && one.commit.sort == Sort::Dataset => {
                    leave(format!("{name}@{number} was dropped, as a folded state says"));
                    continue;
                }
                Some(_) | None => {}
            }
        }
        if let Some(taken) = chosen.get(&(name.clone(), number)) {
            if taken.commit.content != one.commit.content {
                let (first, second) = (taken.key.clone(), one.key.clone());
                return Err(RebuildError::Ambiguous { name, number, first, second });
            }
            leave(format!("{name}@{number} is taken from {}, which is newer", taken.key));
            continue;
        }
        chosen.insert((name, number), one);
    }
    Ok(chosen)
}
