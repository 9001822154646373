//! Opens an input: packed content is unpacked as it is read, and what was read is counted.
//!
//! Content says itself how it is packed: no UTF-8 text and no Parquet file begins with the first bytes of gzip or zstd.
//! Must never hold more of an input than a few buffers, however much comes out of it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;

use super::{Input, Origin};
use crate::input::find::modified_ns;

/// Bytes read from the system at once: a few hundred microseconds of a disk.
const READ_BYTES: usize = 256 << 10;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const UTF8_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// An input can't be read, or what it is packed in is damaged.
    #[error("{input} can't be read")]
    Io {
        /// The input.
        input: String,
        /// What the system or the decoder said.
        #[source]
        source: io::Error,
    },
    /// A document can't be read.
    #[error("{input}:{number}: {reason}; pass --skip-bad to pass over such documents")]
    Bad {
        /// The input.
        input: String,
        /// The line or row, from 1.
        number: u64,
        /// What is wrong.
        reason: String,
    },
    /// A Parquet file is not sound.
    #[error("{input} is not a sound Parquet file")]
    Parquet {
        /// The input.
        input: String,
        /// What is wrong.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// A Parquet file's footer is not sound.
    #[error("{input} is not a sound Parquet file: {source}")]
    Footer {
        /// The input.
        input: String,
        /// What is wrong.
        source: gigastore_formats::table::FooterError,
    },
    /// A Parquet file has no such column, or one of another type.
    #[error("{input}: column {column:?}: expected {expected}, actual {actual}; pass --text-field or --id-field")]
    Column {
        /// The input.
        input: String,
        /// The column.
        column: String,
        /// What it should be.
        expected: &'static str,
        /// What there is.
        actual: String,
    },
    /// A packed Parquet file is too long to be unpacked.
    #[error("{input}: more than {limit} bytes come out of it: unpack it yourself if that is right")]
    Bomb {
        /// The input.
        input: String,
        /// The limit.
        limit: u64,
    },
    /// An input changed since it was found.
    #[error("{input} changed while it was read; run again with --restart when nobody writes to it")]
    Changed {
        /// The input.
        input: String,
    },
    /// What comes from stdin is not what came when the finished parts were made.
    #[error(
        "stdin: not the bytes that came before (expected BLAKE3 {expected} of the first {bytes}, actual {actual}): \
             give the same bytes, or run with --restart"
    )]
    OtherStdin {
        /// Bytes of text that were read then.
        bytes: u64,
        /// Their digest.
        expected: String,
        /// That of those that came now.
        actual: String,
    },
}

impl ReadError {
    pub(crate) fn io(input: &Input) -> impl Fn(io::Error) -> Self + '_ {
        |source| Self::Io { input: input.to_string(), source }
    }
}

/// Adds what is read to a counter.
pub(crate) struct Counted<R> {
    inner: R,
    counter: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.counter.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Unpacked text, with the place it stands at.
pub(crate) struct Text {
    pub(crate) reader: Box<dyn BufRead + Send>,
    /// Bytes before what is read next.
    pub(crate) offset: u64,
}

/// Opens an input's text at `offset`. What stands before is skipped where the file allows it, else unpacked.
pub(crate) fn open_text(input: &Input, offset: u64, counter: &Arc<AtomicU64>) -> io::Result<Text> {
    let mut text = match &input.origin {
        Origin::File { path, .. } => {
            let mut file = File::open(path)?;
            let head = head_of(&mut file)?;
            if !is_packed(&head) && offset > 0 {
                file.seek(SeekFrom::Start(offset))?;
                counter.fetch_add(offset, Ordering::Relaxed);
                let inner = Counted { inner: file, counter: Arc::clone(counter) };
                return Ok(Text { reader: Box::new(BufReader::with_capacity(READ_BYTES, inner)), offset });
            }
            counter.fetch_add(head.len() as u64, Ordering::Relaxed);
            unpacked(head, Counted { inner: file, counter: Arc::clone(counter) })?
        }
        Origin::Stdin => {
            let mut stdin = io::stdin();
            let head = head_of(&mut stdin)?;
            counter.fetch_add(head.len() as u64, Ordering::Relaxed);
            unpacked(head, Counted { inner: stdin, counter: Arc::clone(counter) })?
        }
    };
    if offset == 0 {
        text.skip_mark()?;
    }
    Ok(text)
}

impl Text {
    /// Passes over the mark that some editors put before UTF-8.
    fn skip_mark(&mut self) -> io::Result<()> {
        if self.reader.fill_buf()?.starts_with(UTF8_MARK) {
            self.reader.consume(UTF8_MARK.len());
            self.offset += UTF8_MARK.len() as u64;
        }
        Ok(())
    }

