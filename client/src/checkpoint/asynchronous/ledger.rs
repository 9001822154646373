//! What becomes of saves in the background: who holds memory, what failed, what was committed last.
//!
//! Must never lose a failure: it is told to the next caller, or, where there will be none, to whoever takes those.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::oneshot;
use gigastore_formats::wire::Committed;
use tokio::sync::OwnedSemaphorePermit;

use super::super::save::SaveError;
use super::AsyncSaveError;
use super::pending::Outcome;

/// What takes failures that nobody asked for.
pub(super) type OnLost = Arc<dyn Fn(&AsyncSaveError) + Send + Sync>;

/// The right to one buffer, for as long as a save or any of its bytes is there.
pub(super) struct Slot {
    step: u64,
    ledger: Arc<Ledger>,
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    pub(super) fn new(permit: OwnedSemaphorePermit, ledger: Arc<Ledger>, step: u64) -> Self {
        ledger.entries().held.push_back(step);
        Self { step, ledger, _permit: permit }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let held = &mut self.ledger.entries().held;
        if let Some(at) = held.iter().position(|step| *step == self.step) {
            held.remove(at);
        }
    }
}

/// A save under way. Dropped without an outcome, it was cut off; either way the ledger is told before the slot is free.
pub(super) struct Flight {
    target: String,
    ledger: Arc<Ledger>,
    pub(super) outcome: Option<Result<Committed, SaveError>>,
    _slot: Arc<Slot>,
    told: Option<oneshot::Sender<Outcome>>,
}

impl Flight {
    pub(super) fn new(target: String, ledger: Arc<Ledger>, slot: Arc<Slot>, told: oneshot::Sender<Outcome>) -> Self {
        Self { target, ledger, outcome: None, _slot: slot, told: Some(told) }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let target = std::mem::take(&mut self.target);
        let outcome = match self.outcome.take() {
            Some(Ok(committed)) => Ok(committed),
            Some(Err(source)) => Err(AsyncSaveError::Failed { target, source: Arc::new(source) }),
            None => Err(AsyncSaveError::CutOff { target }),
        };
        match &outcome {
            Ok(committed) => self.ledger.entries().newest = Some(committed.clone()),
            Err(error) => self.ledger.failed(error.clone()),
        }
        if let Some(told) = self.told.take() {
            // Where nobody waits for this save, the ledger tells what failed.
            let _ = told.send(outcome);
        }
    }
}

/// What became of the saves of one saver.
pub(super) struct Ledger {
    entries: Mutex<Entries>,
    on_lost: OnLost,
}

#[derive(Default)]
struct Entries {
    /// Steps whose buffers are in use, oldest first.
    held: VecDeque<u64>,
    /// Failures that nobody was told of: no more than saves are under way at once, as a save tells before it begins.
    failures: VecDeque<AsyncSaveError>,
    newest: Option<Committed>,
    /// Whether the saver is gone.
    orphaned: bool,
}

impl Ledger {
    pub(super) fn new(on_lost: OnLost) -> Self {
        Self { entries: Mutex::default(), on_lost }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a failure that nobody was told of, and forgets it.
    pub(super) fn surface(&self) -> Result<(), AsyncSaveError> {
        self.entries().failures.pop_front().map_or(Ok(()), Err)
    }

    /// Forgets a failure that somebody was told of.
    pub(super) fn told(&self, error: &AsyncSaveError) {
        let is_other = |other: &AsyncSaveError| match (other, error) {
            (AsyncSaveError::Failed { source: a, .. }, AsyncSaveError::Failed { source: b, .. }) => !Arc::ptr_eq(a, b),
            (AsyncSaveError::CutOff { target: a }, AsyncSaveError::CutOff { target: b }) => a != b,
            _ => true,
        };
        self.entries().failures.retain(is_other);
    }

    /// Returns the oldest step whose buffer is in use.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.entries().held.front().copied()
    }

    /// Returns what was committed last.
    pub(super) fn newest(&self) -> Option<Committed> {
        self.entries().newest.clone()
    }

    fn failed(&self, error: AsyncSaveError) {
        let mut entries = self.entries();
        if entries.orphaned {
            drop(entries);
            (self.on_lost)(&error);
        } else {
            entries.failures.push_back(error);
        }
    }

    /// Takes note that nobody will ask any more.
    pub(super) fn orphan(&self) {
        let failures = {
            let mut entries = self.entries();
            entries.orphaned = true;
            std::mem::take(&mut entries.failures)
        };
        failures.iter().for_each(|error| (self.on_lost)(error));
    }
}
