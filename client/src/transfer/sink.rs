//! Where the bytes of a restore go: buffers of the caller, or a local file.
//!
//! Sinks are owned while a restore runs and given back after it; one that fails or is cancelled may have threads at
//! work still, which [`Sink::close`] keeps from memory that its caller wants back. Memory is lent out to be filled
//! where it lies, by as many threads as like, each a part that nobody else has. Must never be left with bytes that were
//! not verified: whoever fills lent memory clears what does not match.

#![allow(unsafe_code, reason = "threads fill parts of one buffer at once; the parts are kept apart here")]

use std::cell::UnsafeCell;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Takes bytes at positions, from any thread.
pub trait Sink: Send + Sync + 'static {
    /// Returns how many bytes fit.
    fn len(&self) -> u64;

    /// Tells whether no bytes fit.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Lends the memory of `len` bytes from `offset` on, to be filled in place; `None` where the sink is no memory, or
    /// somebody else has a part of it just now.
    fn lend(&self, offset: u64, len: u64) -> Option<Lent<'_>> {
        let _ = (offset, len);
        None
    }

    /// Takes no more bytes, and waits until nobody has a part of the memory: after it the caller has it for itself,
    /// whatever threads of a restore that failed or was cancelled still do.
    fn close(&self) {}
}

/// A buffer of the caller: a `Vec<u8>`, a mapped file, memory of another runtime.
pub struct BufferSink<B> {
    /// Touched only by `new` and `into_inner`, which have the sink for themselves.
    buffer: UnsafeCell<B>,
    start: *mut u8,
    len: usize,
    lent: Regions,
}

// SAFETY: the buffer may go from thread to thread (`B: Send`); what `start` points at is the buffer's own memory.
unsafe impl<B: Send> Send for BufferSink<B> {}
// SAFETY: shared threads reach the memory only through `lend`, which never gives two of them the same byte, and never
// reach `B` itself.
unsafe impl<B: Send> Sync for BufferSink<B> {}

impl<B> fmt::Debug for BufferSink<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferSink").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<B: AsMut<[u8]> + Send + 'static> BufferSink<B> {
    /// Takes the buffer; its whole length will be filled.
    pub fn new(buffer: B) -> Arc<Self> {
        let buffer = UnsafeCell::new(buffer);
        let mut sink = Arc::new(Self { buffer, start: std::ptr::null_mut(), len: 0, lent: Regions::default() });
        // Asked for where it stays: a buffer that holds its bytes in itself moves with them.
        let own = Arc::get_mut(&mut sink).expect("nobody else has it yet");
        let bytes = own.buffer.get_mut().as_mut();
        (own.start, own.len) = (bytes.as_mut_ptr(), bytes.len());
        sink
    }

    /// Gives the buffer back; `None` while a restore still holds the sink.
    pub fn into_inner(self: Arc<Self>) -> Option<B> {
        Arc::into_inner(self).map(|sink| sink.buffer.into_inner())
    }
}

impl<B: AsMut<[u8]> + Send + 'static> Sink for BufferSink<B> {
    fn len(&self) -> u64 {
        self.len as u64
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let len = bytes.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > self.len()) {
            let text = format!("{len} bytes at {offset} do not fit a buffer of {} bytes", self.len);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let busy = || io::Error::new(io::ErrorKind::ResourceBusy, "two parts of one restore go to the same bytes");
        self.lend(offset, len).ok_or_else(busy)?.copy_from_slice(bytes);
        Ok(())
    }

    fn lend(&self, offset: u64, len: u64) -> Option<Lent<'_>> {
        let (offset, len) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
        let region = offset..offset.checked_add(len).filter(|end| *end <= self.len)?;
        let claim = self.lent.claim(region.clone())?;
        // SAFETY: the region lies inside the buffer, which lives as long as `self` and is not moved or touched
        // otherwise meanwhile; the claim keeps everybody else from any byte of it until `Lent` is dropped.
        let memory = unsafe { std::slice::from_raw_parts_mut(self.start.add(region.start), len) };
        Some(Lent { memory, _claim: claim })
    }

    fn close(&self) {
        self.lent.close();
    }
}

