//! A save in progress: announced, its parts collected, finished by whichever rank comes last.
//!
//! No rank needs to know another: all that is shared lies in the store. Every step may be repeated. Must never make a
//! checkpoint visible; `commit.rs` does.

mod error;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::digest::Digest;
use gigastore_formats::limits::{MAX_PART_BYTES, MAX_WORLD_SIZE};
use gigastore_formats::manifest::part::{Part, read_part};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::record::{SaveBegin, Sort, TxnId};
use gigastore_formats::sealed::{seal, unseal};
use gigastore_formats::wire::{Committed, FinishRequest, SaveRequest, Session};

use crate::commit::{CommitError, CommitterClock};
use crate::engine::Engine;
use crate::join::{JoinedCursors, merge};
use crate::log::{Outcome, State};
use crate::read::info;
use crate::store::{Created, StoreError, keys};

pub use error::{FinishError, SaveError};

/// Bytes of `begin.json`: names, an attempt of at most 1 KiB and some numbers.
pub(crate) const MAX_BEGIN_BYTES: u64 = 8 << 10;

/// Bytes of the text that names an attempt.
const MAX_ATTEMPT_BYTES: usize = 1024;

/// Pause between two looks at a save that waits for other ranks.
const WAIT_PAUSE: Duration = Duration::from_millis(100);

/// Looks at the log between two looks at the parts: the rank whose part came last joins at once, the others only take
/// over where it died, so that a thousand ranks do not all join.
const LOOKS_BEFORE_TAKEOVER: u32 = 50;

/// Parts read at once.
const PARTS_IN_FLIGHT: usize = 16;

/// Missing ranks that an error names one by one.
const RANKS_NAMED: usize = 16;

/// Tries to announce a save. A second is for an older announcement that was swept between two looks; more mean that
/// somebody sweeps what was just stored.
const ANNOUNCE_TRIES: u32 = 4;

/// The parts of a save that are stored: for each rank when each came, by the store's clock, and its digest; more than
/// one where the rank was run again.
type StoredParts = BTreeMap<u32, BTreeSet<(u64, Digest)>>;

impl Engine {
    /// Opens a save, or finds it open. Says which checkpoint is at this step already.
    pub async fn begin_save(&self, request: &SaveRequest) -> Result<Session, SaveError> {
        check_request(request)?;
        let project = &request.project;
        let save = SaveBegin::id(project, &request.run, request.step, &request.attempt);
        let mut state = self.state(project).await?;
        if state.names.get(&request.run).is_some_and(|named| named.sort != Sort::Checkpoint) {
            return Err(SaveError::Dataset { name: request.run.clone() });
        }
        if state.outcome(save).is_none() {
            let begin = SaveBegin {
                run: request.run.clone(),
                step: request.step,
                attempt: request.attempt.clone(),
                world_size: request.world_size,
                epoch: state.epoch,
            };
            let key = keys::save_begin(project, save);
            let mut tries = 1;
            while let Created::Exists(_) = self.objects.create(&key, vec![seal(&begin).0.into()]).await? {
                match self.check_same_save(&key, request).await {
                    // One that counted as abandoned was swept a moment ago: this save is announced again.
                    Err(SaveError::Store(StoreError::NotFound { .. })) if tries < ANNOUNCE_TRIES => tries += 1,
                    checked => {
                        checked?;
                        break;
                    }
                }
            }
            // Collectors look for open saves after they have read the log; so the log is read again after announcing.
            state = self.state(project).await?;
        }
        let existing = info(&state, &request.run, request.step);
        if existing.is_some() {
            self.log(project).keep(&state).await?;
        }
        Ok(Session { save, epoch: state.epoch, existing })
    }

