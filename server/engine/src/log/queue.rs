//! Who waits for a place in the log: what comes while a record is written goes into the next one together, so that
//! small commits do not queue behind a slot each.
//!
//! One task writes for all who wait in this process. It proposes each operation anew for each slot, answers each by its
//! own transaction, and puts at most one operation of a run or dataset into a record: those of one record can't break
//! each other's preconditions. Must never let the refusal of one touch another.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, PoisonError};

use futures::channel::oneshot;
use gigastore_formats::limits::MAX_RECORD_ENTRIES;
use gigastore_formats::name::Name;
use gigastore_formats::record::{Action, Entry, Record, TxnId};
use gigastore_formats::sealed::seal;

use super::append::{Failed, Void};
use super::state::{Outcome, State};
use super::view::Log;

/// Bytes of entries that are put together into one record: 1 MiB, five hundred usual commits. Every reader of the log
/// reads them all; an operation that is longer has a record of its own.
const GROUP_BYTES: usize = 1 << 20;

/// Makes the entries of an operation for the state at the tail; `None` where it is refused, for a reason that its owner
/// keeps.
pub(super) type Propose = Box<dyn FnMut(&State) -> Option<Vec<Entry>> + Send>;

/// An operation that waits for its place.
pub(super) struct Waiting {
    pub(super) txn: TxnId,
    pub(super) propose: Propose,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// What became of an operation.
pub(super) enum Answer {
    /// It took effect in record `seq`; this is the state there or after.
    Took {
        state: Arc<State>,
        seq: u64,
        /// The first of those answered together, who looks after the folded state.
        first: bool,
    },
    /// It stands in the log without effect.
    Void(Void),
    /// Its preconditions do not hold.
    Refused,
    /// It was not appended, or that is not known.
    Failed(Failed),
}

/// Who waits, and whether somebody writes for them.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    writing: bool,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting.len()).field("writing", &self.writing).finish()
    }
}

/// The entries of one record, and whose they are.
#[derive(Default)]
struct Group {
    entries: Vec<Entry>,
    proposed: Vec<Waiting>,
    /// Those that wait for the next record.
    deferred: Vec<Waiting>,
    names: BTreeSet<Name>,
    bytes: usize,
    /// A fence stands alone: what others propose is right for the epoch before it.
    closed: bool,
}

/// Says that nobody writes any more, should the writer panic; those who wait learn it from their answers.
struct Writing<'l>(&'l Log);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            *self.0.queue.lock().unwrap_or_else(PoisonError::into_inner) = Queue::default();
        }
    }
}

impl Log {
    /// Lets an operation wait; begins to write where nobody does.
    pub(super) fn enqueue(self: &Arc<Self>, waiting: Waiting) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.waiting.push_back(waiting);
        if !std::mem::replace(&mut queue.writing, true) {
            let log = Arc::clone(self);
            self.ambient.spawn(Box::pin(async move { log.write_all().await }));
        }
    }

    /// Returns who has come; where nobody has and nobody is left, the writer ends.
    fn arrived(&self, left: usize) -> Vec<Waiting> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_RECORD_ENTRIES.saturating_sub(left).min(queue.waiting.len());
        let arrived: Vec<Waiting> = queue.waiting.drain(..room).collect();
        queue.writing = left > 0 || !arrived.is_empty();
        arrived
    }

    /// Writes until nobody waits.
    async fn write_all(self: &Arc<Self>) {
        let _writing = Writing(self);
        let mut waiting = Vec::new();
        loop {
            let arrived = self.arrived(waiting.len());
            waiting.extend(arrived);
            if waiting.is_empty() {
                return;
            }
            waiting = self.write(waiting).await;
        }
    }

    /// Reads to the tail, and tries to fill the slot after it for those who wait; returns those who still do.
    async fn write(self: &Arc<Self>, waiting: Vec<Waiting>) -> Vec<Waiting> {
        let state = self.refresh_to_write().await;
        let kept = match &state {
            Ok(state) => self.keep(state).await,
            Err(_) => Ok(()),
        };
        let state = match kept.and(state) {
            Ok(state) => state,
            Err(error) => {
                fail(waiting, &Failed::Log(Arc::new(error)));
                return Vec::new();
            }
        };
        let waiting = answered(waiting, &state);
        let Group { entries, mut proposed, deferred, .. } = group(waiting, &state);
        if !entries.is_empty() {
            let record = Record { seq: state.seq + 1, prev: state.head, entries };
            // A state that somebody holds is copied when it moves.
            drop(state);
            match self.fill_slot(&record).await {
                // What this process wrote it need not read again.
                Ok(true) => proposed = answered(proposed, &self.seen()),
                Ok(false) => {}
                Err(failed) => fail(std::mem::take(&mut proposed), &failed),
            }
        }
        proposed.extend(deferred);
        proposed
    }
}

/// Answers those whose transaction stands in the log; returns the others.
fn answered(waiting: Vec<Waiting>, state: &Arc<State>) -> Vec<Waiting> {
    let (mut left, mut first) = (Vec::new(), true);
    for one in waiting {
        let answer = match state.outcome(one.txn) {
            Some(Outcome::Took(seq)) => {
                Answer::Took { state: Arc::clone(state), seq, first: std::mem::replace(&mut first, false) }
            }
            Some(Outcome::Void(seq, reason)) => Answer::Void(Void { seq, reason }),
            // Who has gone away before anything was written wants nothing written.
            None if one.answer.is_canceled() => continue,
            None => {
                left.push(one);
                continue;
            }
        };
        // Who has gone away finds it in the log.
        let _ = one.answer.send(answer);
    }
    left
}

fn fail(waiting: Vec<Waiting>, failed: &Failed) {
    for one in waiting {
        // Who has gone away need not know.
        let _ = one.answer.send(Answer::Failed(failed.clone()));
    }
}

/// Lets each propose for the slot after `state`, and puts together what fits into one record.
fn group(waiting: Vec<Waiting>, state: &State) -> Group {
    let mut group = Group::default();
    for mut one in waiting {
        if group.closed {
            group.deferred.push(one);
            continue;
        }
        match (one.propose)(state) {
            Some(entries) => group.add(one, entries),
            // Who has gone away need not know.
            None => drop(one.answer.send(Answer::Refused)),
        }
    }
    group
}

impl Group {
    fn add(&mut self, one: Waiting, entries: Vec<Entry>) {
        let names: BTreeSet<Name> = entries.iter().filter_map(|entry| name_of(&entry.action).cloned()).collect();
        let fence = entries.iter().any(|entry| name_of(&entry.action).is_none());
        let bytes = seal(&entries).0.len();
        let fits = !fence
            && self.names.is_disjoint(&names)
            && self.entries.len() + entries.len() <= MAX_RECORD_ENTRIES
            && self.bytes + bytes <= GROUP_BYTES;
        if !self.entries.is_empty() && !fits {
            self.deferred.push(one);
            return;
        }
        self.names.extend(names);
        self.bytes += bytes;
        self.closed = fence;
        self.entries.extend(entries);
        self.proposed.push(one);
    }
}

/// The run or dataset that an entry is about; a fence is about all.
fn name_of(action: &Action) -> Option<&Name> {
    match action {
        Action::Commit(commit) => Some(&commit.name),
        Action::Tag { name, .. }
        | Action::Pin { name, .. }
        | Action::Unpin { name, .. }
        | Action::Drop { name, .. }
        | Action::Policy { name, .. } => Some(name),
        Action::Fence { .. } => None,
    }
}
