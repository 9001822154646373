//! What a cache found, missed, and gave up.
//!
//! Must never decide anything: these are for people.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers of one tier since it was opened.
#[derive(Debug, Default)]
pub struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    bytes: AtomicU64,
    evictions: AtomicU64,
    errors: AtomicU64,
    damaged: AtomicU64,
    skipped: AtomicU64,
}

/// The numbers of one tier at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tier {
    /// Blocks that were there. In memory also those that somebody else was reading already.
    pub hits: u64,
    /// Blocks that were not there, or not sound.
    pub misses: u64,
    /// Bytes that are kept. Of a directory: as this process last saw it, with what it wrote since.
    pub bytes: u64,
    /// Blocks that made room for others.
    pub evictions: u64,
    /// Failures of the file system.
    pub errors: u64,
    /// Files that were not what they should be, and were removed.
    pub damaged: u64,
    /// Blocks that were not written, because the disk was behind or had just failed.
    pub skipped: u64,
}

impl Counts {
    /// Returns the numbers now.
    pub fn now(&self) -> Tier {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Tier {
            hits: of(&self.hits),
            misses: of(&self.misses),
            bytes: of(&self.bytes),
            evictions: of(&self.evictions),
            errors: of(&self.errors),
            damaged: of(&self.damaged),
            skipped: of(&self.skipped),
        }
    }

    pub(crate) fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn keeps(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn evicted(&self, blocks: u64) {
        self.evictions.fetch_add(blocks, Ordering::Relaxed);
    }

    /// Counts a failure; tells whether it is the first.
    pub(crate) fn failed(&self) -> bool {
        self.errors.fetch_add(1, Ordering::Relaxed) == 0
    }

    pub(crate) fn damage(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn skip(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }
}
