//! A part of a file, looked at where the system keeps it, while a lease on the file keeps writers out.
//!
//! A map of a file that somebody cuts short ends the process that looks at it, and memory that somebody writes to may
//! not be Rust's. A read lease (`F_SETLEASE`) rules out both: it is given only while nobody has the file open for
//! writing, and whoever wants to write or truncate it then waits until the lease is given back. It is held for the
//! milliseconds of one read. The system takes it away from a process that was stopped for longer than 45 s
//! (`/proc/sys/fs/lease-break-time`) while somebody waited; so what was looked at counts only if the lease is still
//! there afterwards. Only on file systems of this machine alone: elsewhere another machine knows of no lease. What is
//! left is what every program that maps files lives with: a page that was dropped meanwhile and can't be read again, or
//! whose memory failed, ends the process. Must never look at a byte of a file that is not leased.

#![allow(unsafe_code, reason = "leases, and maps that they make sound, have no safe interface")]

use std::fs::File;
use std::sync::Arc;

use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::Fault;

use crate::transport::{Source, absent};

/// A part of a leased file.
#[derive(Debug)]
pub(super) struct Leased {
    /// `None` only while this is made or dropped: it comes after the lease, and is gone before it.
    #[cfg(target_os = "linux")]
    map: Option<memmap2::Mmap>,
    file: Arc<File>,
    /// The position in the file of the map's first byte.
    start: u64,
}

#[cfg(target_os = "linux")]
impl Leased {
    /// Maps `range` of a file; `None` where that can't be leased (it is somebody else's, it is being written, its file
    /// system has no leases or other machines), or where some of the range can't be read.
    pub(super) fn new(file: Arc<File>, range: ByteRange) -> Option<Self> {
        if range.is_empty() || !linux::lease(&file) {
            return None;
        }
        // From here on its end gives the lease back.
        let mut leased = Self { map: None, file, start: range.start() };
        leased.map = linux::map(&leased.file, range);
        // To read what was dropped from memory may have taken longer than a lease is left to whoever is waited for.
        (leased.map.is_some() && linux::is_leased(&leased.file)).then_some(leased)
    }

    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

#[cfg(target_os = "linux")]
impl Drop for Leased {
    fn drop(&mut self) {
        self.map = None;
        linux::give_back(&self.file);
    }
}

/// Elsewhere there are no leases.
#[cfg(not(target_os = "linux"))]
impl Leased {
    pub(super) fn new(_: Arc<File>, _: ByteRange) -> Option<Self> {
        None
    }

