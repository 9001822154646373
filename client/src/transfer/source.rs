//! Where the bytes of a save come from: memory of the caller, or a region of a local file.
//!
//! Files are read with positioned reads into buffers of our own, not mapped: a mapped file that another process
//! truncates raises a signal that no error can stand for. A file that changes while it is read is an error. Must never
//! hand out fewer bytes than the slice has.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

/// The bytes of one slice.
#[derive(Clone, Debug)]
pub enum SliceData {
    /// In memory. The bytes must not change while the save runs.
    Memory(Bytes),
    /// In memory that somebody else can write to, as that of another runtime. It is hashed where it lies, and looked at
    /// again as it is sent: where it is not the same, the save fails, and nothing is stored under a wrong name.
    Shared(Bytes),
    /// In a local file.
    File(FileRegion),
}

/// Bytes of a local file.
#[derive(Clone, Debug)]
pub struct FileRegion {
    file: Arc<SourceFile>,
    offset: u64,
    len: u64,
}

/// A local file that is being saved, and what it looked like when it was opened.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    path: PathBuf,
    len: u64,
    modified: Option<SystemTime>,
}

/// What a local file looked like at one moment. Takes no open file, of which a process has only so many.
#[derive(Clone, Debug)]
pub struct SourceLook {
    path: PathBuf,
    len: u64,
    modified: Option<SystemTime>,
}

/// Why a source did not give its bytes.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file can't be read.
    #[error("{path} can't be read")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file changed while it was read.
    #[error(
        "{path} changed while it was read: expected {expected}, actual {actual}; nothing was committed, save again \
         when nobody writes to it"
    )]
    Changed {
        /// The file.
        path: String,
        /// What it looked like at first.
        expected: String,
        /// What it looks like now.
        actual: String,
    },
}

impl SourceLook {
    /// Looks at a file without opening it.
    pub fn at(path: &Path) -> Result<Self, SourceError> {
        let io = |source| SourceError::Io { path: path.display().to_string(), source };
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            // Opening a pipe would wait for whoever writes to it.
            return Err(io(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let (len, modified) = look(&metadata);
        Ok(Self { path: path.to_owned(), len, modified })
    }

    /// Returns the path it was looked at with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the file's bytes, as they were seen.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Tells whether the file had no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Opens the file, which must look as it did.
    pub fn open(&self) -> Result<Arc<SourceFile>, SourceError> {
        let io = |source| SourceError::Io { path: self.path.display().to_string(), source };
        let file = File::open(&self.path).map_err(io)?;
        let file = SourceFile { file, path: self.path.clone(), len: self.len, modified: self.modified };
        file.check_unchanged()?;
        Ok(Arc::new(file))
    }
}

impl SourceFile {
    /// Opens a file and remembers its length and time.
    pub fn open(path: &Path) -> Result<Arc<Self>, SourceError> {
        SourceLook::at(path)?.open()
    }

    /// Returns the file's bytes, as it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Tells whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the bytes `offset..offset + len` of the file.
    ///
    /// # Panics
    /// Where they do not lie inside the file as it was opened.
    pub fn region(self: &Arc<Self>, offset: u64, len: u64) -> FileRegion {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "a region lies inside its file");
        FileRegion { file: Arc::clone(self), offset, len }
    }

    /// Fills `into` from `offset` on.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        self.file.read_exact_at(into, offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.changed(),
            _ => SourceError::Io { path: self.path.display().to_string(), source },
        })
    }

    /// Checks that the file looks as it did when it was opened.
    pub fn check_unchanged(&self) -> Result<(), SourceError> {
        let io = |source| SourceError::Io { path: self.path.display().to_string(), source };
        let now = look(&self.file.metadata().map_err(io)?);
        if now == (self.len, self.modified) { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> SourceError {
        let text = |(len, modified): (u64, Option<SystemTime>)| {
            let since = modified.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
            format!("{len} bytes, modified at {:.9} s", since.unwrap_or_default().as_secs_f64())
        };
        let actual = self.file.metadata().map_or_else(|error| error.to_string(), |metadata| text(look(&metadata)));
        SourceError::Changed {
            path: self.path.display().to_string(),
            expected: text((self.len, self.modified)),
            actual,
        }
    }
}

impl FileRegion {
    /// Returns the path of its file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

fn look(metadata: &Metadata) -> (u64, Option<SystemTime>) {
    (metadata.len(), metadata.modified().ok())
}

impl SliceData {
    /// Returns the bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) | Self::Shared(bytes) => bytes.len() as u64,
            Self::File(region) => region.len,
        }
    }

    /// Tells whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns `len` bytes from `offset` on.
    ///
    /// # Panics
    /// Where they do not lie inside.
    pub fn part(&self, offset: u64, len: u64) -> Self {
        match self {
            Self::Memory(bytes) => Self::Memory(bytes.slice(offset as usize..(offset + len) as usize)),
            Self::Shared(bytes) => Self::Shared(bytes.slice(offset as usize..(offset + len) as usize)),
            Self::File(region) => {
                assert!(offset + len <= region.len, "a part lies inside its region");
                Self::File(FileRegion { file: Arc::clone(&region.file), offset: region.offset + offset, len })
            }
        }
    }

    /// Reads all of it into memory.
    pub fn to_vec(&self) -> Result<Vec<u8>, SourceError> {
        let mut bytes = vec![0; self.len() as usize];
        self.read_at(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `into` from `offset` on.
    pub(crate) fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        match self {
            Self::Memory(bytes) | Self::Shared(bytes) => {
                into.copy_from_slice(&bytes[offset as usize..offset as usize + into.len()]);
                Ok(())
            }
            Self::File(region) => region.file.read_at(region.offset + offset, into),
        }
    }

    /// Checks that a file still looks as it did when it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), SourceError> {
        match self {
            Self::Memory(_) | Self::Shared(_) => Ok(()),
            Self::File(region) => region.file.check_unchanged(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, b"0123456789").unwrap();
        let source = SourceFile::open(&path).unwrap();
        let data = SliceData::File(source.region(2, 6)).part(1, 3);
        let mut into = [0; 3];
        data.read_at(0, &mut into).unwrap();
        assert_eq!(&into, b"345");
        assert!(data.check_unchanged().is_ok());
        std::fs::write(&path, b"012").unwrap();
        let error = data.read_at(0, &mut into).unwrap_err().to_string();
        assert!(error.contains("expected 10 bytes") && error.contains("actual 3 bytes"), "{error}");
        assert!(data.check_unchanged().is_err());
    }

    #[test]
    fn a_file_that_changes_before_it_is_opened_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, b"0123456789").unwrap();
        let look = SourceLook::at(&path).unwrap();
        assert_eq!(look.open().unwrap().len(), 10);
        std::fs::write(&path, b"012").unwrap();
        let error = look.open().unwrap_err();
        assert!(matches!(error, SourceError::Changed { .. }), "{error}");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [&pipe, folder.path()] {
            let SourceError::Io { source, .. } = SourceFile::open(path).unwrap_err() else { panic!() };
            assert!(source.to_string().contains("not a regular file"), "{source}");
        }
    }
}
