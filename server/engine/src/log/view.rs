//! From the bucket to the newest state of a project.
//!
//! Folded state is a cache: it may be missing, stale or damaged, and is believed only where its digest holds and the
//! record it stands on is the one it names. Must never take a record whose chain does not hold.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, Shared};
use futures::stream::{self, StreamExt};
use gigastore_formats::ambient::Ambient;
use gigastore_formats::digest::Digest;
use gigastore_formats::limits::{MAX_FOLDED_BYTES, MAX_RECORD_BYTES};
use gigastore_formats::name::ProjectName;
use gigastore_formats::record::{Record, RecordError};
use gigastore_formats::sealed::{seal, unseal};

use super::queue::Queue;
use super::state::State;
use crate::store::{Objects, StoreError, keys};

/// Records between two folded states: 64 records of some KiB are read in one or two rounds, and one write in 64 is
/// small.
pub(super) const FOLD_EVERY: u64 = 64;

/// Folded states kept: the newest, and the one before it for readers that listed a moment ago.
pub(super) const FOLDED_KEPT: usize = 2;

/// Records asked for at once while catching up: hides a store's latency; at most 16 x 8 MiB are held.
pub(super) const READ_AHEAD: u64 = 16;

/// Why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The store failed.
    #[error("the log of project {project} could not be read")]
    Store {
        /// The project.
        project: ProjectName,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// A record is damaged, moved, or of a newer version.
    #[error("log record {key} is damaged: {source}; nothing after it can be trusted")]
    Damaged {
        /// The record's key.
        key: String,
        /// What is wrong with it.
        source: RecordError,
    },
}

/// The log of one project, and the newest state that this process has seen.
#[derive(Debug)]
pub(crate) struct Log {
    pub(super) objects: Objects,
    pub(super) ambient: Arc<dyn Ambient>,
    pub(super) project: ProjectName,
    state: Mutex<Arc<State>>,
    pub(super) queue: Mutex<Queue>,
    /// Held while the state moves.
    moving: futures::lock::Mutex<()>,
    refreshes: Mutex<Refreshes>,
    /// The newest folded state that this process read or wrote.
    folded: AtomicU64,
}

/// A refresh that many wait for; none where it failed.
type Refresh = Shared<BoxFuture<'static, Option<Arc<State>>>>;

/// Refreshes under way, so that many readers in one process ask the store once.
#[derive(Default, Debug)]
struct Refreshes {
    /// It may have read the tail before whoever comes now.
    running: Option<Refresh>,
    /// It begins when that one has ended.
    next: Option<Refresh>,
}

impl Log {
    pub(crate) fn new(objects: Objects, ambient: Arc<dyn Ambient>, project: ProjectName) -> Self {
        let state = Mutex::new(Arc::new(State::origin()));
        let moving = futures::lock::Mutex::new(());
        let (queue, refreshes, folded) = Default::default();
        Self { objects, ambient, project, state, queue, moving, refreshes, folded }
    }

    /// Reads the log to its tail and returns the state there, which is at least as new as the call.
    ///
    /// Of many that ask at once (the ranks of a large save that wait for its commit) one reads for all that came before
    /// it started, and all are told together.
    pub(crate) async fn refresh(self: &Arc<Self>) -> Result<Arc<State>, LogError> {
        match self.join_refresh().await {
            Some(state) => Ok(state),
            // Each has an error of its own.
            None => self.read_to_tail().await,
        }
    }

    /// Returns a refresh that has not begun to read.
    fn join_refresh(self: &Arc<Self>) -> Refresh {
        let mut refreshes = self.refreshes.lock().unwrap_or_else(PoisonError::into_inner);
        let Refreshes { running, next } = &mut *refreshes;
        let (slot, before) = match running {
            Some(running) => (next, Some(running.clone())),
            None => (running, None),
        };
        let begin = || {
            let refresh = Arc::clone(self).refresh_after(before).boxed().shared();
            // It goes on where all who wait for it have gone away: what it holds others need.
            self.ambient.spawn(refresh.clone().map(drop).boxed());
            refresh
        };
        slot.get_or_insert_with(begin).clone()
    }

