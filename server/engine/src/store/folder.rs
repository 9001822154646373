//! Objects of a folder of this machine: written so that the disk is at work from the first pieces on, visible at once
//! and only when they are durable.
//!
//! The object store's own put leaves all of an object to the system until the end, so that the disk idles while bytes
//! come and the processors idle while it catches up. Must never replace a file, nor name one whose bytes could still be
//! lost.

#![allow(unsafe_code, reason = "Linux starts to write pages back by a call that no safe crate has")]

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Bytes after which the disk is set to work on them: 8 MiB, above which disks get no faster.
const WRITE_BACK_BYTES: u64 = 8 << 20;

/// A file on its way: under a name that no object has, until it is published. Unpublished, it is removed when dropped.
#[derive(Debug)]
pub(super) struct Incoming {
    file: File,
    staged: PathBuf,
    path: PathBuf,
    written: u64,
    /// Bytes that the disk was set to work on.
    begun: u64,
}

impl Incoming {
    /// Begins a file that will be `path`, in a folder that is made durable where it is not there yet.
    pub(super) fn new(path: PathBuf) -> io::Result<Self> {
        let mut number = 1_u64;
        loop {
            // The object store's own names for this: it lists no such file.
            let mut staged = OsString::from(&path);
            staged.push(format!("#{number}"));
            let staged = PathBuf::from(staged);
            match OpenOptions::new().write(true).create_new(true).open(&staged) {
                Ok(file) => return Ok(Self { file, staged, path, written: 0, begun: 0 }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => make_folder(folder_of(&path)?)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        if self.written - self.begun >= WRITE_BACK_BYTES {
            write_back(&self.file, self.begun, self.written - self.begun);
            self.begun = self.written;
        }
        Ok(())
    }

    /// Makes the file durable, then visible, then its name durable. `AlreadyExists` where there is a file of that name,
    /// which stays.
    pub(super) fn publish(self) -> io::Result<()> {
        self.file.sync_data()?;
        fs::hard_link(&self.staged, &self.path)?;
        let folder = folder_of(&self.path)?.to_owned();
        // The staged name goes first, so that one sync of the folder does for both.
        drop(self);
        sync_folder(&folder)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // One that stays is swept with the staging files.
        let _ = fs::remove_file(&self.staged);
    }
}

fn folder_of(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "an object has a folder"))
}

/// Makes a folder and those above it that are not there, each entry durable.
fn make_folder(folder: &Path) -> io::Result<()> {
    let above = folder_of(folder)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make_folder(above)?;
            return make_folder(folder);
        }
        // Whoever made it meanwhile may not have made it durable yet.
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    sync_folder(above)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Has the disk begin to write pages, without waiting for it. What goes wrong there, the sync at the end says.
#[cfg(target_os = "linux")]
fn write_back(file: &File, start: u64, len: u64) {
    use std::os::fd::AsRawFd;
    let (Ok(start), Ok(len)) = (i64::try_from(start), i64::try_from(len)) else { return };
    // SAFETY: the call takes a descriptor, which `file` keeps open, and numbers; it touches no memory of this process.
    unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Elsewhere the system begins when it likes.
#[cfg(not(target_os = "linux"))]
fn write_back(_: &File, _: u64, _: u64) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_file_is_seen_when_it_is_whole_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b/c");
        let path = inner.join("x");
        let piece = vec![7; (WRITE_BACK_BYTES / 2 + 1) as usize];
        let mut first = Incoming::new(path.clone()).unwrap();
        let mut second = Incoming::new(path.clone()).unwrap();
        for _ in 0..3 {
            first.write(&piece).unwrap();
        }
        second.write(b"other").unwrap();
        assert_eq!(names(&inner), ["x#1", "x#2"]);
        first.publish().unwrap();
        assert_eq!(names(&inner), ["x", "x#2"]);
        assert_eq!(second.publish().unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(names(&inner), ["x"]);
        assert!(fs::read(&path).unwrap() == piece.repeat(3));
    }

    #[test]
    fn what_is_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut given_up = Incoming::new(folder.path().join("x")).unwrap();
        given_up.write(b"half").unwrap();
        drop(given_up);
        assert!(names(folder.path()).is_empty());
        std::fs::write(folder.path().join("file"), "").unwrap();
        let error = Incoming::new(folder.path().join("file/x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotADirectory);
    }
}
