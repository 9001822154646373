//! Reads of objects, shared: a block that many clients ask for at once is read once, and kept for those who come later.
//!
//! Objects are named by their content and never change, so that a block once read stays right. A store on this machine
//! is read past the cache: the system keeps its files in memory already. Blocks are kept as they were read: whoever has
//! digests checks them, and has those forgotten that are wrong.
//!
//! Must never keep more bytes than it was given, nor answer from memory for an object that was never there.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use gigastore_engine::Engine;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::{Fault, FaultCode};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::OnceCell;

/// Bytes of a block: whole groups of both sizes, and long enough that a store's latency is small beside its transfer.
pub(crate) const BLOCK_BYTES: u64 = 2 << 20;

/// Lengths that are kept: 100,000 of some 100 bytes.
const LENGTHS_KEPT: usize = 100_000;

type Object = (ProjectName, ObjectKind, Stored);

/// Reads through memory.
#[derive(Debug)]
pub(crate) struct Cache {
    engine: Engine,
    /// Bytes to keep; 0 reads past the cache.
    capacity: u64,
    kept: Mutex<Kept>,
    /// Blocks found, and blocks that had to be read.
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
}

#[derive(Debug, Default)]
struct Kept {
    blocks: HashMap<(Object, u64), Block>,
    /// Complete blocks by their last use.
    by_use: BTreeMap<u64, (Object, u64)>,
    uses: u64,
    bytes: u64,
    lengths: HashMap<Object, u64>,
}

#[derive(Debug)]
struct Block {
    cell: Arc<OnceCell<Bytes>>,
    /// The last use of a complete block; `None` while it is being read.
    used: Option<u64>,
}

impl Cache {
    pub(crate) fn new(engine: Engine, capacity: u64) -> Self {
        let (hits, misses) = (Counter::default(), Counter::default());
        Self { engine, capacity, kept: Mutex::default(), hits, misses }
    }

    /// Returns the bytes that are kept.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the length of an object; `None` where it is not there.
    pub(crate) async fn len(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        object: Stored,
    ) -> Result<Option<u64>, Fault> {
        let key = (project.clone(), kind, object);
        if self.capacity > 0
            && let Some(len) = self.lock().lengths.get(&key).copied()
        {
            return Ok(Some(len));
        }
        let lengths = self.engine.lengths(project, kind, &[object]).await.map_err(|error| Fault::from(&error))?;
        let found = lengths.first().copied().flatten();
        if let (Some(len), true) = (found, self.capacity > 0) {
            let lengths = &mut self.lock().lengths;
            if lengths.len() >= LENGTHS_KEPT {
                lengths.clear();
            }
            lengths.insert(key, len);
        }
        Ok(found)
    }

    /// Reads exactly `range` of an object of `len` bytes.
    pub(crate) async fn read(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        object: Stored,
        range: ByteRange,
        len: u64,
    ) -> Result<Bytes, Fault> {
        if self.capacity == 0 {
            return self.ask_store(project, kind, object, range).await;
        }
        if range.end() > len {
            let text = format!("{range} does not lie within the {len} bytes of {}", object.key(kind));
            return Err(Fault { object: Some(object.key(kind)), ..Fault::of(FaultCode::Integrity, text) });
        }
        let (first, last) = (range.start() / BLOCK_BYTES, range.end().saturating_sub(1) / BLOCK_BYTES);
        let mut gathered = BytesMut::new();
        for block in first..=last {
            let bytes = self.block((project.clone(), kind, object), block, len).await?;
            let start = block * BLOCK_BYTES;
            let from = (range.start().max(start) - start) as usize;
            let to = (range.end().min(start + BLOCK_BYTES) - start) as usize;
            if first == last {
                return Ok(bytes.slice(from..to));
            }
            gathered.extend_from_slice(&bytes[from..to]);
        }
        Ok(gathered.freeze())
    }

