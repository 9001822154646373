//! A folder for files on their way, which goes away with them: at the end, or where its process was killed with the
//! next one that is made beside it.
//!
//! Must never remove a folder whose process lives, nor one that it did not make.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use gigastore_formats::ambient::Ambient;
use gigastore_formats::digest::hex;

use super::rewrite::{RewriteError, io};

/// What the names of such folders begin with.
const PREFIX: &str = "gigastore-push-";

/// A file that the folder's process holds locked; the system lets go of it however the process ends.
const LOCK: &str = "lock";

/// A folder of one push or takedown.
#[derive(Debug)]
pub(in crate::dataset) struct Room {
    folder: PathBuf,
    _lock: File,
}

impl Room {
    /// Makes a folder of its own below `below`, and removes those of processes that are no more.
    pub(in crate::dataset) fn new(below: &Path, ambient: &dyn Ambient) -> Result<Self, RewriteError> {
        sweep(below);
        let folder = below.join(format!("{PREFIX}{}", hex(&ambient.random_bytes()[..8])));
        std::fs::create_dir_all(&folder).map_err(|source| io(&folder, source))?;
        let (young, lock) = (folder.join("lock.new"), folder.join(LOCK));
        let file = File::create_new(&young).map_err(|source| io(&young, source))?;
        // It has its name once it is locked: nobody finds it unlocked before. Where the file system knows no locks it
        // stays without that name, and the folder is never swept.
        if file.try_lock().is_ok() {
            std::fs::rename(&young, &lock).map_err(|source| io(&lock, source))?;
        }
        Ok(Self { folder, _lock: file })
    }

    /// Returns the place of one file.
    pub(in crate::dataset) fn file(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{number}.parquet"))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // What can't be removed now is swept later.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Removes folders whose process is no more. What can't be looked at or removed is somebody else's, or stays until the
/// next time.
fn sweep(below: &Path) {
    let Ok(entries) = std::fs::read_dir(below) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_left(&entry.path()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Tells whether nobody holds the lock of a folder.
fn is_left(folder: &Path) -> bool {
    let lock = folder.join(LOCK);
    // Not a pipe, which would be waited for, nor a link.
    if !std::fs::symlink_metadata(&lock).is_ok_and(|found| found.is_file()) {
        return false;
    }
    let Ok(file) = File::open(&lock) else { return false };
    match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ambient::SystemAmbient;

    #[test]
    fn rooms_of_dead_processes_are_swept() {
        let below = tempfile::tempdir().unwrap();
        let ambient = SystemAmbient::shared();
        let living = Room::new(below.path(), &*ambient).unwrap();
        std::fs::write(living.file(0), b"rows").unwrap();
        // A lock that nobody holds is what a killed process leaves.
        let dead = below.path().join(format!("{PREFIX}00"));
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join(LOCK), b"").unwrap();
        std::fs::write(dead.join("0.parquet"), b"rows").unwrap();
        let foreign = below.path().join(format!("{PREFIX}notes"));
        std::fs::create_dir(&foreign).unwrap();
        let next = Room::new(below.path(), &*ambient).unwrap();
        assert!(!dead.exists() && foreign.exists() && living.file(0).exists());
        drop((living, next));
        assert_eq!(std::fs::read_dir(below.path()).unwrap().count(), 1);
    }
}
