//! Stored objects that are files of this machine: what is in memory from there, the rest past the page cache.
//!
//! A read through the page cache costs a cold file more than its hash: pages to be found, and a copy. Read directly, a
//! disk brings its bytes while the processors hash, at the price that the next reader finds nothing kept. It brings
//! those of a restore to a little memory that is used again, not to where they belong: pages of a trainer's tensors lie
//! all over the memory, and with a disk that has to go to each of them restores were measured at 0.92 of the speed. (A
//! process that forks meanwhile may find such a read damaged on kernels before 6.5; it is noticed and read again.) Must
//! never wait for a disk on a thread that hashes for others.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gigastore_formats::ambient::Ambient;
use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::{Fault, FaultCode};
use rustix::fs::OFlags;

use super::leased::Leased;
use crate::transport::{Source, Taker};

/// Bytes between two looks at what is in memory: 1 MiB.
const LOOK_BYTES: usize = 1 << 20;

/// What direct reads start and end on, in the file and in memory: the largest sector of common disks.
const SECTOR_BYTES: usize = 4096;

/// Bytes of one direct read, at most: 1 MiB, four groups. Disks are slower in shorter ones.
const SECTORS_BYTES: usize = 1 << 20;

thread_local! {
    /// Where direct reads of this thread go, while no file has it.
    static SECTORS: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Passes what `taker` wants from a file of this machine to it. What the file does not give is left: whoever else has
/// the bytes is asked, and says what is wrong. `afresh`: from the disk, whatever is in memory.
pub(crate) async fn pass_file(ambient: &dyn Ambient, path: PathBuf, taker: &Arc<dyn Taker>, afresh: bool) {
    let (cold, warm) = (Arc::clone(taker), Arc::clone(taker));
    // Here, as a file system that is not there any more can keep this waiting.
    let begin = move || {
        let file = Arc::new(open(&path)?);
        let look = if afresh { Err(io::ErrorKind::WouldBlock.into()) } else { look(&file, cold.rest()) };
        match look {
            Ok(()) => Ok(Some((file, path))),
            Err(error) => pass_cold(file, &path, &*cold, &error).map(|()| None),
        }
    };
    // What goes wrong here or below, whoever is asked next says.
    let Ok(Some((file, path))) = ambient.waited(begin).await else { return };
    let begun = Arc::clone(&file);
    let Err(error) = ambient.computed(move || take_kept(begun, &*warm)).await else { return };
    // Some of it was dropped from memory meanwhile.
    let taker = Arc::clone(taker);
    let _ = ambient.waited(move || pass_cold(file, &path, &*taker, &error)).await;
}

/// Tells whether a range of a file is in memory, by a byte here and there: the system drops what lies together
/// together.
fn look(file: &Arc<File>, range: ByteRange) -> io::Result<()> {
    let kept = Kept(Arc::clone(file));
    let starts = (range.start()..range.end()).step_by(LOOK_BYTES);
    starts.chain(range.end().checked_sub(1)).try_for_each(|position| kept.read(position, &mut [0]))
}

/// Passes what is in memory.
fn take_kept(file: Arc<File>, taker: &dyn Taker) -> io::Result<()> {
    let taken = match Leased::new(Arc::clone(&file), taker.rest()) {
        Some(mut leased) => taker.take(&mut leased),
        None => taker.take(&mut Kept(file)),
    };
    taken.map_err(|fault| io::Error::other(fault.message))
}

/// Passes what a look at the memory did not give; `error` is what came of that look.
fn pass_cold(file: Arc<File>, path: &Path, taker: &dyn Taker, error: &io::Error) -> io::Result<()> {
    // A file system that can't tell what it keeps may keep all of it.
    let direct = error.kind() != io::ErrorKind::Unsupported;
    let taken = taker.take(&mut OnDisk::new(file, path, direct, taker.rest().end()));
    taken.map_err(|fault| io::Error::other(fault.message))
}

fn failed(error: io::Error) -> Fault {
    Fault::new(FaultCode::Unavailable, &error)
}

fn open(path: &Path) -> io::Result<File> {
    // Opening a pipe would wait for whoever writes to it.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a regular file", path.display())));
    }
    Ok(file)
}