    fn bytes(&self) -> &[u8] {
        &[]
    }
}

impl Source for Leased {
    fn fill_at(&mut self, position: u64, into: &mut [u8]) -> Result<(), Fault> {
        let range = ByteRange::with_len(position, into.len() as u64);
        let lent = range.ok().and_then(|range| self.lend(range)).ok_or_else(|| absent(position))?;
        into.copy_from_slice(lent);
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn stayed(&self) -> bool {
        linux::is_leased(&self.file)
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
    use std::os::unix::fs::MetadataExt;

    use gigastore_formats::range::ByteRange;
    use memmap2::{Advice, Mmap, MmapOptions};

    /// `F_SETSIG` of Linux (`asm-generic/fcntl.h`), which the libc crate does not name.
    const F_SETSIG: libc::c_int = 10;

    /// Linux maps what it has in memory around a page that is asked for, this far: 64 KiB from a border of as many, if
    /// nobody set `fault_around_bytes` to less. Then the other pages are mapped when they are looked at.
    const AROUND_BYTES: usize = 64 << 10;

    /// File systems of one machine (`linux/magic.h`): ext2 to ext4, XFS, Btrfs, F2FS, tmpfs.
    const LOCAL: [u64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994];

    /// Leases a file of this machine.
    pub(super) fn lease(file: &File) -> bool {
        let local = |found: rustix::fs::StatFs| LOCAL.contains(&(found.f_type as u64));
        if !rustix::fs::fstatfs(file).is_ok_and(local) {
            return false;
        }
        // Whoever waits for the lease is announced with a signal: one that is ignored unless somebody asked for it. The
        // default, SIGIO, ends a process.
        fcntl(file, F_SETSIG, libc::SIGURG) == 0 && fcntl(file, libc::F_SETLEASE, libc::F_RDLCK) == 0
    }

    /// Tells whether a lease was neither taken away, nor is to be given back.
    pub(super) fn is_leased(file: &File) -> bool {
        fcntl(file, libc::F_GETLEASE, 0) == libc::F_RDLCK
    }

    pub(super) fn give_back(file: &File) {
        // One that was taken away is given back already.
        fcntl(file, libc::F_SETLEASE, libc::F_UNLCK);
    }

    fn fcntl(file: &File, what: libc::c_int, how: libc::c_int) -> libc::c_int {
        // SAFETY: each of the calls above takes a descriptor, which is open, and a number; none touches memory of this
        // process.
        unsafe { libc::fcntl(file.as_raw_fd(), what, how) }
    }

    /// Maps `range` of a leased file, with all of it in memory.
    pub(super) fn map(file: &File, range: ByteRange) -> Option<Mmap> {
        let meta = file.metadata().ok()?;
        if meta.len() < range.end() {
            return None;
        }
        let mut options = MmapOptions::new();
        options.offset(range.start()).len(usize::try_from(range.len()).ok()?);
        // SAFETY: with the lease nobody has the file open or mapped for writing, and nobody gets it so, nor truncates
        // it, until the lease is given back, which the owner of this map does after the map is gone. Where the system
        // took the lease away before, what was seen is not used (see the head of this file).
        let map = unsafe { options.map(file) }.ok()?;
        // To ask for each page has the system walk its tables for every one of them, which takes four times as long as
        // to map them. So it is asked for one in as many as it maps with one, and then whether it has the others, too:
        // what it tells about a file only to those whose file it is.
        let own = meta.uid() == rustix::process::geteuid().as_raw();
        if own {
            let next = AROUND_BYTES - map.as_ptr().addr() % AROUND_BYTES;
            for at in std::iter::once(0).chain((next..map.len()).step_by(AROUND_BYTES)) {
                map.advise_range(Advice::PopulateRead, at, 1).ok()?;
            }
        }
        if !own || !is_kept(&map) {
            // What is not in memory after all, the system reads here.
            map.advise(Advice::PopulateRead).ok()?;
        }
        Some(map)
    }

    /// Tells whether the system has all of a map in memory, mapped or not. (Of a file that the process neither owns nor
    /// may write it says so in any case.)
    pub(super) fn is_kept(map: &Mmap) -> bool {
        // SAFETY: the call takes a number, and touches no memory of this process.
        let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else { return false };
        let before = map.as_ptr().addr() % page;
        let len = before + map.len();
        let mut kept = vec![0; len.div_ceil(page)];
        // SAFETY: the call reads no memory of the map, whose pages begin `before` bytes before its first byte, and
        // writes one byte for each of them, which is what `kept` has room for.
        let asked = unsafe { libc::mincore(map.as_ptr().sub(before).cast_mut().cast(), len, kept.as_mut_ptr()) };
        asked == 0 && kept.iter().all(|state| state & 1 == 1)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).unwrap()
    }

    /// Leases of files in the folder for temporary ones, if its file system has them.
    fn leased(path: &std::path::Path, range: ByteRange) -> Option<Leased> {
        Leased::new(Arc::new(File::open(path).unwrap()), range)
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
        assert!(leased.stayed());
        let other = Arc::new(File::open(&path).unwrap());
        assert!(Leased::new(Arc::clone(&other), range(0, 3_000_001)).is_none(), "past the end");
        assert!(!linux::is_leased(&other), "what failed left a lease");
        drop(leased);
        File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    }

    #[test]
    fn pages_that_were_dropped_are_read_again() {
        const BYTES: u64 = (3 << 20) + 77;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let bytes: Vec<u8> = (0..BYTES).map(|i| (i * 7 + i / 255) as u8).collect();
        // Page by page: so each can be dropped.
        let mut file = File::create(&path).unwrap();
        bytes.chunks(4096).for_each(|page| file.write_all(page).unwrap());
        file.sync_all().unwrap();
        drop(file);
        let file = Arc::new(File::open(&path).unwrap());
        if Leased::new(Arc::clone(&file), range(0, 1)).is_none() {
            return;
        }
        let in_memory = rustix::fs::fstatfs(&file).unwrap().f_type as u64 == 0x0102_1994;
        for (start, len) in [(68 << 10, 4 << 10), (1 << 20, 1 << 20), (0, BYTES)] {
            let len = std::num::NonZero::new(len);
            rustix::fs::fadvise(&file, start, len, rustix::fs::Advice::DontNeed).unwrap();
            // SAFETY: nobody else has the file.
            let bare = unsafe { memmap2::Mmap::map(&*file) }.unwrap();
            // A file system in memory drops nothing.
            assert!(in_memory || !linux::is_kept(&bare), "{len:?} bytes at {start} are there");
            let mut leased = Leased::new(Arc::clone(&file), range(1000, BYTES)).unwrap();
            assert!(linux::is_kept(leased.map.as_ref().unwrap()), "{len:?} bytes at {start}");
            assert!(leased.lend(range(1000, BYTES)).unwrap() == &bytes[1000..]);
        }
    }

    #[test]
    fn a_file_that_is_open_for_writing_is_not_leased() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, [7; 10_000]).unwrap();
        let writer = File::options().write(true).open(&path).unwrap();
        assert!(leased(&path, range(0, 10_000)).is_none());
        drop(writer);
        let Some(leased) = leased(&path, range(0, 10_000)) else { return };
        // It is told to wait, and whoever looks is told of it.
        let refused = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock);
        assert!(!leased.stayed());
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
