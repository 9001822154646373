//! A range of a file into one reused buffer, each group checked while it is warm.
//!
//! Must never give a byte that did not match the file's tree.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::range::ByteRange;
use gigastore_formats::verified::{GroupMismatch, GroupTree};
use gigastore_formats::wire::{Fault, FaultCode};

use super::buffer::{Buffer, BufferPool};
use crate::store::Store;
use crate::transport::{Source, Taker};

/// Reads from this length on go to buffers that are kept: 2 MiB, the least that one takes. Shorter ones cost little
/// wherever they go.
pub(crate) const KEPT_FROM_BYTES: u64 = 2 << 20;

/// Where bytes go.
#[derive(Debug)]
enum Memory {
    Kept(Buffer),
    Plain(Vec<u8>),
}

/// Whole groups of a file, as many of them as came so far.
#[derive(Debug)]
struct Gather {
    tree: GroupTree,
    range: ByteRange,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    memory: Memory,
    /// Bytes that came and were right: whole groups.
    filled: usize,
    wrong: Option<GroupMismatch>,
}

/// Reads `range` of a stored object, which must be whole groups of `tree`, into a buffer of `pool`. What does not match
/// is read once more, past all that keeps bytes: what was damaged on its way here is right then.
pub(crate) async fn gather(
    store: &Store,
    project: &ProjectName,
    object: (ObjectKind, &Stored),
    tree: &GroupTree,
    range: ByteRange,
    pool: &BufferPool,
) -> Result<Result<Bytes, GroupMismatch>, Fault> {
    let len = usize::try_from(range.len()).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory));
    let memory = len.and_then(|len| match range.len() < KEPT_FROM_BYTES {
        true => Ok(Memory::Plain(vec![0; len])),
        false => pool.take(len).map(Memory::Kept),
    });
    let memory = memory.map_err(|error| Fault::new(FaultCode::Unavailable, &error))?;
    let state = Mutex::new(State { memory, filled: 0, wrong: None });
    let gather = Arc::new(Gather { tree: tree.clone(), range, state });
    let mut wrong = None;
    for afresh in [false, true] {
        if afresh {
            store.count_refetch();
        }
        store.pass_object(project, object, Arc::<Gather>::clone(&gather), afresh).await?;
        wrong = gather.lock().wrong.take();
        if wrong.is_none() {
            break;
        }
    }
    if let Some(wrong) = wrong {
        return Ok(Err(wrong));
    }
    // Who passed the bytes is done with them, and has all but let go.
    let mut state = gather.lock();
    if state.filled as u64 != range.len() {
        let text =
            format!("{range} of {} was asked for, and {} bytes of it came", object.1.key(object.0), state.filled);
        return Err(Fault::of(FaultCode::Unavailable, text));
    }
    Ok(Ok(match std::mem::replace(&mut state.memory, Memory::Plain(Vec::new())) {
        Memory::Kept(buffer) => buffer.freeze(),
        Memory::Plain(bytes) => bytes.into(),
    }))
}

impl Gather {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is left after so many bytes.
    fn after(&self, filled: usize) -> ByteRange {
        let start = self.range.start() + filled as u64;
        ByteRange::new(start, self.range.end()).expect("no more was filled than there is")
    }
}

impl Taker for Gather {
    fn rest(&self) -> ByteRange {
        let state = self.lock();
        self.after(if state.wrong.is_some() { self.range.len() as usize } else { state.filled })
    }

    fn take(&self, source: &mut dyn Source) -> Result<(), Fault> {
        // One at a time; nobody else takes meanwhile.
        let State { memory, filled, wrong } = &mut *self.lock();
        let memory = match memory {
            Memory::Kept(buffer) => buffer.as_mut(),
            Memory::Plain(bytes) => bytes,
        };
        for index in self.tree.groups_of(self.after(*filled)) {
            let group = self.tree.group_range(index);
            let into = &mut memory[*filled..][..group.len() as usize];
            source.fill_at(group.start(), into)?;
            if let Err(mismatch) = self.tree.check_group(index, into) {
                *wrong = Some(mismatch);
                return Ok(());
            }
            *filled += into.len();
        }
        Ok(())
    }
}
