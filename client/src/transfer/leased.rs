//! A part of a file, looked at where the system keeps it, while a lease on the file keeps writers out.
//!
//! A map of a file that somebody cuts short ends the process that looks at it, and memory that somebody writes to may
//! not be Rust's. A read lease (`F_SETLEASE`) rules out both: it is given only while nobody has the file open for
//! writing, and whoever wants to write or truncate it then waits until the lease is given back, for 45 s at most
//! (`/proc/sys/fs/lease-break-time`); it is held for the milliseconds of one read. Must never look at a byte of a file
//! that is not leased, nor wait for a disk.

#![allow(unsafe_code, reason = "leases, and maps that they make sound, have no safe interface")]

use std::fs::File;

use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::Fault;

use crate::transport::Source;

/// A part of a leased file.
#[derive(Debug)]
pub(super) struct Leased {
    /// Before the file: the lease outlives it.
    #[cfg(target_os = "linux")]
    map: memmap2::Mmap,
    /// Closing it gives the lease back.
    _file: File,
    /// The position in the file of the map's first byte.
    start: u64,
}

impl Leased {
    /// Maps `range` of a file. Gives the file back where it can't be leased (it is somebody else's, it is being written,
    /// its file system has no leases), or where some of the range is not in memory.
    #[cfg(target_os = "linux")]
    pub(super) fn new(file: File, range: ByteRange) -> Result<Self, File> {
        match linux::map(&file, range) {
            Some((map, start)) => Ok(Self { map, _file: file, start }),
            None => Err(file),
        }
    }

    /// Elsewhere there are no leases.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn new(file: File, _: ByteRange) -> Result<Self, File> {
        Err(file)
    }

    #[cfg(target_os = "linux")]
    fn bytes(&self) -> &[u8] {
        &self.map
    }

    #[cfg(not(target_os = "linux"))]
    fn bytes(&self) -> &[u8] {
        &[]
    }
}

impl Source for Leased {
    fn fill_at(&mut self, position: u64, into: &mut [u8]) -> Result<(), Fault> {
        let range = ByteRange::with_len(position, into.len() as u64);
        let lent = range.ok().and_then(|range| self.lend(range)).ok_or_else(|| crate::transport::absent(position))?;
        into.copy_from_slice(lent);
        Ok(())
    }

    fn lend(&mut self, range: ByteRange) -> Option<&[u8]> {
        let from = usize::try_from(range.start().checked_sub(self.start)?).ok()?;
        self.bytes().get(from..from.checked_add(usize::try_from(range.len()).ok()?)?)
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use gigastore_formats::range::ByteRange;
    use memmap2::{Advice, Mmap, MmapOptions};

    /// What maps and residence are counted in. A larger page of the system is a multiple of it: then its first byte in
    /// memory says the same of all others.
    const PAGE_BYTES: usize = 4096;

    /// `F_SETSIG` of Linux (`asm-generic/fcntl.h`), which the libc crate does not name.
    const F_SETSIG: libc::c_int = 10;

    /// Leases a file and maps `range` of it, from the start of its page on, if all of that is in memory.
    pub(super) fn map(file: &File, range: ByteRange) -> Option<(Mmap, u64)> {
        if range.is_empty() || !lease(file) || file.metadata().ok()?.len() < range.end() {
            return None;
        }
        // memmap2 takes any offset and hides the bytes before it.
        let mut options = MmapOptions::new();
        options.offset(range.start()).len(usize::try_from(range.len()).ok()?);
        // SAFETY: with the lease nobody has the file open or mapped for writing, and nobody gets it so, nor truncates
        // it, until the lease is given back; that happens when the file is closed, after this map is gone.
        let map = unsafe { options.map(file) }.ok()?;
        if !in_memory(&map) {
            return None;
        }
        map.advise(Advice::PopulateRead).ok()?;
        Some((map, range.start()))
    }

    fn lease(file: &File) -> bool {
        let file = file.as_raw_fd();
        // Whoever waits for the lease is announced with a signal: one that is ignored unless somebody asked for it. The
        // default, SIGIO, ends a process.
        // SAFETY: both calls take a descriptor, which is open, and numbers; they touch no memory of this process.
        unsafe {
            libc::fcntl(file, F_SETSIG, libc::SIGURG) == 0
                && libc::fcntl(file, libc::F_SETLEASE, libc::F_RDLCK) == 0
        }
    }

    /// Tells whether every page of a map is in memory.
    fn in_memory(map: &Mmap) -> bool {
        let before = map.as_ptr().addr() % PAGE_BYTES;
        let mut pages = vec![0_u8; (before + map.len()).div_ceil(PAGE_BYTES)];
        let start = map.as_ptr().wrapping_sub(before).cast_mut().cast();
        // SAFETY: the pages of the map, from the start of the first one on, are mapped; `pages` has a byte for each.
        let asked = unsafe { libc::mincore(start, before + map.len(), pages.as_mut_ptr()) };
        asked == 0 && pages.iter().all(|page| page & 1 == 1)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).unwrap()
    }

    /// Leases of files in the folder for temporary ones, if its file system has them.
    fn leased(path: &std::path::Path, range: ByteRange) -> Option<Leased> {
        Leased::new(File::open(path).unwrap(), range).ok()
    }

    #[test]
    fn bytes_are_lent_where_they_lie() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i * 7 + i / 255) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let Some(mut leased) = leased(&path, range(5000, 2_999_999)) else { return };
        assert!(leased.lend(range(5000, 2_999_999)).unwrap() == &bytes[5000..2_999_999]);
        assert!(leased.lend(range(1_000_001, 1_000_008)).unwrap() == &bytes[1_000_001..1_000_008]);
        assert!(leased.lend(range(4999, 5001)).is_none() && leased.lend(range(2_999_998, 3_000_000)).is_none());
        let mut into = [0; 9];
        leased.fill_at(6000, &mut into).unwrap();
        assert_eq!(into, bytes[6000..6009]);
        assert!(leased.fill_at(2_999_995, &mut into).is_err() && leased.fill_at(0, &mut into).is_err());
        assert!(super::tests::leased(&path, range(0, 3_000_001)).is_none(), "past the end");
    }

    #[test]
    fn a_file_that_is_open_for_writing_is_not_leased() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, [7; 10_000]).unwrap();
        let writer = File::options().write(true).open(&path).unwrap();
        assert!(leased(&path, range(0, 10_000)).is_none());
        drop(writer);
    }

    #[test]
    fn whoever_cuts_a_file_short_waits_for_those_who_look() {
        const BYTES: u64 = 4 << 20;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, vec![7; BYTES as usize]).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let file = File::options().write(true).open(&path).unwrap();
                    file.set_len(100).unwrap();
                    file.set_len(BYTES).unwrap();
                }
            });
            // A page that is gone would end this process with a signal.
            for _ in 0..2000 {
                if let Some(mut leased) = leased(&path, range(0, BYTES)) {
                    assert!(
                        leased.lend(range(0, BYTES)).unwrap().iter().step_by(512).all(|byte| [0, 7].contains(byte))
                    );
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