    async fn check_same_save(&self, key: &str, request: &SaveRequest) -> Result<(), SaveError> {
        let bytes = self.objects.get(key, MAX_BEGIN_BYTES).await?;
        let damaged = |source| SaveError::Damaged { key: key.to_owned(), source };
        let (begin, _): (SaveBegin, _) = unseal(&bytes, MAX_BEGIN_BYTES).map_err(damaged)?;
        if begin.world_size != request.world_size {
            let (expected, actual) = (begin.world_size, request.world_size);
            return Err(SaveError::OtherSave { attempt: request.attempt.clone(), expected, actual });
        }
        Ok(())
    }

    /// Takes the part of one rank: which slices it has, and where they lie. The same part may come again.
    pub async fn put_part(&self, project: &ProjectName, save: TxnId, rank: u32, bytes: Bytes) -> Result<(), SaveError> {
        let copy = bytes.clone();
        let part = self.ambient.computed(move || read_part(&copy)).await;
        let part = part.map_err(|source| SaveError::Part { rank, source })?;
        if part.meta.rank != rank || rank >= part.meta.world_size {
            let expected = format!("{rank}, below the world size {}", part.meta.world_size);
            return Err(SaveError::Invalid { what: "rank", expected, actual: part.meta.rank.to_string() });
        }
        let key = keys::save_part(project, save, rank, Digest::of(&bytes));
        self.objects.create(&key, vec![bytes]).await?;
        Ok(())
    }

    /// Commits a save once all its parts are there, or finds it committed. Waits for other ranks up to the deadline.
    ///
    /// Every rank may call it: one of a process commits, all get the same answer. The commit goes on where its caller
    /// goes away; the same call again waits for it.
    pub async fn finish_save(&self, request: &FinishRequest) -> Result<Committed, Arc<FinishError>> {
        let save_request = &request.save;
        check_request(save_request).map_err(FinishError::from)?;
        let project = &save_request.project;
        let save = SaveBegin::id(project, &save_request.run, save_request.step, &save_request.attempt);
        let started = self.ambient.monotonic();
        let deadline = Duration::from_millis(request.deadline_ms);
        let mut looks = 0;
        loop {
            let state = self.state(project).await.map_err(SaveError::from).map_err(FinishError::from)?;
            if let Some(Outcome::Took(_)) = state.outcome(save) {
                return Ok(self.finished(&state, save_request, false).await?);
            }
            let waited = self.ambient.monotonic().saturating_sub(started);
            if looks % LOOKS_BEFORE_TAKEOVER == 0 || waited >= deadline {
                match self.ended(project, save).await? {
                    Some(None) => return Err(FinishError::Aborted.into()),
                    // Its content was live before, so that no record has this save.
                    Some(Some(seq)) if seq <= state.seq => {
                        return Ok(self.finished(&state, save_request, true).await?);
                    }
                    Some(Some(_)) | None => {}
                }
                let parts = self.list_parts(project, save).await?;
                if parts.len() == save_request.world_size as usize {
                    let (engine, request) = (self.clone(), request.clone());
                    let tag = request.tag.as_ref().map_or("", Name::as_str);
                    let key = TxnId::derive(&[b"finish", save.0.as_bytes(), tag.as_bytes()]);
                    let work = async move { Ok(engine.join_and_commit(&request, save, parts, started).await?) };
                    return self.saves_joining.join(&*self.ambient, key, work).await;
                }
                if waited >= deadline {
                    return Err(missing_ranks(&parts, save_request.world_size, waited).into());
                }
            }
            looks += 1;
            let jitter = Duration::from_millis(self.ambient.random() % (WAIT_PAUSE.as_millis() as u64));
            self.ambient.sleep((WAIT_PAUSE / 2 + jitter).min(deadline.saturating_sub(waited))).await;
        }
    }

    /// Describes what a save came to.
    async fn finished(&self, state: &State, save: &SaveRequest, existed: bool) -> Result<Committed, FinishError> {
        self.log(&save.project).keep(state).await.map_err(SaveError::from)?;
        // Dropped since: the save did take effect, and the log says what became of it.
        let dropped = || CommitError::DroppedSince { name: save.run.clone(), number: save.step };
        let info = info(state, &save.run, save.step).ok_or_else(dropped)?;
        Ok(Committed { info, existed })
    }

