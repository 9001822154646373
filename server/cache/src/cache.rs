//! One read through both tiers: a block that many ask for at once is read once, and kept for those who come later.
//!
//! Blocks are kept as they were read: whoever has the object's digests checks them, and has those forgotten that are
//! wrong. Must never return bytes of another length than asked for, nor answer for an object that was never there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::{Fault, FaultCode};

use crate::counts::Tier;
use crate::directory::Directory;
use crate::entry::Name;
use crate::memory::{Key, Memory};

/// Bytes of a block: whole groups of any version, and long enough that a store's latency is small beside its transfer.
pub const BLOCK_BYTES: u64 = 2 << 20;

/// Blocks of one read that are asked for at once: 16 MiB of blocks that come from the store hide its latency.
const BLOCKS_AT_ONCE: usize = 8;

/// Lengths that are kept: 100,000 of some 100 bytes.
const LENGTHS_KEPT: usize = 100_000;

/// A stored object of a project.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Object {
    /// Its project.
    pub project: ProjectName,
    /// Its kind.
    pub kind: ObjectKind,
    /// Its name.
    pub stored: Stored,
}

/// Blocks near: in memory, and in a directory where there is one.
#[derive(Debug)]
pub struct Cache {
    memory: Memory,
    directory: Option<Arc<Directory>>,
    lengths: Mutex<HashMap<Object, u64>>,
}

impl Cache {
    /// Keeps up to `memory` bytes in this process, and more in `directory`. With neither, everything is read as it is
    /// asked for.
    pub fn new(memory: u64, directory: Option<Arc<Directory>>) -> Self {
        Self { memory: Memory::new(memory), directory, lengths: Mutex::default() }
    }

    fn keeps(&self) -> bool {
        self.memory.capacity > 0 || self.directory.is_some()
    }

    /// Returns the numbers of the memory, and of the directory where there is one.
    pub fn counts(&self) -> (Tier, Option<Tier>) {
        (self.memory.counts.now(), self.directory.as_ref().map(|directory| directory.counts().now()))
    }

    /// Waits until every block that was read is in the directory, or given up.
    pub async fn settled(&self) {
        if let Some(directory) = &self.directory {
            directory.settled().await;
        }
    }

    /// Returns the length of an object, which `ask` finds out where it is not known; `None` where it is not there. Who
    /// knows that it has `least` bytes is not told less because a store once said so: it is asked again.
    pub async fn len(
        &self,
        object: &Object,
        least: u64,
        ask: impl Future<Output = Result<Option<u64>, Fault>>,
    ) -> Result<Option<u64>, Fault> {
        let kept = self.lengths.lock().unwrap_or_else(PoisonError::into_inner).get(object).copied();
        if let Some(len) = kept.filter(|len| *len >= least) {
            return Ok(Some(len));
        }
        let found = ask.await?;
        if let (Some(len), true) = (found, self.keeps()) {
            let mut lengths = self.lengths.lock().unwrap_or_else(PoisonError::into_inner);
            if lengths.len() >= LENGTHS_KEPT {
                lengths.clear();
            }
            lengths.insert(object.clone(), len);
        }
        Ok(found)
    }

    /// Forgets the length of an object.
    pub fn forget_len(&self, object: &Object) {
        self.lengths.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }

