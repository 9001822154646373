//! Memory that the system has at hand, for `--filled`.
//!
//! What a save writes to a disk lies in memory first. A virtual machine that gave its free memory back to its host gets
//! it back at a tenth of the speed at which it writes to it (0.5 beside 5 GB/s were measured), so that saves there are
//! timed by what was freed a moment before. A machine that has worked for a while has next to no free memory: its page
//! cache is full of old files, and gives them up for new ones. Then free memory is filled with pages of a file before a
//! save, and before what it is compared with. Must never run while something is timed.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::Res;

/// Bytes that are left free: about what a system keeps so.
const LEFT_BYTES: u64 = 256 << 20;

/// Bytes that are filled at once, at most: a matter of seconds.
const MOST_BYTES: u64 = 32 << 30;

/// Bytes of one read.
const PIECE_BYTES: usize = 8 << 20;

/// A file that takes no room on the disk: its pages are all that there is of it.
#[derive(Debug, Default)]
pub(crate) struct Memory(RefCell<Option<(File, u64)>>);

impl Memory {
    /// Fills free memory with more of the file, which lies in `folder` and has no name.
    pub(crate) fn fill(&self, folder: &Path) -> Res<()> {
        let more = free_bytes()?.saturating_sub(LEFT_BYTES);
        if more > MOST_BYTES {
            return Err(format!("--filled fills up to {MOST_BYTES} bytes of memory, and {more} are free").into());
        }
        let mut kept = self.0.borrow_mut();
        let (file, end) = match kept.as_mut() {
            Some(kept) => kept,
            None => kept.insert((tempfile::tempfile_in(folder)?, 0)),
        };
        file.set_len(*end + more)?;
        let mut piece = vec![0; PIECE_BYTES];
        while let read @ 1.. = file.read_at(&mut piece, *end)? {
            *end += read as u64;
        }
        Ok(())
    }

    /// Tells whether it ever did: what is measured after it finds memory so, too.
    pub(crate) fn has_filled(&self) -> bool {
        self.0.borrow().is_some()
    }
}

/// Returns how much memory nobody uses, not even to keep files.
fn free_bytes() -> Res<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let free =
        text.lines().find_map(|line| line.strip_prefix("MemFree:")).and_then(|rest| rest.split_whitespace().next());
    Ok(free.ok_or("/proc/meminfo has no MemFree")?.parse::<u64>()? << 10)
}
