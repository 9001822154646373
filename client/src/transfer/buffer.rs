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
        let (kept, outgrown) = self.shelf.pick(len);
        // Given back when nobody waits for the shelf any more.
        drop(outgrown);
        let map = match kept {
            Some(mut map) => {
                if let Most::Bytes(_) = self.shelf.most {
                    // Written to, a page is no longer one that the system may take: it would lose what is read to it
                    // past the processor, and whoever looks at it could see it change.
                    touch(&mut map[..len]);
                }
                map
            }
            None => {
                let map = fresh(len)?;
                self.shelf.made.fetch_add(1, Ordering::Relaxed);
                map
            }
        };
        Ok(Buffer { map: Some(map), len, shelf: Arc::clone(&self.shelf) })
    }
}

impl Shelf {
    /// Takes the shortest buffer that has `len` bytes. Where there is none, and what is kept is counted in bytes,
    /// returns some that are in all as long as the one that has to be made, so that buffers which nobody needs do not
    /// add to those in use.
    fn pick(&self, len: usize) -> (Option<MmapMut>, Vec<MmapMut>) {
        // One that is much longer is left to whoever needs it.
        let longest = match self.most {
            Most::Buffers(_) => usize::MAX,
            Most::Bytes(_) => len.saturating_mul(2).max(STEP_BYTES),
        };
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = (0..free.len()).filter(|&i| (len..=longest).contains(&free[i].len()));
        if let Some(best) = fits.min_by_key(|&i| free[i].len()) {
            return (Some(free.swap_remove(best)), Vec::new());
        }
        let (mut count, mut given) = (0, 0);
        while let Most::Bytes(_) = self.most
            && given < len
            && count < free.len()
        {
            given += free[count].len();
            count += 1;
        }
        (None, free.drain(..count).collect())
    }

    /// Keeps a buffer that nobody uses, or returns it where there is no room.
    fn put(&self, map: MmapMut) -> Option<MmapMut> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let room = match self.most {
            Most::Buffers(most) => free.len() < most,
            Most::Bytes(most) => free.iter().map(|map| map.len() as u64).sum::<u64>() + map.len() as u64 <= most,
        };
        if !room {
            return Some(map);
        }
        if let Most::Bytes(_) = self.most {
            huge::lend(&map);
        }
        free.push(map);
        None
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
        copy::in_pieces(ambient, self.as_mut(), |_, piece| touch(piece));
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
        if let Some(map) = self.map.take() {
            drop(self.shelf.put(map));
        }
    }
}

/// Writes to each page.
fn touch(memory: &mut [u8]) {
    for page in memory.chunks_mut(PAGE_BYTES) {
        page[0] = 0;
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

    #[test]
    fn what_a_pool_holds_is_bounded_in_bytes_and_makes_room() {
        let pool = BufferPool::holding(3 * STEP_BYTES as u64);
        let free = || pool.shelf.free.lock().unwrap().len();
        let taken: Vec<Buffer> = (0..4).map(|_| pool.take(STEP_BYTES).unwrap()).collect();
        drop(taken);
        assert_eq!((free(), pool.made()), (3, 4));
        let mut again = pool.take(STEP_BYTES - 5).unwrap();
        again.as_mut().fill(7);
        assert_eq!((free(), pool.made(), again.as_ref()), (2, 4, &[7; STEP_BYTES - 5][..]));
        // None is long enough: what is free goes first, as far as it is needed.
        let long = pool.take(STEP_BYTES + 1).unwrap();
        assert_eq!((free(), pool.made()), (0, 5));
        drop((again, long));
        // And none is taken that is much longer than it must be.
        let short = pool.take(5).unwrap();
        assert_eq!((free(), pool.made()), (1, 5));
        drop(short);
        drop(pool.take(3 * STEP_BYTES).unwrap());
        assert_eq!((free(), pool.made()), (1, 6));
        let short = pool.take(5).unwrap();
        assert_eq!((free(), pool.made(), short.as_ref().len()), (0, 7, 5));
    }
}
