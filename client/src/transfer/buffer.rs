//! Large buffers, page-aligned, in huge pages where the system has them, and used again: fresh memory costs more than
//! the copy into it (on Linux, filling 4 KiB pages for the first time runs at about a seventh of the speed of warm
//! memory).
//!
//! Anonymous maps of memmap2. Must never hand out a buffer that somebody still reads.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use memmap2::{MmapMut, MmapOptions};

/// Sizes are rounded up to this: 2 MiB, a huge page of x86-64 and of most others.
const STEP_BYTES: usize = 2 << 20;

/// Buffers that are kept when nobody uses them. More are given back to the system.
const KEPT: usize = 8;

/// Buffers of one process.
#[derive(Clone, Debug, Default)]
pub struct BufferPool {
    free: Arc<Mutex<Vec<MmapMut>>>,
}

/// A buffer of its pool; it goes back there when dropped, or when the last [`Bytes`] of it is.
#[derive(Debug)]
pub struct Buffer {
    /// Taken out only on drop.
    map: Option<MmapMut>,
    len: usize,
    free: Arc<Mutex<Vec<MmapMut>>>,
}

impl BufferPool {
    /// Returns a buffer of `len` bytes, of any content. Fails where the system has no memory.
    pub fn take(&self, len: usize) -> io::Result<Buffer> {
        let fits = |map: &MmapMut| map.len() >= len;
        let kept = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let best = (0..free.len()).filter(|&i| fits(&free[i])).min_by_key(|&i| free[i].len());
            best.map(|i| free.swap_remove(i))
        };
        let map = match kept {
            Some(map) => map,
            None => fresh(len)?,
        };
        Ok(Buffer { map: Some(map), len, free: Arc::clone(&self.free) })
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
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = self.map.take().filter(|_| free.len() < KEPT) {
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
        assert!(pool.free.lock().unwrap().is_empty(), "somebody still reads it");
        assert_eq!(part, b"bc"[..]);
        drop(part);
        assert_eq!(pool.free.lock().unwrap().len(), 1);
        let again = pool.take(STEP_BYTES).unwrap();
        assert!(pool.free.lock().unwrap().is_empty());
        assert_eq!(again.as_ref().len(), STEP_BYTES);
    }
}
