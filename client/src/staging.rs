//! Files on their way into a folder of the user: complete before they have their final names.
//!
//! They are written under a hidden staging folder inside the destination (the same file system, so that renaming is
//! atomic) and moved when all are complete and on disk. Dropped before that, the staging folder goes away. Must never
//! replace a file unless told to.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gigastore_formats::ambient::Ambient;
use gigastore_formats::digest::hex;
use gigastore_formats::name::{NameError, check_path};

/// Files being written.
#[derive(Debug)]
pub(crate) struct Staging {
    out: PathBuf,
    folder: PathBuf,
    overwrite: bool,
    files: Vec<(String, Arc<File>)>,
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// A file of that name is there.
    #[error("{path} exists: choose another folder, or pass --overwrite")]
    Exists {
        /// The file.
        path: String,
    },
    /// The path is not one inside the destination.
    #[error("a stored path can't be a local file: {0}")]
    Path(#[from] NameError),
    /// The system refused.
    #[error("{path} can't be written ({source}); nothing is left under its final name")]
    Io {
        /// The file or folder.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Staging {
    /// Starts in the folder `out`, which is made where it is not there.
    pub(crate) fn new(out: &Path, overwrite: bool, ambient: &Arc<dyn Ambient>) -> Result<Self, StagingError> {
        let folder = out.join(format!(".gigastore-{}", hex(&ambient.random().to_le_bytes())));
        fs::create_dir_all(&folder).map_err(|source| failed(&folder, source))?;
        Ok(Self { out: out.to_owned(), folder, overwrite, files: Vec::new() })
    }

    /// Creates a file of `len` bytes that will be `name` below the destination.
    pub(crate) fn create(&mut self, name: &str, len: u64) -> Result<Arc<File>, StagingError> {
        check_path(name)?;
        let last = self.out.join(name);
        if !self.overwrite && last.exists() {
            return Err(StagingError::Exists { path: last.display().to_string() });
        }
        let path = self.folder.join(name);
        let parent = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).map_err(|source| failed(parent, source))?;
        let file = OpenOptions::new().write(true).create_new(true).open(&path).and_then(|file| {
            file.set_len(len)?;
            Ok(Arc::new(file))
        });
        let file = file.map_err(|source| failed(&path, source))?;
        self.files.push((name.to_owned(), Arc::clone(&file)));
        Ok(file)
    }

    /// Writes bytes of a created file.
    pub(crate) fn write(&self, file: &File, name: &str, bytes: &[u8], at: u64) -> Result<(), StagingError> {
        file.write_all_at(bytes, at).map_err(|source| failed(&self.out.join(name), source))
    }

    /// Ends writing: every file is put on disk, then each gets its final name.
    pub(crate) fn finish(self) -> Result<Vec<PathBuf>, StagingError> {
        for (name, file) in &self.files {
            file.sync_all().map_err(|source| failed(&self.out.join(name), source))?;
        }
        let mut done = Vec::with_capacity(self.files.len());
        for (name, _) in &self.files {
            let last = self.out.join(name);
            let parent = last.parent().unwrap_or(&self.out);
            fs::create_dir_all(parent).map_err(|source| failed(parent, source))?;
            if !self.overwrite && last.exists() {
                return Err(StagingError::Exists { path: last.display().to_string() });
            }
            fs::rename(self.folder.join(name), &last).map_err(|source| failed(&last, source))?;
            done.push(last);
        }
        File::open(&self.out).and_then(|folder| folder.sync_all()).map_err(|source| failed(&self.out, source))?;
        Ok(done)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What can't be removed is hidden, says whose it is, and is not worth failing for.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn failed(path: &Path, source: io::Error) -> StagingError {
    StagingError::Io { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ambient::SystemAmbient;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_appear_complete_or_not_at_all() {
        let out = tempfile::tempdir().unwrap();
        let ambient = SystemAmbient::shared();
        let mut staging = Staging::new(out.path(), false, &ambient).unwrap();
        let file = staging.create("a/b", 3).unwrap();
        staging.write(&file, "a/b", b"abc", 0).unwrap();
        assert!(!out.path().join("a/b").exists());
        assert_eq!(staging.finish().unwrap(), [out.path().join("a/b")]);
        assert_eq!(fs::read(out.path().join("a/b")).unwrap(), b"abc");
        assert_eq!(names(out.path()), ["a"]);

        let mut staging = Staging::new(out.path(), false, &ambient).unwrap();
        assert!(matches!(staging.create("a/b", 3), Err(StagingError::Exists { .. })));
        assert!(staging.create("../x", 3).is_err());
        staging.create("c", 3).unwrap();
        drop(staging);
        assert_eq!(names(out.path()), ["a"]);
    }
}
