//! One file of the dataset that is being written: hashed as it is written, durable before it has its name.
//!
//! Must never leave a file under a part's name that is not whole.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use gigastore_formats::digest::Digest;
use gigastore_formats::table::tokens::{TokenFileSpec, TokenFileWriter, TokenWriteError};

/// Bytes written to the system at once.
const WRITE_BYTES: usize = 1 << 20;

/// Why a part can't be written.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// The file can't be written.
    #[error("{path} can't be written; what is finished stays, run the same command again")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A document or the file is refused by the format.
    #[error("{path} can't be written")]
    Tokens {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: TokenWriteError,
    },
}

/// A part that is being written.
pub(crate) struct Part {
    writer: TokenFileWriter<Hashed>,
    path: PathBuf,
}

/// A file, and the digest of what was written to it.
struct Hashed {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
}

/// What a finished file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Written {
    pub(crate) bytes: u64,
    pub(crate) blake3: Digest,
}

impl Part {
    /// Begins a part under a name that is not its own yet.
    pub(crate) fn begin(path: &Path, spec: TokenFileSpec) -> Result<Self, PartError> {
        let file = File::create(path).map_err(failed(path))?;
        let file = BufWriter::with_capacity(WRITE_BYTES, file);
        let sink = Hashed { file, hasher: blake3::Hasher::new(), bytes: 0 };
        let writer = TokenFileWriter::new(sink, spec).map_err(refused(path))?;
        Ok(Self { writer, path: path.to_owned() })
    }

    /// Appends a document.
    pub(crate) fn push(&mut self, id: &str, tokens: &[u32]) -> Result<(), PartError> {
        self.writer.push(id, tokens).map_err(refused(&self.path))
    }

    /// Ends the part; it is durable and has its name then.
    pub(crate) fn finish(self, name: &Path) -> Result<Written, PartError> {
        let (mut sink, _) = self.writer.finish().map_err(refused(&self.path))?;
        let io = failed(&self.path);
        sink.file.flush().map_err(&io)?;
        sink.file.get_ref().sync_all().map_err(&io)?;
        std::fs::rename(&self.path, name).map_err(failed(name))?;
        let folder = name.parent().unwrap_or(name);
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))?;
        Ok(Written { bytes: sink.bytes, blake3: sink.hasher.finalize().into() })
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> PartError + '_ {
    |source| PartError::Io { path: path.display().to_string(), source }
}

fn refused(path: &Path) -> impl Fn(TokenWriteError) -> PartError + '_ {
    |source| PartError::Tokens { path: path.display().to_string(), source }
}