    async fn refresh_after(self: Arc<Self>, before: Option<Refresh>) -> Option<Arc<State>> {
        if let Some(before) = before {
            before.await;
        }
        // A panic is that of whoever reads by itself then, and of nobody who comes later.
        let read = AssertUnwindSafe(self.read_to_tail()).catch_unwind().await;
        let mut refreshes = self.refreshes.lock().unwrap_or_else(PoisonError::into_inner);
        refreshes.running = refreshes.next.take();
        read.ok()?.ok()
    }

    /// Makes the record of a state durable, whoever wrote it: before what it says is acknowledged.
    pub(crate) async fn keep(&self, state: &State) -> Result<(), LogError> {
        if state.seq == 0 {
            return Ok(());
        }
        let kept = self.objects.keep_names(vec![keys::record(&self.project, state.seq)]).await;
        kept.map_err(|source| self.store_error(source))
    }

    /// Like [`refresh`](Self::refresh), for who will write after the state. What this process has seen before must
    /// still stand: it is forgotten where the log was lost and rebuilt meanwhile, as a record after it would join two
    /// logs.
    pub(super) async fn refresh_to_write(self: &Arc<Self>) -> Result<Arc<State>, LogError> {
        let before = self.seen();
        let stands = async {
            match before.seq {
                0 => Ok(true),
                _ => self.stands_on_its_record(&before).await,
            }
        };
        let (stands, refreshed) = futures::join!(stands, self.refresh());
        if stands? {
            return refreshed;
        }
        {
            let _moving = self.moving.lock().await;
            *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(State::origin());
            self.folded.store(0, Ordering::Relaxed);
        }
        self.refresh().await
    }

    async fn read_to_tail(&self) -> Result<Arc<State>, LogError> {
        let _moving = self.moving.lock().await;
        if self.seen().seq == 0
            && let Some(folded) = self.load_folded(u64::MAX).await?
        {
            self.folded.store(folded.seq, Ordering::Relaxed);
            *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(folded);
        }
        let (mut seq, mut head) = {
            let seen = self.seen();
            (seen.seq, seen.head)
        };
        let mut ahead = 1;
        loop {
            let (records, more) = self.read_ahead(seq, head, ahead).await;
            (seq, head) = self.fold(&records);
            if !more? {
                return Ok(self.seen());
            }
            ahead = (ahead * 2).min(READ_AHEAD);
        }
    }

    /// Folds records that follow the newest state; returns number and digest of the last. A state that nobody else
    /// holds is changed in place: a copy for each batch of a long log would cost more than its records.
    fn fold(&self, records: &[(Record, Digest)]) -> (u64, Digest) {
        let mut seen = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !records.is_empty() {
            let state = Arc::make_mut(&mut seen);
            records.iter().for_each(|(record, digest)| state.fold(record, *digest));
        }
        (seen.seq, seen.head)
    }