    async fn join_and_commit(
        &self,
        request: &FinishRequest,
        save: TxnId,
        parts: StoredParts,
        started: Duration,
    ) -> Result<Committed, FinishError> {
        let all_there = self.ambient.monotonic();
        let project = &request.save.project;
        if let Some(None) = self.ended(project, save).await? {
            return Err(FinishError::Aborted);
        }
        let (parts, cursors) = self.read_parts(project, save, parts).await?;
        let world_size = request.save.world_size;
        let merged = self.ambient.computed(move || merge(parts, world_size, cursors)).await?;
        let waited = Duration::from_millis(request.waited_ms) + all_there.saturating_sub(started);
        let join = CommitterClock::joined(&*self.ambient, waited, all_there, &merged);
        let committed = self.commit_checkpoint(request, save, merged, join).await?;
        // Only a hint for waiting ranks and for the sweep of old saves; without it they find the save in the log. The
        // checkpoint is committed whether or not the hint could be written, so a failure here is not one of the save.
        let ended = seal(&Some(committed.info.seq)).0;
        let _ = self.objects.create(&keys::save_ended(project, save), vec![ended.into()]).await;
        Ok(committed)
    }

    /// Gives a save up: from then on it can't be finished. One whose commit is under way may still be committed.
    pub async fn abort_save(&self, project: &ProjectName, save: TxnId) -> Result<(), FinishError> {
        let ended = seal(&None::<u64>).0;
        let is_committed = |state: &State| state.outcome(save).is_some();
        if is_committed(&*self.state(project).await.map_err(SaveError::from)?) {
            return Err(FinishError::Committed);
        }
        self.objects.create(&keys::save_ended(project, save), vec![ended.into()]).await.map_err(SaveError::from)?;
        // It may have been committed meanwhile.
        let came_first = matches!(self.ended(project, save).await?, Some(Some(_)));
        if came_first || is_committed(&*self.state(project).await.map_err(SaveError::from)?) {
            return Err(FinishError::Committed);
        }
        Ok(())
    }