/// Memory of a sink that nobody else has; given back when dropped.
pub struct Lent<'s> {
    memory: &'s mut [u8],
    _claim: Claim<'s>,
}

impl Deref for Lent<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory
    }
}

/// Regions of one buffer that are lent out: as many as there are threads at work, so that a look at all is short.
#[derive(Default)]
struct Regions {
    lent: Mutex<Lending>,
    returned: Condvar,
}

#[derive(Default)]
struct Lending {
    regions: Vec<Range<usize>>,
    closed: bool,
}

struct Claim<'s> {
    regions: &'s Regions,
    region: Range<usize>,
}

impl Regions {
    fn claim(&self, region: Range<usize>) -> Option<Claim<'_>> {
        let mut lent = self.lock();
        if lent.closed || lent.regions.iter().any(|other| region.start < other.end && other.start < region.end) {
            return None;
        }
        lent.regions.push(region.clone());
        Some(Claim { regions: self, region })
    }

    fn close(&self) {
        let mut lent = self.lock();
        lent.closed = true;
        while !lent.regions.is_empty() {
            lent = self.returned.wait(lent).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lending> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut lent = self.regions.lock();
        if let Some(at) = lent.regions.iter().position(|region| *region == self.region) {
            lent.regions.swap_remove(at);
        }
        if lent.closed {
            self.regions.returned.notify_all();
        }
    }
}

/// A region of a local file.
#[derive(Debug)]
pub struct FileSink {
    file: Arc<File>,
    offset: u64,
    len: u64,
}

impl FileSink {
    /// Returns the sink of `offset..offset + len` of a file open for writing.
    pub fn new(file: Arc<File>, offset: u64, len: u64) -> Arc<Self> {
        Arc::new(Self { file, offset, len })
    }
}

impl Sink for FileSink {
    fn len(&self) -> u64 {
        self.len
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.offset + offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_lent_once_and_given_back() {
        let sink = BufferSink::new(vec![0; 10]);
        let mut first = sink.lend(2, 4).unwrap();
        first.fill(7);
        assert!(sink.lend(0, 3).is_none() && sink.lend(5, 1).is_none(), "somebody has a part of it");
        assert!(sink.write_at(3, b"x").is_err());
        let second = sink.lend(6, 4).unwrap();
        assert!(sink.lend(9, 2).is_none() && sink.lend(u64::MAX, 2).is_none(), "past the end");
        drop((first, second));
        sink.write_at(0, b"ab").unwrap();
        assert_eq!(sink.into_inner().unwrap(), [b'a', b'b', 7, 7, 7, 7, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_closed_waits_for_what_is_lent_and_takes_no_more() {
        let sink = BufferSink::new(vec![0; 8]);
        let mut lent = sink.lend(0, 4).unwrap();
        let closing = Arc::clone(&sink);
        let closed = std::thread::spawn(move || closing.close());
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!closed.is_finished(), "somebody has a part of it");
        lent.fill(1);
        drop(lent);
        closed.join().unwrap();
        assert!(sink.lend(4, 4).is_none() && sink.write_at(4, b"x").is_err());
        assert_eq!(sink.into_inner().unwrap(), [1, 1, 1, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn a_buffer_that_holds_its_own_bytes_is_filled_where_it_lies() {
        let sink = BufferSink::new([0; 64]);
        let held = Arc::clone(&sink);
        std::thread::scope(|scope| {
            for i in 0..8 {
                let sink = &sink;
                scope.spawn(move || sink.write_at(i * 8, &[i as u8; 8]).unwrap());
            }
        });
        drop(held);
        let expected: Vec<u8> = (0..64).map(|i| i / 8).collect();
        assert_eq!(sink.into_inner().unwrap()[..], expected);
    }
}