    /// Returns a block: kept, being read by somebody else, or read now.
    async fn block(&self, object: Object, block: u64, len: u64) -> Result<Bytes, Fault> {
        let start = block * BLOCK_BYTES;
        let range = ByteRange::new(start, (start + BLOCK_BYTES).min(len));
        let range = range.map_err(|error| Fault::new(FaultCode::Invalid, &error))?;
        let key = (object, block);
        let cell = self.lock().cell(&key);
        if let Some(bytes) = cell.get() {
            self.hits.inc();
            return Ok(bytes.clone());
        }
        let asking = Asking { cache: self, key, cell };
        let (project, kind, stored) = &asking.key.0;
        let mut read_here = false;
        let read = asking.cell.get_or_try_init(|| {
            read_here = true;
            self.ask_store(project, *kind, *stored, range)
        });
        let bytes = read.await?.clone();
        if read_here {
            self.misses.inc();
            self.lock().complete(&asking.key, &asking.cell, bytes.len() as u64, self.capacity);
        } else {
            self.hits.inc();
        }
        Ok(bytes)
    }

    /// Forgets the length of an object.
    pub(crate) fn forget_len(&self, project: &ProjectName, kind: ObjectKind, object: Stored) {
        self.lock().lengths.remove(&(project.clone(), kind, object));
    }

    /// Forgets the blocks of a range, so that whoever reads them next reads them from the store: what is kept was never
    /// verified, and a client that found it wrong must be able to ask again. Tells whether there is anything to forget.
    pub(crate) fn forget(&self, project: &ProjectName, kind: ObjectKind, object: Stored, range: ByteRange) -> bool {
        if self.capacity == 0 {
            return false;
        }
        let mut kept = self.lock();
        let object = (project.clone(), kind, object);
        for block in range.start() / BLOCK_BYTES..range.end().div_ceil(BLOCK_BYTES) {
            kept.forget(&(object.clone(), block));
        }
        true
    }

    async fn ask_store(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        object: Stored,
        range: ByteRange,
    ) -> Result<Bytes, Fault> {
        self.engine.read(project, kind, &object, range).await.map_err(|error| Fault::from(&error))
    }
}

impl Kept {
    /// Finds the cell of a block, or makes an empty one.
    fn cell(&mut self, key: &(Object, u64)) -> Arc<OnceCell<Bytes>> {
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

    /// Counts a block that has been read, and lets the longest unused go until all fit.
    fn complete(&mut self, key: &(Object, u64), cell: &Arc<OnceCell<Bytes>>, len: u64, capacity: u64) {
        self.uses += 1;
        let now = self.uses;
        let Some(block) = self.blocks.get_mut(key).filter(|block| Arc::ptr_eq(&block.cell, cell)) else { return };
        block.used = Some(now);
        self.by_use.insert(now, key.clone());
        self.bytes += len;
        while self.bytes > capacity {
            let Some((_, oldest)) = self.by_use.pop_first() else { return };
            let gone = self.blocks.remove(&oldest).and_then(|block| block.cell.get().map(Bytes::len));
            self.bytes -= gone.unwrap_or_default() as u64;
        }
    }

    /// Forgets a block, complete or being read: who waits for it gets it, and nobody after them.
    fn forget(&mut self, key: &(Object, u64)) {
        let Some(block) = self.blocks.remove(key) else { return };
        if let Some(used) = block.used {
            self.by_use.remove(&used);
            self.bytes -= block.cell.get().map_or(0, Bytes::len) as u64;
        }
    }
}

/// Somebody who waits for a block. The last one to go takes away what was never read: the store failed, or all who
/// waited were cut off.
struct Asking<'a> {
    cache: &'a Cache,
    key: (Object, u64),
    cell: Arc<OnceCell<Bytes>>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut kept = self.cache.lock();
        let unread = |block: &Block| Arc::ptr_eq(&block.cell, &self.cell) && block.cell.get().is_none();
        // Cells are handed out under the lock: two owners are the map and this one.
        if Arc::strong_count(&self.cell) == 2 && kept.blocks.get(&self.key).is_some_and(unread) {
            kept.blocks.remove(&self.key);
        }
    }
}
