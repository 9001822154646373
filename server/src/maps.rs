//! Files of a store on this machine, mapped, so that the kernel copies them from its own cache to a socket and no byte
//! of them passes through memory of this process.
//!
//! The kernel alone may read the memory of a map: where somebody cuts the file short, its write to the socket fails
//! with an error, but a read by this process would end it with a signal. Must never be used where bytes are looked at
//! here: to verify them, to encrypt them.

#![allow(unsafe_code, reason = "mapping a file is, because others may change it")]

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use gigastore_formats::ambient::Ambient;
use gigastore_formats::range::ByteRange;
use memmap2::Mmap;

/// Maps that are kept: 256 of 64 MiB, 16 GiB of addresses and no memory but the kernel's tables, 8 bytes for 4 KiB.
const KEPT: usize = 256;

/// Maps of files, by their last use.
#[derive(Debug, Default)]
pub(crate) struct Maps {
    /// The longest unused first.
    kept: Mutex<Vec<Mapped>>,
}

/// A mapped file.
#[derive(Clone, Debug)]
pub(crate) struct Mapped {
    path: PathBuf,
    /// Which file it was, and how long.
    file: (u64, u64, u64),
    map: Arc<Mmap>,
}

/// The memory of a map as the owner of [`Bytes`].
struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Maps {
    /// Maps a file, or finds it mapped. One that has been cut short or replaced since is mapped anew.
    pub(crate) fn open(&self, path: &Path) -> io::Result<Mapped> {
        let now = identity(&path.metadata()?);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().position(|mapped| mapped.path == path).map(|at| kept.remove(at));
        let mapped = match found.filter(|mapped| mapped.file == now) {
            Some(mapped) => mapped,
            None => Mapped::new(path)?,
        };
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push(mapped.clone());
        Ok(mapped)
    }
}

impl Mapped {
    fn new(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: stored objects are never written again; where somebody breaks that rule, the memory changes under the
        // kernel, which alone reads it (see the head of this file), and whoever gets the bytes verifies them.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Self { path: path.to_owned(), file: identity(&metadata), map: Arc::new(map) })
    }

    /// Returns the file's bytes.
    pub(crate) fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Returns the bytes of `range` for the kernel to read, once they are in its cache: no thread that serves sockets
    /// waits for a disk.
    pub(crate) async fn range(&self, ambient: &Arc<dyn Ambient>, range: ByteRange) -> io::Result<Bytes> {
        if range.end() > self.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (map, start, len) = (Arc::clone(&self.map), range.start() as usize, range.len() as usize);
        let bytes = Bytes::from_owner(Owner(Arc::clone(&self.map))).slice(start..start + len);
        ambient.computed(move || populate(&map, start, len)).await?;
        Ok(bytes)
    }
}

/// Has the kernel read a part of a file and enter it in its tables. Where it can't (the file was cut short) it says
/// so.
#[cfg(target_os = "linux")]
fn populate(map: &Mmap, start: usize, len: usize) -> io::Result<()> {
    map.advise_range(memmap2::Advice::PopulateRead, start, len)
}

/// Only Linux populates on demand; elsewhere the write to the socket waits for the disk.
#[cfg(not(target_os = "linux"))]
fn populate(map: &Mmap, start: usize, len: usize) -> io::Result<()> {
    map.advise_range(memmap2::Advice::WillNeed, start, len)
}

fn identity(metadata: &Metadata) -> (u64, u64, u64) {
    (metadata.dev(), metadata.ino(), metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_short_or_replaced_is_mapped_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let maps = Maps::default();
        assert_eq!(maps.open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(&path, [7; 10_000]).unwrap();
        let (first, again) = (maps.open(&path).unwrap(), maps.open(&path).unwrap());
        assert!(Arc::ptr_eq(&first.map, &again.map));
        File::options().write(true).open(&path).unwrap().set_len(5000).unwrap();
        assert_eq!((first.len(), maps.open(&path).unwrap().len()), (10_000, 5000));
        std::fs::write(folder.path().join("y"), [8; 5000]).unwrap();
        std::fs::rename(folder.path().join("y"), &path).unwrap();
        assert_eq!(maps.open(&path).unwrap().map[..], [8; 5000]);
        assert_eq!(maps.kept.lock().unwrap().len(), 1);
    }

    #[test]
    fn only_so_many_maps_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let maps = Maps::default();
        for i in 0..KEPT + 3 {
            let path = folder.path().join(i.to_string());
            std::fs::write(&path, "x").unwrap();
            assert_eq!(maps.open(&path).unwrap().len(), 1);
        }
        assert_eq!(maps.kept.lock().unwrap().len(), KEPT);
        assert!(!maps.kept.lock().unwrap().iter().any(|mapped| mapped.path.ends_with("0")));
    }
}
