//! What a person sees meanwhile: counters that any thread adds to and any thread reads.
//!
//! Must never slow the work: one relaxed addition an event.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one operation. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    total: AtomicU64,
    done: AtomicU64,
    moved: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// Logical bytes of the whole operation, as far as it is planned.
    pub total: u64,
    /// Logical bytes done, whether they were moved or found to be there.
    pub done: u64,
    /// Bytes sent to or read from the store.
    pub moved: u64,
}

impl Progress {
    /// Reads the counters.
    pub fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Snapshot { total: read(&counters.total), done: read(&counters.done), moved: read(&counters.moved) }
    }

    /// Adds to the bytes of the whole operation.
    pub fn plan(&self, bytes: u64) {
        self.counters.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds to the bytes that are done.
    pub fn done(&self, bytes: u64) {
        self.counters.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds to the bytes that were moved.
    pub fn moved(&self, bytes: u64) {
        self.counters.moved.fetch_add(bytes, Ordering::Relaxed);
    }
}