/// What the system keeps of a file in memory.
struct Kept(Arc<File>);

impl Kept {
    #[cfg(target_os = "linux")]
    fn read(&self, position: u64, into: &mut [u8]) -> io::Result<()> {
        use rustix::io::{ReadWriteFlags, preadv2};
        let mut filled = 0;
        while filled < into.len() {
            let rest = &mut [io::IoSliceMut::new(&mut into[filled..])];
            match preadv2(&self.0, rest, position + filled as u64, ReadWriteFlags::NOWAIT) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(rustix::io::Errno::INTR) => {}
                // `WouldBlock` where it is not in memory, `Unsupported` where the file system can't tell.
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Elsewhere the system does not tell.
    #[cfg(not(target_os = "linux"))]
    fn read(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Source for Kept {
    fn fill_at(&mut self, position: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.read(position, into).map_err(failed)
    }
}

/// A file that has to be waited for.
struct OnDisk {
    file: Arc<File>,
    /// The same past the page cache, where the file system has that.
    direct: Option<File>,
    /// Where direct reads go: whole sectors from a border of a sector on.
    sectors: Vec<u8>,
    /// Which bytes of the file are there, from the border on.
    there: Range<u64>,
    /// Where what is wanted of the file ends: nothing is read ahead from there on.
    end: u64,
}

impl OnDisk {
    fn new(file: Arc<File>, path: &Path, direct: bool, end: u64) -> Self {
        let direct = direct.then(|| open_direct(path).ok()).flatten();
        let mut sectors = SECTORS.take();
        if direct.is_some() {
            sectors.resize(SECTORS_BYTES + SECTOR_BYTES, 0);
        }
        Self { file, direct, sectors, there: 0..0, end }
    }

    /// Reads past the page cache from `position` on, and ahead; returns as much of `len` bytes as come with one read,
    /// and not fewer but where the file ends.
    fn direct(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        let before = position as usize % SECTOR_BYTES;
        let start = position - before as u64;
        let wanted = start + (before + len).min(SECTORS_BYTES) as u64;
        if !self.there.contains(&start) || wanted > self.there.end {
            let ahead = self.end.min(start.saturating_add(SECTORS_BYTES as u64));
            self.read_to(start, wanted.max(ahead))?;
        }
        let border = self.sectors.as_ptr().align_offset(SECTOR_BYTES);
        let sectors = &self.sectors[border..][..(self.there.end - self.there.start) as usize];
        let found = sectors.get((position - self.there.start) as usize..).unwrap_or_default();
        Ok(&found[..found.len().min(len).min(SECTORS_BYTES - before)])
    }

    /// Reads the sectors from `start` to `end`. Those that are there already are not read again.
    fn read_to(&mut self, start: u64, end: u64) -> io::Result<()> {
        let Some(file) = &self.direct else { return Err(io::ErrorKind::Unsupported.into()) };
        let border = self.sectors.as_ptr().align_offset(SECTOR_BYTES);
        let there = std::mem::replace(&mut self.there, start..start);
        let mut kept = 0;
        if there.contains(&start) {
            let from = border + (start - there.start) as usize;
            // Of a sector at the end of the file a part is there.
            kept = (there.end - start) as usize / SECTOR_BYTES * SECTOR_BYTES;
            self.sectors.copy_within(from..from + kept, border);
        }
        let asked = ((end - start) as usize).next_multiple_of(SECTOR_BYTES);
        let read = read_sectors(file, start + kept as u64, &mut self.sectors[border + kept..border + asked])?;
        self.there.end = start + (kept + read) as u64;
        Ok(())
    }

    /// Fills `into` past the page cache; tells how much of it.
    fn fill(&mut self, position: u64, into: &mut [u8]) -> io::Result<usize> {
        // Large buffers that start and end with sectors are filled where they are.
        if let Some(file) = &self.direct
            && [position as usize, into.as_ptr().addr(), into.len()].iter().all(|at| at.is_multiple_of(SECTOR_BYTES))
        {
            return read_sectors(file, position, into);
        }
        let mut filled = 0;
        while filled < into.len() {
            let rest = &mut into[filled..];
            let read = self.direct(position + filled as u64, rest.len())?;
            rest[..read.len()].copy_from_slice(read);
            if read.is_empty() {
                break;
            }
            filled += read.len();
        }
        Ok(filled)
    }
}

/// Fills whole sectors from a file; tells how many bytes, which are fewer only where it ends.
fn read_sectors(file: &File, position: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        let read = file.read_at(&mut into[filled..], position + filled as u64)?;
        filled += read;
        // A file ends, and so does what can be read of it in whole sectors.
        if read == 0 || !read.is_multiple_of(SECTOR_BYTES) {
            break;
        }
    }
    Ok(filled)
}

impl Source for OnDisk {
    fn fill_at(&mut self, position: u64, into: &mut [u8]) -> Result<(), Fault> {
        let filled = self.fill(position, into).unwrap_or_else(|_| {
            // Some file systems open a file for direct reads and then refuse these.
            self.direct = None;
            0
        });
        self.file.read_exact_at(&mut into[filled..], position + filled as u64).map_err(failed)
    }

    fn lend(&mut self, range: ByteRange) -> Option<&[u8]> {
        let len = usize::try_from(range.len()).ok()?;
        if range.start() as usize % SECTOR_BYTES + len > SECTORS_BYTES {
            return None;
        }
        self.direct(range.start(), len).ok().filter(|read| read.len() == len)
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        SECTORS.set(std::mem::take(&mut self.sectors));
    }
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?.into())
}

/// Elsewhere files are read through the system's cache.
#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of so many bytes, in a folder of its own.
    fn file(len: usize) -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + i / 255) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        (folder, path, bytes)
    }

    #[test]
    fn every_piece_of_a_file_is_read_wherever_it_goes() {
        let (_folder, path, bytes) = file(3 * SECTORS_BYTES + 1000);
        let mut memory = vec![0; bytes.len() + 2 * SECTOR_BYTES];
        let border = memory.as_ptr().align_offset(SECTOR_BYTES);
        for (at, len, off) in [
            (0, bytes.len(), 0),
            (0, bytes.len(), 16),
            (SECTOR_BYTES, 2 * SECTORS_BYTES, 0),
            (4097, 2 * SECTORS_BYTES + 5, 0),
            (bytes.len() - 1, 1, 0),
            (3 * SECTORS_BYTES, 1000, 3),
            (77, 0, 0),
        ] {
            for (direct, end) in [(false, 0), (true, 0), (true, bytes.len() as u64)] {
                let mut on_disk = OnDisk::new(Arc::new(open(&path).unwrap()), &path, direct, end);
                let into = &mut memory[border + off..][..len];
                into.fill(0);
                on_disk.fill_at(at as u64, into).unwrap();
                assert!(into == &bytes[at..at + len], "{len} bytes at {at} to {off}, direct {direct}");
                let range = ByteRange::with_len(at as u64, len as u64).unwrap();
                let fits = at % SECTOR_BYTES + len <= SECTORS_BYTES;
                let expected = (fits && on_disk.direct.is_some()).then_some(&*into);
                assert!(on_disk.lend(range) == expected, "{len} bytes at {at} are lent, direct {direct}");
            }
        }
        let mut on_disk = OnDisk::new(Arc::new(open(&path).unwrap()), &path, true, 0);
        let past = on_disk.fill_at(bytes.len() as u64 - 10, &mut [0; 20]);
        assert!(past.unwrap_err().message.contains("fill"), "a file that ends early is no file of zeros");
    }

    #[test]
    fn what_is_read_ahead_is_not_read_again_and_ends_where_nothing_is_wanted() {
        let (_folder, path, bytes) = file(3 * SECTORS_BYTES + 1000);
        let file = Arc::new(open(&path).unwrap());
        let group = SECTORS_BYTES / 4;
        for end in [0, 5 * group + 77, bytes.len()] {
            let mut on_disk = OnDisk::new(Arc::clone(&file), &path, true, end as u64);
            // One after the other, from a sector and from within one; back; over a gap; the end.
            let in_turn = (0..11).flat_map(|i| [(i * group, group), (i * group + 100, group)]);
            for (at, len) in in_turn.chain([(5, 10), (9 * group, 3), (11 * group + 9, group), (12 * group + 5, 995)]) {
                let before = on_disk.there.clone();
                let range = ByteRange::with_len(at as u64, len as u64).unwrap();
                let Some(lent) = on_disk.lend(range) else {
                    assert!(on_disk.direct.is_none() || end == 0 && on_disk.there.is_empty(), "{len} bytes at {at}");
                    continue;
                };
                assert!(lent == &bytes[at..at + len], "{len} bytes at {at}");
                let there = &on_disk.there;
                if before.start <= range.start() && range.end() <= before.end {
                    assert_eq!(*there, before, "{len} bytes at {at}");
                }
                let most = range.end().max(end as u64).next_multiple_of(SECTOR_BYTES as u64).max(before.end);
                assert!(there.end <= most && there.end - there.start <= SECTORS_BYTES as u64, "{there:?}, {at}");
            }
        }
    }

    #[test]
    fn what_fails_after_it_was_read_ahead_is_read_otherwise_or_refused() {
        let (folder, path, bytes) = file(2 * SECTORS_BYTES);
        let group = SECTORS_BYTES / 4;
        let range = |index: usize| ByteRange::with_len((index * group) as u64, group as u64).unwrap();
        let of = |index: usize| &bytes[index * group..][..group];
        let begun = || {
            let mut on_disk = OnDisk::new(Arc::new(open(&path).unwrap()), &path, true, bytes.len() as u64);
            let lent = on_disk.lend(range(0)).map(<[u8]>::to_vec);
            assert!(lent.is_none_or(|lent| lent == of(0)));
            on_disk
        };
        let mut into = vec![0; group];

        // The file system refuses the next direct read: what is there is lent, the rest comes through the page cache.
        let mut on_disk = begun();
        let refused = File::create(folder.path().join("not for reads")).unwrap();
        on_disk.direct = on_disk.direct.take().map(|_| refused);
        assert!(on_disk.lend(range(2)).is_none_or(|lent| lent == of(2)));
        assert!(on_disk.lend(range(5)).is_none());
        for index in [5, 6, 1] {
            on_disk.fill_at((index * group) as u64, &mut into).unwrap();
            assert!(into == of(index), "group {index}");
        }

        // The file is shorter now.
        let mut on_disk = begun();
        File::options().write(true).open(&path).unwrap().set_len((4 * group) as u64 + 100).unwrap();
        assert!(on_disk.lend(range(4)).is_none());
        assert!(on_disk.fill_at((4 * group) as u64, &mut into).is_err());

        // No file has bytes there.
        for position in [u64::MAX - group as u64, u64::MAX - 5000, u64::MAX - 4096, i64::MAX as u64] {
            let len = (u64::MAX - position).min(group as u64);
            assert!(on_disk.lend(ByteRange::with_len(position, len).unwrap()).is_none(), "{position}");
            assert!(on_disk.fill_at(position, &mut into[..len as usize]).is_err(), "{position}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_was_just_written_is_kept_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, [7; 10_000]).unwrap();
        let mut into = [0; 5000];
        let kept = Kept(Arc::new(open(&path).unwrap()));
        match kept.read(5000, &mut into) {
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
            Ok(()) => assert_eq!(into, [7; 5000]),
        }
        assert!(kept.read(5001, &mut into).is_err(), "past the end");
        assert!(open(folder.path()).is_err(), "a folder");
    }
}
