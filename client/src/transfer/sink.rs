//! Where the bytes of a restore go: buffers of the caller, or a local file.
//!
//! Sinks are owned while a restore runs and given back after it, so that a cancelled restore can never write into
//! memory that its caller has taken back. Must never be written but with verified bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

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
}

/// A buffer of the caller: a `Vec<u8>`, a mapped file, memory of another runtime.
#[derive(Debug)]
pub struct BufferSink<B> {
    len: u64,
    buffer: Mutex<B>,
}

impl<B: AsMut<[u8]> + Send + 'static> BufferSink<B> {
    /// Takes the buffer; its whole length will be filled.
    pub fn new(mut buffer: B) -> Arc<Self> {
        let len = buffer.as_mut().len() as u64;
        Arc::new(Self { len, buffer: Mutex::new(buffer) })
    }

    /// Gives the buffer back; `None` while a restore still holds the sink.
    pub fn into_inner(self: Arc<Self>) -> Option<B> {
        Arc::into_inner(self).map(|sink| sink.buffer.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<B: AsMut<[u8]> + Send + 'static> Sink for BufferSink<B> {
    fn len(&self) -> u64 {
        self.len
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let start = offset as usize;
        let place = buffer.as_mut().get_mut(start..start + bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
        place.copy_from_slice(bytes);
        Ok(())
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
