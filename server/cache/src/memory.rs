//! Blocks in memory by their last use, and the one reading that all who want a block wait for.
//!
//! Must never keep more bytes than it was given, nor a block that nobody has read.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::cache::Object;
use crate::counts::Counts;

/// A block of an object, by its number.
pub(crate) type Key = (Object, u64);

/// Where a block is put by who reads it.
pub(crate) type Cell = Arc<OnceCell<Bytes>>;

/// Blocks in memory.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Bytes to keep; with 0 a block is there only for those who wait for it.
    pub(crate) capacity: u64,
    kept: Mutex<Kept>,
    pub(crate) counts: Counts,
}

#[derive(Debug, Default)]
struct Kept {
    blocks: HashMap<Key, Block>,
    /// Complete blocks by their last use.
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Block {
    cell: Cell,
    /// The last use of a complete block; `None` while it is being read.
    used: Option<u64>,
}

impl Memory {
    pub(crate) fn new(capacity: u64) -> Self {
        Self { capacity, kept: Mutex::default(), counts: Counts::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a block, complete or being read, or an empty place for it.
    pub(crate) fn asking(&self, key: Key) -> Asking<'_> {
        let cell = self.lock().cell(&key);
        Asking { memory: self, key, cell }
    }

    /// Counts a block that was just read as kept, and lets the longest unused go until all fit.
    pub(crate) fn complete(&self, key: &Key, cell: &Cell, len: u64) {
        let mut kept = self.lock();
        let gone = kept.complete(key, cell, len, self.capacity);
        self.counts.evicted(gone);
        self.counts.keeps(kept.bytes);
    }

    /// Forgets a block, complete or being read: who waits for it gets it, and nobody after them.
    pub(crate) fn forget(&self, key: &Key) {
        let mut kept = self.lock();
        kept.forget(key);
        self.counts.keeps(kept.bytes);
    }
}

impl Kept {
    fn cell(&mut self, key: &Key) -> Cell {
        self.uses += 1;
        let now = self.uses;
        let block =
            self.blocks.entry(key.clone()).or_insert_with(|| Block { cell: Arc::new(OnceCell::new()), used: None });
        if let Some(used) = block.used.replace(now) {
            self.by_use.remove(&used);
            self.by_use.insert(now, key.clone());
        } else {
            block.used = None;
        }
        Arc::clone(&block.cell)
    }

    /// Returns how many others had to go.
    fn complete(&mut self, key: &Key, cell: &Cell, len: u64, capacity: u64) -> u64 {
        self.uses += 1;
        let now = self.uses;
        let Some(block) = self.blocks.get_mut(key).filter(|block| Arc::ptr_eq(&block.cell, cell)) else { return 0 };
        block.used = Some(now);
        self.by_use.insert(now, key.clone());
        self.bytes += len;
        let mut evicted = 0;
        while self.bytes > capacity {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            let gone = self.blocks.remove(&oldest).and_then(|block| block.cell.get().map(Bytes::len));
            self.bytes -= gone.unwrap_or_default() as u64;
            evicted += u64::from(oldest != *key);
        }
        evicted
    }

    fn forget(&mut self, key: &Key) {
        let Some(block) = self.blocks.remove(key) else { return };
        if let Some(used) = block.used {
            self.by_use.remove(&used);
            self.bytes -= block.cell.get().map_or(0, Bytes::len) as u64;
        }
    }
}

/// Somebody who waits for a block. The last one to go takes away what was never read: the store failed, or all who
/// waited were cut off.
pub(crate) struct Asking<'a> {
    memory: &'a Memory,
    pub(crate) key: Key,
    pub(crate) cell: Cell,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut kept = self.memory.lock();
        let unread = |block: &Block| Arc::ptr_eq(&block.cell, &self.cell) && block.cell.get().is_none();
        // Cells are handed out under the lock: two owners are the map and this one.
        if Arc::strong_count(&self.cell) == 2 && kept.blocks.get(&self.key).is_some_and(unread) {
            kept.blocks.remove(&self.key);
        }
    }
}
