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
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use gigastore_formats::ambient::Ambient;
use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::{Fault, FaultCode};
use rustix::fs::OFlags;

use super::leased::Leased;
use crate::transport::{Source, Taker};

/// Bytes between two looks at what is in memory: the length of most groups.
const LOOK_BYTES: usize = 1 << 20;

/// What direct reads start and end on, in the file and in memory: the largest sector of common disks.
const SECTOR_BYTES: usize = 4096;

/// Bytes of one direct read, at most: 1 MiB, the length of most groups, which start on a sector.
const SECTORS_BYTES: usize = 1 << 20;

thread_local! {
    /// Where direct reads of this thread go, while no file has it.
    static SECTORS: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A file that is open, for the reads of one object.
#[derive(Debug)]
struct Opened {
    file: Arc<File>,
    path: PathBuf,
    /// Of what is in memory, once somebody looked there; nothing where it can't be leased, or not any more.
    leased: OnceLock<Mutex<Option<Arc<Leased>>>>,
}

/// Where the file of an object is kept open from one read to the next, once it is found in memory: to open it costs a
/// thread that may wait.
#[derive(Debug, Default)]
pub struct Shared(OnceLock<Arc<Opened>>);

/// Passes what `taker` wants from a file of this machine to it. What the file does not give is left: whoever else has
/// the bytes is asked, and says what is wrong. `afresh`: from the disk, whatever is in memory.
pub(crate) async fn pass_file(ambient: &dyn Ambient, path: PathBuf, taker: &Arc<dyn Taker>, afresh: bool) {
    let shared = taker.file().filter(|_| !afresh);
    let opened = match shared.and_then(|shared| shared.0.get()) {
        Some(opened) => Arc::clone(opened),
        None => {
            let cold = Arc::clone(taker);
            // Here, as a file system that is not there any more can keep this waiting.
            let begin = move || {
                let opened = open(path)?;
                let look = if afresh { Err(io::ErrorKind::WouldBlock.into()) } else { opened.look(cold.rest()) };
                match look {
                    Ok(()) => Ok(Some(Arc::new(opened))),
                    Err(error) => opened.pass_cold(&*cold, &error).map(|()| None),
                }
            };
            // What goes wrong here or below, whoever is asked next says.
            let Ok(Some(opened)) = ambient.waited(begin).await else { return };
            match shared {
                Some(shared) => Arc::clone(shared.0.get_or_init(|| opened)),
                None => opened,
            }
        }
    };
    let (kept, warm) = (Arc::clone(&opened), Arc::clone(taker));
    let Err(error) = ambient.computed(move || kept.pass_kept(&*warm)).await else { return };
    // Some of it is not in memory, or not any more.
    let taker = Arc::clone(taker);
    let _ = ambient.waited(move || opened.pass_cold(&*taker, &error)).await;
}

impl Opened {
    /// Tells whether a range is in memory, by a byte here and there: the system drops what lies together together.
    fn look(&self, range: ByteRange) -> io::Result<()> {
        let starts = (range.start()..range.end()).step_by(LOOK_BYTES);
        let mut looks = starts.chain(range.end().checked_sub(1));
        looks.try_for_each(|position| Kept(&self.file).read(position, &mut [0]))
    }

    /// Passes what is in memory, if all of it is.
    fn pass_kept(&self, taker: &dyn Taker) -> io::Result<()> {
        let range = taker.rest();
        if range.is_empty() {
            return Ok(());
        }
        let leased = self.leased();
        self.look(range)?;
        let taken = match leased.as_ref().and_then(|leased| leased.part(range)) {
            Some(mut part) => taker.take(&mut part),
            None => taker.take(&mut Kept(&self.file)),
        };
        taken.map_err(|fault| io::Error::other(fault.message))
    }

    /// Returns the file as it lies in memory. Where somebody waits to write to it nobody looks there again.
    fn leased(&self) -> Option<Arc<Leased>> {
        self.leased.get_or_init(|| Mutex::new(Leased::new(Arc::clone(&self.file)).map(Arc::new)));
        self.let_go()
    }

    /// Gives a lease back that somebody waits for, when those who look have noticed, too; returns one that stays.
    fn let_go(&self) -> Option<Arc<Leased>> {
        let mut leased = self.leased.get()?.lock().unwrap_or_else(PoisonError::into_inner);
        leased.take_if(|leased| !leased.stayed());
        leased.clone()
    }

    /// Passes what a look at the memory did not give; `error` is what came of that look.
    fn pass_cold(&self, taker: &dyn Taker, error: &io::Error) -> io::Result<()> {
        // This read does not look, but may be the first to see that somebody waits.
        self.let_go();
        // A file system that can't tell what it keeps may keep all of it.
        let direct = error.kind() != io::ErrorKind::Unsupported;
        let taken = taker.take(&mut OnDisk::new(&self.file, &self.path, direct));
        taken.map_err(|fault| io::Error::other(fault.message))
    }
}

fn failed(error: io::Error) -> Fault {
    Fault::new(FaultCode::Unavailable, &error)
}

fn open(path: PathBuf) -> io::Result<Opened> {
    // Opening a pipe would wait for whoever writes to it.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(&path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a regular file", path.display())));
    }
    Ok(Opened { file: Arc::new(file), path, leased: OnceLock::new() })
}

/// What the system keeps of a file in memory.
struct Kept<'f>(&'f File);

impl Kept<'_> {
    #[cfg(target_os = "linux")]
    fn read(&self, position: u64, into: &mut [u8]) -> io::Result<()> {
        use rustix::io::{ReadWriteFlags, preadv2};
        let mut filled = 0;
        while filled < into.len() {
            let rest = &mut [io::IoSliceMut::new(&mut into[filled..])];
            match preadv2(self.0, rest, position + filled as u64, ReadWriteFlags::NOWAIT) {
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

impl Source for Kept<'_> {
    fn fill_at(&mut self, position: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.read(position, into).map_err(failed)
    }
}

/// A file that has to be waited for.
struct OnDisk<'f> {
    file: &'f File,
    /// The same past the page cache, where the file system has that.
    direct: Option<File>,
    /// Where direct reads go: whole sectors from a border of a sector on.
    sectors: Vec<u8>,
}

impl<'f> OnDisk<'f> {
    fn new(file: &'f File, path: &Path, direct: bool) -> Self {
        let direct = direct.then(|| open_direct(path).ok()).flatten();
        let mut sectors = SECTORS.take();
        if direct.is_some() {
            sectors.resize(SECTORS_BYTES + SECTOR_BYTES, 0);
        }
        Self { file, direct, sectors }
    }

    /// Reads past the page cache from `position` on; returns as much of `len` bytes as come with one read, and not
    /// fewer but where the file ends.
    fn direct(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        let Some(file) = &self.direct else { return Err(io::ErrorKind::Unsupported.into()) };
        let border = self.sectors.as_ptr().align_offset(SECTOR_BYTES);
        let before = position as usize % SECTOR_BYTES;
        let asked = (before + len).next_multiple_of(SECTOR_BYTES).min(SECTORS_BYTES);
        let sectors = &mut self.sectors[border..border + asked];
        let read = read_sectors(file, position - before as u64, sectors)?;
        let wanted = sectors[..read].get(before..).unwrap_or_default();
        Ok(&wanted[..wanted.len().min(len)])
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

impl Source for OnDisk<'_> {
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

impl Drop for OnDisk<'_> {
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
#[path = "local_test.rs"]
mod tests;
