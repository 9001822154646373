//! What a directory holds, and which blocks make room: the longest unused ones of all, whoever wrote them.
//!
//! There is no index: the directory is looked through, each time this process has written a 128th of the limit since.
//! It is emptied to seven eighths then, so that eight processes which know nothing of each other stay below the limit
//! together: from one look to the next each adds a 128th, and while one looks, another. More of them, or a limit below
//! 128 blocks, may pass it by what they write at the same time.
//!
//! Must never remove a file that is not a block's, nor one that a living process is writing.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use gigastore_formats::digest::Digest;

use crate::counts::Counts;

/// Where blocks are written before they are renamed into place.
pub(crate) const STAGING: &str = "staging";

/// Parts of the limit that are kept free at a look, and parts that are written from one look to the next.
const FREE_PART: u64 = 8;
const STEP_PART: u64 = 128;

/// What a file takes of the disk at least, and in what steps.
const FILE_UNIT: u64 = 4096;

/// The room of a directory.
#[derive(Debug)]
pub(crate) struct Room {
    limit: u64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Bytes at the last look, and those written since.
    used: u64,
    /// Bytes written since; `None` before the first look.
    since: Option<u64>,
}

/// A block's file.
struct Found {
    /// Its last use: every read sets the time of its change.
    used: SystemTime,
    bytes: u64,
    name: Digest,
}

impl Room {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, seen: Mutex::default() }
    }

    /// Makes room for a file of `len` bytes; tells whether there is any.
    pub(crate) fn claim(&self, folder: &Path, len: u64, counts: &Counts) -> io::Result<bool> {
        let len = len.next_multiple_of(FILE_UNIT);
        let most = self.limit - self.limit / FREE_PART;
        if len > most {
            return Ok(false);
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let due = seen.since.is_none_or(|since| since + len > self.limit / STEP_PART);
        if due || seen.used + len > self.limit {
            seen.look(folder, |_| most - len, counts)?;
        }
        if seen.used + len > self.limit {
            return Ok(false);
        }
        seen.used += len;
        seen.since = Some(seen.since.unwrap_or_default() + len);
        counts.keeps(seen.used);
        Ok(true)
    }

    /// Looks at what there is, and sweeps what killed processes left.
    pub(crate) fn look(&self, folder: &Path, counts: &Counts) -> io::Result<()> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.look(folder, |_| self.limit - self.limit / FREE_PART, counts)
    }

    /// Gives back an eighth of what there is: the disk is full before the limit is reached.
    pub(crate) fn shrink(&self, folder: &Path, counts: &Counts) -> io::Result<()> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.look(folder, |used| used - used / FREE_PART, counts)
    }
}

impl Seen {
    /// Looks through the directory, and removes the longest unused blocks until it holds no more than `most` says.
    fn look(&mut self, folder: &Path, most: impl Fn(u64) -> u64, counts: &Counts) -> io::Result<()> {
        let mut found = Vec::new();
        let mut used = sweep(&folder.join(STAGING))?;
        for shelf in listed(folder)? {
            blocks(&shelf?.path(), &mut found)?;
        }
        used += found.iter().map(|block| block.bytes).sum::<u64>();
        let most = most(used);
        // The name decides between equal times, so that two processes that look at once remove the same blocks.
        found.sort_unstable_by_key(|block| (block.used, block.name));
        let mut evicted = 0;
        for block in found {
            if used <= most {
                break;
            }
            let hex = block.name.to_string();
            match fs::remove_file(folder.join(&hex[..2]).join(&hex)) {
                // Gone already: another process makes room too.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(()) => evicted += 1,
            }
            used -= block.bytes;
        }
        counts.evicted(evicted);
        counts.keeps(used);
        (self.used, self.since) = (used, Some(0));
        Ok(())
    }
}

/// Lists a folder; nothing where there is none.
fn listed(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => Some(entries),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
        Err(error) => return Err(error),
    };
    Ok(entries.into_iter().flatten())
}

/// Finds the blocks of one of the folders, of which the first two digits of their names are the name.
fn blocks(shelf: &Path, found: &mut Vec<Found>) -> io::Result<()> {
    let digits = shelf.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    if digits.len() != 2 {
        return Ok(());
    }
    for entry in listed(shelf)? {
        let entry = entry?;
        let name = entry.file_name().to_str().and_then(|name| Some((name.starts_with(&digits), name.parse().ok()?)));
        let Some((true, name)) = name else { continue };
        let meta = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            meta => meta?,
        };
        if meta.is_file() {
            found.push(Found { used: meta.modified()?, bytes: meta.len().next_multiple_of(FILE_UNIT), name });
        }
    }
    Ok(())
}

/// Removes what killed processes were writing; returns the bytes of what living ones write.
fn sweep(staging: &Path) -> io::Result<u64> {
    let mut writing = 0;
    for entry in listed(staging)? {
        let path: PathBuf = entry?.path();
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        // The system lets go of a lock when its process ends, however it ends.
        if file.try_lock().is_ok() {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        } else {
            writing += file.metadata()?.len().next_multiple_of(FILE_UNIT);
        }
    }
    Ok(writing)
}
