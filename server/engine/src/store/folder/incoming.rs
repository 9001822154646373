//! A file on its way into a folder: under a name that no object has, until all of it is there and durable.
//!
//! Its bytes are written in long pages, as the system keeps files in memory, so that whoever reads it from there has it
//! mapped by a few of them. Must never leave a file behind that was given up.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use gigastore_formats::ambient::Ambient;

use super::super::disk::{reserve, write_back};
use super::super::objects::Created;
use super::{Folder, Naming, Unwritten, failed, folder_of, make_folder};

/// Bytes that one call writes: 2 MiB, from a border of as many on. They lie in one page then, where the file system has
/// such, and one entry of the processor's tables maps it: what is restored from memory is there a tenth faster. Writes
/// of 256 KiB are as fast where memory is full of old files; where a virtual machine has to get free memory back from
/// its host, saves are a sixth faster with them.
const PAGE_BYTES: u64 = 2 << 20;

/// Bytes after which the disk is set to work on them: 8 MiB, above which disks get no faster.
pub(super) const WRITE_BACK_BYTES: u64 = 8 << 20;

/// An incoming file between two jobs. Given up, it is removed by a thread that may wait for that.
pub(super) struct Staged {
    incoming: Option<Incoming>,
    ambient: Arc<dyn Ambient>,
}

impl Staged {
    pub(super) fn new(incoming: Incoming, ambient: Arc<dyn Ambient>) -> Self {
        Self { incoming: Some(incoming), ambient }
    }

    /// Appends bytes.
    pub(super) async fn write(&mut self, pieces: Vec<Bytes>) -> Result<(), Unwritten> {
        let Some(mut incoming) = self.incoming.take() else { return Ok(()) };
        let write = move || {
            let wrote = pieces.into_iter().try_for_each(|piece| incoming.write(piece));
            (incoming, wrote)
        };
        let (incoming, wrote) = self.ambient.waited(write).await;
        self.incoming = Some(incoming);
        Ok(wrote?)
    }

    /// Makes the file durable and visible.
    pub(super) async fn publish(mut self, naming: Naming) -> Result<Created, Unwritten> {
        match self.incoming.take() {
            Some(incoming) => self.ambient.waited(move || incoming.publish(naming)).await,
            None => Err(io::Error::other("its file is gone").into()),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            self.ambient.wait(Box::new(move || drop(incoming)));
        }
    }
}

/// A file on its way: under a name that no object has, until it is published. Unpublished, it is removed when dropped.
#[derive(Debug)]
pub(super) struct Incoming {
    store: Arc<Folder>,
    /// Closed before it has its name.
    file: Option<File>,
    staged: PathBuf,
    path: PathBuf,
    /// Bytes that it will have.
    len: u64,
    written: u64,
    /// What is less than a page, and comes after what is written.
    gathered: Vec<Bytes>,
    /// Bytes that it has with these.
    taken: u64,
    /// Bytes that the disk was set to work on.
    begun: u64,
    /// The staged name is gone: another writer may have it by now.
    renamed: bool,
}

impl Incoming {
    /// Begins a file of `len` bytes that will be `path`, in a folder that is made where it is not there yet. With a
    /// `number` that was drawn nobody has its name again: a writer that slept while its file was swept away as
    /// abandoned must not publish that of another.
    pub(super) fn new(store: Arc<Folder>, path: PathBuf, mut number: u64, len: u64) -> io::Result<Self> {
        loop {
            // The object store's own names for this: it lists no such file.
            let mut staged = OsString::from(&path);
            staged.push(format!("#{number}"));
            let staged = PathBuf::from(staged);
            match OpenOptions::new().write(true).create_new(true).open(&staged) {
                Ok(file) => {
                    let (file, gathered) = (Some(file), Vec::new());
                    let (written, taken, begun) = (0, 0, 0);
                    return Ok(Self {
                        store,
                        file,
                        staged,
                        path,
                        len,
                        written,
                        gathered,
                        taken,
                        begun,
                        renamed: false,
                    });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number = number.wrapping_add(1),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    store.forget();
                    make_folder(folder_of(&path)?)?;
                }
                Err(error) => return Err(failed("made", &staged)(error)),
            }
        }
    }

    /// Takes room for all of it. Not for what others send at their own pace: whether there is room for that is counted
    /// where it comes in, and this would count it twice.
    pub(super) fn reserve(&self) {
        self.file.iter().for_each(|file| reserve(file, self.len));
    }

    /// Appends bytes; less than a page of them waits for more.
    pub(super) fn write(&mut self, mut piece: Bytes) -> io::Result<()> {
        while !piece.is_empty() {
            let room = PAGE_BYTES - self.taken % PAGE_BYTES;
            let now = piece.split_to(piece.len().min(room as usize));
            self.taken += now.len() as u64;
            self.gathered.push(now);
            if self.taken.is_multiple_of(PAGE_BYTES) {
                self.write_gathered()?;
            }
        }
        Ok(())
    }

    /// Has all writes from here on fail.
    #[cfg(test)]
    pub(super) fn fail(&mut self) {
        self.file = File::open(&self.staged).ok();
    }

    fn write_gathered(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Err(ErrorKind::BrokenPipe.into()) };
        let gathered = std::mem::take(&mut self.gathered);
        let mut slices: Vec<IoSlice<'_>> = gathered.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            match file.write_vectored(rest) {
                Ok(0) => return Err(failed("written", &self.staged)(ErrorKind::WriteZero.into())),
                Ok(bytes) => {
                    self.written += bytes as u64;
                    IoSlice::advance_slices(&mut rest, bytes);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("written", &self.staged)(error)),
            }
        }
        if self.written - self.begun >= WRITE_BACK_BYTES {
            write_back(file, self.begun, self.written - self.begun);
            self.begun = self.written;
        }
        Ok(())
    }

    /// Makes the file durable, then visible, then its name durable.
    pub(super) fn publish(mut self, naming: Naming) -> Result<Created, Unwritten> {
        self.write_gathered()?;
        if self.written != self.len {
            // What has room and was not written would be zeros.
            let (expected, actual) = (self.len, self.written);
            return Err(Unwritten::Body(format!("expected {expected} bytes, but {actual} came").into()));
        }
        if let Some(file) = self.file.take() {
            file.sync_data().map_err(failed("synced", &self.staged))?;
        }
        match naming {
            Naming::New => match fs::hard_link(&self.staged, &self.path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    let gone = || io::Error::other(format!("{} was there and is gone", self.path.display()));
                    return Ok(self.store.find(&self.path)?.ok_or_else(gone)?);
                }
                linked => linked.map_err(failed("linked", &self.path))?,
            },
            Naming::Over => {
                fs::rename(&self.staged, &self.path).map_err(failed("renamed", &self.path))?;
                self.renamed = true;
            }
        }
        let (store, path) = (Arc::clone(&self.store), self.path.clone());
        // The staged name goes first, so that one sync of the folder does for both.
        drop(self);
        store.keep_anew(&path)?;
        store.know([path]);
        Ok(Created::New)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.renamed {
            // One that stays takes room under a name that no object has, and nothing else.
            let _ = fs::remove_file(&self.staged);
        }
    }
}