    /// Reads exactly `range` of an object of `len` bytes; what is not kept is asked of `fetch`, in whole blocks.
    pub async fn read<F: Future<Output = Result<Bytes, Fault>>>(
        &self,
        object: &Object,
        range: ByteRange,
        len: u64,
        fetch: impl Fn(ByteRange) -> F,
    ) -> Result<Bytes, Fault> {
        if !self.keeps() {
            return fetch(range).await;
        }
        let key = object.stored.key(object.kind);
        if range.end() > len {
            let text = format!("{range} does not lie within the {len} bytes of {key}");
            return Err(Fault { object: Some(key), ..Fault::of(FaultCode::Integrity, text) });
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (first, last) = (range.start() / BLOCK_BYTES, (range.end() - 1) / BLOCK_BYTES);
        let part = |block: u64, bytes: &Bytes| {
            let start = block * BLOCK_BYTES;
            let from = (range.start().max(start) - start) as usize;
            bytes.slice(from..(range.end().min(start + BLOCK_BYTES) - start) as usize)
        };
        if first == last {
            return Ok(part(first, &self.block((object.clone(), first), len, &fetch).await?));
        }
        let blocks = futures::stream::iter(first..=last)
            .map(|block| self.block((object.clone(), block), len, &fetch))
            .buffered(BLOCKS_AT_ONCE);
        let mut gathered = BytesMut::with_capacity(range.len() as usize);
        let mut blocks =
            std::pin::pin!(blocks.enumerate().map(|(i, block)| block.map(|bytes| (first + i as u64, bytes))));
        while let Some((block, bytes)) = blocks.try_next().await? {
            gathered.extend_from_slice(&part(block, &bytes));
        }
        Ok(gathered.freeze())
    }

    /// Returns a block: kept, being read by somebody else, or read now.
    async fn block<F: Future<Output = Result<Bytes, Fault>>>(
        &self,
        key: Key,
        len: u64,
        fetch: &impl Fn(ByteRange) -> F,
    ) -> Result<Bytes, Fault> {
        let start = key.1 * BLOCK_BYTES;
        let range = ByteRange::new(start, (start + BLOCK_BYTES).min(len));
        let range = range.map_err(|error| Fault::new(FaultCode::Invalid, &error))?;
        let counts = &self.memory.counts;
        loop {
            let asking = self.memory.asking(key.clone());
            let mut read_here = false;
            let read = asking.cell.get_or_try_init(|| {
                read_here = true;
                self.below(&asking.key, range, fetch)
            });
            let bytes = read.await?.clone();
            if read_here {
                counts.miss();
                self.memory.complete(&asking.key, &asking.cell, bytes.len() as u64);
            } else if bytes.len() as u64 == range.len() {
                counts.hit();
            } else {
                // It was read when the object had another length: the store was damaged then, or is now.
                self.memory.forget(&asking.key);
                continue;
            }
            return Ok(bytes);
        }
    }

    /// Reads a block that is not in memory.
    async fn below<F: Future<Output = Result<Bytes, Fault>>>(
        &self,
        key: &Key,
        range: ByteRange,
        fetch: &impl Fn(ByteRange) -> F,
    ) -> Result<Bytes, Fault> {
        let directory = self.directory.as_ref().map(|directory| (directory, name(key)));
        if let Some((directory, name)) = &directory
            && let Some(bytes) = directory.read(*name, range.len()).await
        {
            return Ok(bytes);
        }
        let bytes = fetch(range).await?;
        if bytes.len() as u64 != range.len() {
            let object = key.0.stored.key(key.0.kind);
            let text = format!("{range} of {object} came with {} bytes", bytes.len());
            return Err(Fault { object: Some(object), ..Fault::of(FaultCode::Integrity, text) });
        }
        if let Some((directory, name)) = directory {
            directory.fill(name, bytes.clone());
        }
        Ok(bytes)
    }

    /// Forgets the blocks of a range, so that whoever reads them next reads them from the store: what is kept was never
    /// verified, and whoever found it wrong must be able to ask again. Tells whether there is anything to forget.
    pub async fn forget(&self, object: &Object, range: ByteRange) -> bool {
        if !self.keeps() {
            return false;
        }
        let keys: Vec<Key> = (range.start() / BLOCK_BYTES..range.end().div_ceil(BLOCK_BYTES))
            .map(|block| (object.clone(), block))
            .collect();
        if let Some(directory) = &self.directory {
            directory.forget(keys.iter().map(name).collect()).await;
        }
        // Last: who reads meanwhile may have found in the directory what is forgotten here.
        keys.iter().for_each(|key| self.memory.forget(key));
        true
    }
}

fn name((object, block): &Key) -> Name {
    Name::of(&object.project, object.kind, object.stored.digest, *block)
}
