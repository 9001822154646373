//! What becomes of saves in the background: who holds memory, what failed, what was committed last.
//!
//! Must never lose a failure: it is told to the next caller, or, where there will be none, to whoever takes those.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gigastore_formats::wire::Committed;
use tokio::sync::OwnedSemaphorePermit;

use super::super::save::SaveError;
use super::AsyncSaveError;

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
}

impl Flight {
    pub(super) fn new(target: String, ledger: Arc<Ledger>, slot: Arc<Slot>) -> Self {
        Self { target, ledger, outcome: None, _slot: slot }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let target = std::mem::take(&mut self.target);
        match self.outcome.take() {
            Some(Ok(committed)) => self.ledger.entries().newest = Some(committed),
            Some(Err(source)) => self.ledger.failed(AsyncSaveError::Failed { target, source }),
            None => self.ledger.failed(AsyncSaveError::CutOff { target }),
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