    /// Says whether a save has ended: given up, or with the content of a record.
    async fn ended(&self, project: &ProjectName, save: TxnId) -> Result<Option<Option<u64>>, FinishError> {
        let key = keys::save_ended(project, save);
        let bytes = match self.objects.get(&key, MAX_BEGIN_BYTES).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(SaveError::from(error).into()),
        };
        let damaged = |source| SaveError::Damaged { key, source };
        Ok(Some(unseal::<Option<u64>>(&bytes, MAX_BEGIN_BYTES).map_err(damaged)?.0))
    }

    /// Lists the parts that are there.
    async fn list_parts(&self, project: &ProjectName, save: TxnId) -> Result<StoredParts, FinishError> {
        let mut parts = StoredParts::new();
        let mut listed = self.objects.listed(&keys::save_parts(project, save));
        while let Some(part) = listed.try_next().await.map_err(SaveError::from)? {
            if let Some((rank, digest)) = keys::part_of(&part.key) {
                parts.entry(rank).or_default().insert((part.modified_ms, digest));
            }
        }
        Ok(parts)
    }

    /// Reads one part of each rank. A rank that was run again may have found other places for the same content, or the
    /// step itself, as another step was committed or dropped meanwhile: then it delivered two parts that say the same,
    /// and the newer one is taken, whose places were looked at last. (Which of them is the newer by a wrong clock can
    /// cost another run, and nothing else.) Two that say different things are a conflict. Cursors are joined as they
    /// come: each rank has one of all lanes, and all of them at once would be the square of the number of ranks.
    async fn read_parts(
        &self,
        project: &ProjectName,
        save: TxnId,
        parts: StoredParts,
    ) -> Result<(Vec<Part>, JoinedCursors), FinishError> {
        let all = parts.into_iter().flat_map(|(rank, parts)| parts.into_iter().map(move |(_, digest)| (rank, digest)));
        let mut read = futures::stream::iter(all)
            .map(|(rank, digest)| async move {
                Ok::<_, FinishError>((rank, digest, self.read_stored_part(project, save, rank, digest).await?))
            })
            .buffered(PARTS_IN_FLIGHT);
        let mut taken: Vec<(u32, Digest, Part)> = Vec::new();
        let mut cursors = JoinedCursors::default();
        while let Some((rank, digest, part)) = read.try_next().await? {
            match taken.last_mut() {
                Some((other, first, before)) if *other == rank => {
                    if !says_the_same(before, &part) {
                        return Err(FinishError::TwoParts { rank, first: first.short(), second: digest.short() });
                    }
                    (*first, *before) = (digest, part);
                }
                before => {
                    if let Some((other, _, before)) = before {
                        cursors.add(*other, std::mem::take(&mut before.meta.cursors))?;
                    }
                    taken.push((rank, digest, part));
                }
            }
        }
        Ok((taken.into_iter().map(|(_, _, part)| part).collect(), cursors))
    }

    async fn read_stored_part(
        &self,
        project: &ProjectName,
        save: TxnId,
        rank: u32,
        expected: Digest,
    ) -> Result<Part, FinishError> {
        let key = keys::save_part(project, save, rank, expected);
        let bytes = match self.objects.get(&key, MAX_PART_BYTES).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Err(FinishError::Swept { rank }),
            Err(error) => return Err(SaveError::from(error).into()),
        };
        // Not a byte is parsed before its digest is known to be right.
        let read = self.ambient.computed(move || match Digest::of(&bytes) {
            actual if actual == expected => Ok(read_part(&bytes)),
            actual => Err(actual),
        });
        let part = read.await.map_err(|actual| FinishError::DamagedPart { key, expected, actual })?;
        Ok(part.map_err(|source| SaveError::Part { rank, source })?)
    }
}

/// Tells whether two parts of one rank have the same content, wherever each says that its bytes lie, and whatever
/// checkpoint at the same step each found equal.
fn says_the_same(a: &Part, b: &Part) -> bool {
    a.content == b.content
        && a.meta.world_size == b.meta.world_size
        && a.meta.metadata == b.meta.metadata
        && a.meta.cursors == b.meta.cursors
}

fn check_request(request: &SaveRequest) -> Result<(), SaveError> {
    if !(1..=MAX_WORLD_SIZE).contains(&request.world_size) {
        let expected = format!("1 to {MAX_WORLD_SIZE}");
        return Err(SaveError::Invalid { what: "world size", expected, actual: request.world_size.to_string() });
    }
    if request.attempt.is_empty() || request.attempt.len() > MAX_ATTEMPT_BYTES {
        let expected = format!("1 to {MAX_ATTEMPT_BYTES} bytes");
        return Err(SaveError::Invalid {
            what: "attempt",
            expected,
            actual: format!("{} bytes", request.attempt.len()),
        });
    }
    Ok(())
}

fn missing_ranks(parts: &StoredParts, world_size: u32, waited: Duration) -> FinishError {
    let there: BTreeSet<u32> = parts.keys().copied().collect();
    let missing: Vec<u32> = (0..world_size).filter(|rank| !there.contains(rank)).collect();
    let named: Vec<String> = missing.iter().take(RANKS_NAMED).map(u32::to_string).collect();
    let more = if missing.len() > RANKS_NAMED { ", …" } else { "" };
    let ranks = format!("ranks {}{more}", named.join(", "));
    FinishError::MissingRanks { missing: missing.len(), world_size, waited_s: waited.as_secs(), ranks }
}
