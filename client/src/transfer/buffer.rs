//! Large buffers, page-aligned, in huge pages where the system has them, and used again: fresh memory costs more than
//! the copy into it (on Linux, filling 4 KiB pages for the first time runs at about a seventh of the speed of warm
//! memory).
//!
//! Anonymous maps of memmap2. Must never hand out a buffer that somebody still reads.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use gigastore_formats::ambient::Ambient;
use memmap2::{MmapMut, MmapOptions};

use super::{copy, huge};

/// Sizes are rounded up to this: 2 MiB, a huge page of x86-64 and of most others.
const STEP_BYTES: usize = 2 << 20;

/// Buffers that are kept when nobody uses them, unless set. More are given back to the system.
const KEPT: usize = 8;

/// The smallest page of common systems. One byte written in each makes the system give all of them.
const PAGE_BYTES: usize = 4096;

/// Buffers of one process.
#[derive(Clone, Debug, Default)]
pub struct BufferPool {
    shelf: Arc<Shelf>,
}

/// Buffers that nobody uses.
#[derive(Debug)]
struct Shelf {
    free: Mutex<Vec<MmapMut>>,
    most: Most,
    made: AtomicU64,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
enum Most {
    /// So many buffers.
    Buffers(usize),
    /// So many bytes, which the system may take while nobody uses them.
    Bytes(u64),
}

impl Default for Shelf {
    fn default() -> Self {
        Self { free: Mutex::default(), most: Most::Buffers(KEPT), made: AtomicU64::new(0) }
    }
}

/// A buffer of its pool; it goes back there when dropped, or when the last [`Bytes`] of it is.
#[derive(Debug)]
pub struct Buffer {
    /// Taken out only on drop.
    map: Option<MmapMut>,
    len: usize,
    shelf: Arc<Shelf>,
}

impl BufferPool {
    /// Returns a pool that keeps `most` buffers when nobody uses them.
    pub fn keeping(most: usize) -> Self {
        Self::of(Most::Buffers(most))
    }

    /// Returns a pool that keeps buffers of at most so many bytes when nobody uses them, for as long as the system is
    /// not short of memory.
    pub fn holding(bytes: u64) -> Self {
        Self::of(Most::Bytes(bytes))
    }

    fn of(most: Most) -> Self {
        Self { shelf: Arc::new(Shelf { most, ..Shelf::default() }) }
    }

    /// Returns the memory that a buffer of `len` bytes takes.
    pub(crate) fn size(len: u64) -> u64 {
        len.max(1).next_multiple_of(STEP_BYTES as u64)
    }

    /// Returns how many buffers it took from the system so far.
    pub fn made(&self) -> u64 {
        self.shelf.made.load(Ordering::Relaxed)
    }

    /// Returns a buffer of `len` bytes, of any content. Fails where the system has no memory.
    pub fn take(&self, len: usize) -> io::Result<Buffer> {
        // One that is much longer is left to whoever needs it.
        let fits = |map: &MmapMut| (len..=len.saturating_mul(2).max(STEP_BYTES)).contains(&map.len());
        let kept = {
            let mut free = self.shelf.free.lock().unwrap_or_else(PoisonError::into_inner);
            let best = (0..free.len()).filter(|&i| fits(&free[i])).min_by_key(|&i| free[i].len());
            if best.is_none()
                && let Most::Bytes(_) = self.shelf.most
            {
                make_room(&mut free, len);
            }
            best.map(|i| free.swap_remove(i))
        };
        let map = match kept {
            Some(map) => map,
            None => {
                let map = fresh(len)?;
                self.shelf.made.fetch_add(1, Ordering::Relaxed);
                map
            }
        };
        Ok(Buffer { map: Some(map), len, shelf: Arc::clone(&self.shelf) })
    }
}

/// Gives back as much as is about to be taken from the system, so that buffers which nobody needs any more do not add
/// to those in use.
fn make_room(free: &mut Vec<MmapMut>, len: usize) {
    let mut given = 0;
    while given < len
        && let Some(map) = free.pop()
    {
        given += map.len();
    }
}

fn fresh(len: usize) -> io::Result<MmapMut> {
    let size = len.max(1).checked_next_multiple_of(STEP_BYTES).ok_or(io::ErrorKind::OutOfMemory)?;
    let map = MmapOptions::new().len(size).map_anon()?;
    // Only advice: where there are no huge pages, ordinary ones serve.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        match &mut self.map {
            Some(map) => &mut map[..self.len],
            None => &mut [],
        }
    }
}

impl Buffer {
    /// Forgets the bytes from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes the system give the memory of the buffer now, on all cores, rather than when it is first written to. Its
    /// content is lost.
    pub(crate) fn touch(&mut self, ambient: &dyn Ambient) {
        copy::in_pieces(ambient, self.as_mut(), |_, piece| {
            for page in piece.chunks_mut(PAGE_BYTES) {
                page[0] = 0;
            }
        });
    }

    /// Ends writing: the bytes can be shared and sliced without a copy.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        match &self.map {
            Some(map) => &map[..self.len],
            None => &[],
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(map) = self.map.take() else { return };
        if let Most::Bytes(_) = self.shelf.most {
            huge::lend(&map);
        }
        let mut free = self.shelf.free.lock().unwrap_or_else(PoisonError::into_inner);
        let room = match self.shelf.most {
            Most::Buffers(most) => free.len() < most,
            Most::Bytes(most) => free.iter().map(|map| map.len()).sum::<usize>() + map.len() <= most as usize,
        };
        if room {
            free.push(map);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_when_the_last_reader_is_gone() {
        let pool = BufferPool::default();
        let mut buffer = pool.take(3).unwrap();
        buffer.as_mut().copy_from_slice(b"abc");
        let bytes = buffer.freeze();
        let part = bytes.slice(1..);
        drop(bytes);
        assert!(pool.shelf.free.lock().unwrap().is_empty(), "somebody still reads it");
        assert_eq!(part, b"bc"[..]);
        drop(part);
        assert_eq!(pool.shelf.free.lock().unwrap().len(), 1);
        let again = pool.take(STEP_BYTES).unwrap();
        assert!(pool.shelf.free.lock().unwrap().is_empty());
        assert_eq!(again.as_ref().len(), STEP_BYTES);
    }
}