    /// Reads up to `end` and tells what stood there to `seen`.
    pub(crate) fn skip_to(&mut self, end: u64, mut seen: impl FnMut(&[u8])) -> io::Result<()> {
        while self.offset < end {
            let there = self.reader.fill_buf()?;
            if there.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let taken = there.len().min(usize::try_from(end - self.offset).unwrap_or(usize::MAX));
            seen(&there[..taken]);
            self.reader.consume(taken);
            self.offset += taken as u64;
        }
        Ok(())
    }
}

/// Checks that a file looks as it did when it was found.
pub(crate) fn check_unchanged(input: &Input) -> Result<(), ReadError> {
    let Origin::File { path, bytes, modified_ns: modified } = &input.origin else { return Ok(()) };
    let now = std::fs::metadata(path).map_err(ReadError::io(input))?;
    if (now.len(), modified_ns(&now)) == (*bytes, *modified) {
        return Ok(());
    }
    Err(ReadError::Changed { input: input.to_string() })
}

/// Opens bytes that must be in a file: the file itself, or what comes out of it, written to `room`.
pub(crate) fn open_whole(input: &Input, room: &Path, limit: u64) -> Result<File, ReadError> {
    let failed = ReadError::io(input);
    let (head, rest): (Vec<u8>, Box<dyn Read + Send>) = match &input.origin {
        Origin::File { path, .. } => {
            let mut file = File::open(path).map_err(&failed)?;
            let head = head_of(&mut file).map_err(&failed)?;
            if !is_packed(&head) {
                return Ok(file);
            }
            (head, Box::new(file))
        }
        Origin::Stdin => {
            let mut stdin = io::stdin();
            (head_of(&mut stdin).map_err(&failed)?, Box::new(stdin))
        }
    };
    let from = unpacked(head, rest).map_err(&failed)?.reader;
    let mut into = File::options().read(true).write(true).create(true).truncate(true).open(room).map_err(&failed)?;
    // It has a name only until it is open: no kill leaves it behind.
    std::fs::remove_file(room).map_err(&failed)?;
    if io::copy(&mut from.take(limit + 1), &mut into).map_err(&failed)? > limit {
        return Err(ReadError::Bomb { input: input.to_string(), limit });
    }
    Ok(into)
}

/// Reads the first bytes, by which one sees how the rest is packed.
fn head_of(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(ZSTD.len());
    from.take(ZSTD.len() as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn is_packed(head: &[u8]) -> bool {
    head.starts_with(GZIP) || head.starts_with(ZSTD)
}

fn unpacked(head: Vec<u8>, rest: impl Read + Send + 'static) -> io::Result<Text> {
    let (gzip, zstd) = (head.starts_with(GZIP), head.starts_with(ZSTD));
    let whole: Chain<Cursor<Vec<u8>>, _> = Cursor::new(head).chain(rest);
    let reader: Box<dyn BufRead + Send> = if gzip {
        let packed = BufReader::with_capacity(READ_BYTES, whole);
        Box::new(BufReader::with_capacity(READ_BYTES, MultiGzDecoder::new(packed)))
    } else if zstd {
        // The decoder refuses windows over 128 MiB by itself.
        let packed = BufReader::with_capacity(READ_BYTES, whole);
        Box::new(BufReader::with_capacity(READ_BYTES, zstd::stream::read::Decoder::with_buffer(packed)?))
    } else {
        Box::new(BufReader::with_capacity(READ_BYTES, whole))
    };
    Ok(Text { reader, offset: 0 })
}