    /// Returns the newest state that this process has seen, without asking the store.
    pub(crate) fn seen(&self) -> Arc<State> {
        Arc::clone(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a record that this process has just created, without reading it again.
    pub(super) async fn advance(&self, record: &Record, digest: Digest) {
        let _moving = self.moving.lock().await;
        let mut seen = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.seq + 1 == record.seq && seen.head == record.prev {
            Arc::make_mut(&mut seen).fold(record, digest);
        }
    }

    /// Writes the folded state where enough records have come since the last one.
    ///
    /// A failure is not an error: the state is a cache, later readers fold more records and a later append tries again.
    pub(super) async fn keep_folded(&self) {
        let state = self.seen();
        if state.seq < self.folded.load(Ordering::Relaxed) + FOLD_EVERY {
            return;
        }
        self.folded.store(state.seq, Ordering::Relaxed);
        if !self.keep_at(&state).await {
            return;
        }
        // Those at fences are the collectors'.
        let fences: BTreeSet<u64> = state.fences.iter().map(|fence| fence.seq).collect();
        let keys = self.folded_keys().await.unwrap_or_default();
        self.forget(keys.iter().filter(|(seq, _)| !fences.contains(seq)).skip(FOLDED_KEPT)).await;
    }

    /// Writes a folded state; tells whether that went well.
    pub(crate) async fn keep_at(&self, state: &Arc<State>) -> bool {
        let copy = Arc::clone(state);
        let bytes = self.ambient.computed(move || seal(&*copy).0).await;
        self.objects.put_cache(&keys::folded(&self.project, state.seq), Bytes::from(bytes)).await.is_ok()
    }

    /// Deletes folded states. A failure is not an error: they are caches.
    pub(super) async fn forget<'k>(&self, old: impl Iterator<Item = &'k (u64, String)>) {
        for (_, key) in old {
            if self.objects.delete_cache(key).await.is_err() {
                return;
            }
        }
    }

    /// Lists the folded states, newest first: number and key.
    pub(crate) async fn folded_keys(&self) -> Result<Vec<(u64, String)>, StoreError> {
        let mut found: Vec<(u64, String)> = self
            .objects
            .list(&keys::folded_states(&self.project))
            .await?
            .into_iter()
            .filter_map(|(key, _)| Some((keys::folded_seq(&key)?, key)))
            .collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        Ok(found)
    }

    /// Loads the newest folded state of record `most` or before.
    pub(super) async fn load_folded(&self, most: u64) -> Result<Option<State>, LogError> {
        let keys = self.folded_keys().await.map_err(|source| self.store_error(source))?;
        for (seq, key) in keys.into_iter().filter(|(seq, _)| *seq <= most) {
            let bytes = match self.objects.get(&key, MAX_FOLDED_BYTES).await {
                Ok(bytes) => bytes,
                // A cache entry that can't be read is passed over whatever the reason: the records say the same, and
                // where the store itself is down they say that.
                Err(_) => continue,
            };
            let folded = self.ambient.computed(move || unseal::<State>(&bytes, MAX_FOLDED_BYTES)).await;
            // A damaged or foreign cache entry is passed over; an older one or the records themselves say the same.
            let Ok((state, _)) = folded else { continue };
            if seq == state.seq && self.stands_on_its_record(&state).await? {
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    async fn stands_on_its_record(&self, state: &State) -> Result<bool, LogError> {
        match self.objects.get(&keys::record(&self.project, state.seq), MAX_RECORD_BYTES).await {
            Ok(bytes) => Ok(unseal::<Record>(&bytes, MAX_RECORD_BYTES).is_ok_and(|(_, digest)| digest == state.head)),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(source) => Err(self.store_error(source)),
        }
    }

    /// Reads up to `ahead` records after number `seq`, whose digest is `head`; says whether there may be more. Those
    /// before one that can't be read are returned too.
    pub(super) async fn read_ahead(
        &self,
        mut seq: u64,
        mut head: Digest,
        ahead: u64,
    ) -> (Vec<(Record, Digest)>, Result<bool, LogError>) {
        let mut found = stream::iter(seq + 1..=seq + ahead)
            .map(|seq| async move {
                let key = keys::record(&self.project, seq);
                self.objects.get(&key, MAX_RECORD_BYTES).await
            })
            .buffered(ahead as usize);
        let mut records = Vec::new();
        while let Some(found) = found.next().await {
            let read = match found {
                Ok(bytes) => read_record(&self.project, &bytes, seq + 1, head),
                Err(StoreError::NotFound { .. }) => return (records, Ok(false)),
                Err(source) => Err(self.store_error(source)),
            };
            match read {
                Ok((record, digest)) => {
                    (seq, head) = (seq + 1, digest);
                    records.push((record, digest));
                }
                Err(error) => return (records, Err(error)),
            }
        }
        (records, Ok(true))
    }

    pub(super) fn store_error(&self, source: StoreError) -> LogError {
        LogError::Store { project: self.project.clone(), source }
    }
}

/// Checks the bytes of record `seq`, which must follow the record with digest `prev`.
pub(crate) fn read_record(
    project: &ProjectName,
    bytes: &[u8],
    seq: u64,
    prev: Digest,
) -> Result<(Record, Digest), LogError> {
    let damaged = |source| LogError::Damaged { key: keys::record(project, seq), source };
    Record::unseal(bytes, seq, prev).map_err(damaged)
}
