//! Objects of a folder of this machine: written so that the disk is at work from the first pieces on, visible at once
//! and only when they are durable.
//!
//! The object store's own put leaves all of an object to the system until the end, so that the disk idles while bytes
//! come and the processors idle while it catches up. Must never replace a file, nor name one whose bytes could still be
//! lost.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use gigastore_formats::ambient::Ambient;

use super::disk::{reserve, write_back};
use super::objects::{Body, BodyError, Created, MadePieces};

/// Bytes that are written at once where they come in pieces: 2 MiB, long enough that the write costs more than handing
/// it to a thread, and short enough that many objects on their way fit into little memory.
const BATCH_BYTES: u64 = 2 << 20;

/// Memory of one object on its way: a batch that is written, one that is gathered, one that is checked before, and what
/// their pieces hold of the memory that they came in.
pub(super) const MEMORY_BYTES: u64 = 4 * BATCH_BYTES;

/// Bytes after which the disk is set to work on them: 8 MiB, above which disks get no faster.
const WRITE_BACK_BYTES: u64 = 8 << 20;

/// Bytes that one call writes, at most: 256 KiB. Longer writes get longer pages to lie in, which have to be found, or
/// got back from a virtual machine's host: with pages of 2 MiB saves took up to a fifth longer where memory was full, a
/// sixth where it was free, for restores from memory that were a tenth faster.
const WRITE_BYTES: u64 = 256 << 10;

/// Names that are known to be durable, at most: 65,536, some MiB. Beyond that all are forgotten and synced again.
const KEPT_NAMES: usize = 1 << 16;

/// A folder that is a store.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Names of folders, and of objects whose names are used once, that this process knows to be durable, with all
    /// between them and the store. Forgotten where a folder turns out to be gone.
    kept: Mutex<HashSet<PathBuf>>,
}

/// Why an object was not written.
#[derive(Debug)]
pub(super) enum Unwritten {
    /// The folder did not take it.
    Folder(io::Error),
    /// Its bytes did not come as promised.
    Body(BodyError),
}

impl From<io::Error> for Unwritten {
    fn from(error: io::Error) -> Self {
        Self::Folder(error)
    }
}

/// What becomes of a file that has the name already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Naming {
    /// It stays, and the new one is given up.
    New,
    /// The new one takes its place; who has it open reads on in the old one.
    Over,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, kept: Mutex::default() })
    }

    /// Returns the file of an object.
    pub(super) fn file(&self, key: &str) -> PathBuf {
        self.path.join(key)
    }

    /// Writes an object durably. With [`Naming::New`] one that is there stays, and is made durable, too: whoever wrote
    /// it may not have come so far.
    pub(super) async fn write(
        self: &Arc<Self>,
        ambient: &Arc<dyn Ambient>,
        key: &str,
        body: Body,
        naming: Naming,
    ) -> Result<Created, Unwritten> {
        let (folder, path, number, len) = (Arc::clone(self), self.file(key), ambient.random(), body.len());
        let begin = move || match naming {
            Naming::New if let Some(found) = folder.find(&path)? => Ok(Err(found)),
            Naming::New | Naming::Over => Incoming::new(folder, path, number, len).map(Ok),
        };
        // What is made may be long: no more of it than somebody waits for.
        let waiting = Arc::new(());
        let awaited = Arc::downgrade(&waiting);
        let made: MadePieces = match body {
            Body::Whole(pieces) => Box::new(pieces.into_iter().map(Ok)),
            Body::Made { mut pieces, .. } => {
                Box::new(std::iter::from_fn(move || (awaited.strong_count() > 0).then(|| pieces.next()).flatten()))
            }
            Body::Stream { mut pieces, .. } => {
                let incoming = match ambient.waited(begin).await? {
                    Ok(incoming) => incoming,
                    Err(found) => return Ok(found),
                };
                let mut staged = Staged { incoming: Some(incoming), ambient: Arc::clone(ambient) };
                let mut gathered = batch(&mut pieces, BATCH_BYTES).await.map_err(Unwritten::Body)?;
                while !gathered.is_empty() {
                    let next = async { batch(&mut pieces, BATCH_BYTES).await.map_err(Unwritten::Body) };
                    (gathered, _) = futures::try_join!(next, staged.write(gathered))?;
                }
                return match staged.incoming.take() {
                    Some(incoming) => ambient.waited(move || incoming.publish(naming)).await,
                    None => Err(io::Error::other("its file is gone").into()),
                };
            }
        };
        // One job for all: to hand steps over costs more than most, and what was made is still in the core's caches.
        let write = move || match begin()? {
            Ok(mut incoming) => {
                incoming.reserve();
                for piece in made {
                    incoming.write(&piece.map_err(Unwritten::Body)?)?;
                }
                incoming.publish(naming)
            }
            Err(found) => Ok(found),
        };
        let written = ambient.waited(write).await;
        drop(waiting);
        written
    }

    /// Looks whether an object is there; one that is, is durable then.
    fn find(&self, path: &Path) -> io::Result<Option<Created>> {
        match fs::metadata(path) {
            Ok(found) if found.is_file() => {
                self.keep_anew(path)?;
                Ok(Some(Created::Exists(found.len())))
            }
            Ok(_) => Err(io::Error::other(format!("{} is there and no object", path.display()))),
            // Where a folder should be is a file: who begins the object says so.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(failed("looked at", path)(error)),
        }
    }

    /// Makes names durable, whoever gave them, and those of the folders that they are in: by one sync of each folder
    /// around some of them.
    pub(super) fn keep<'p>(&self, paths: impl IntoIterator<Item = &'p Path>) -> io::Result<()> {
        let new: Vec<&Path> = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let unknown =
                |path: &'p Path| path.ancestors().take_while(|name| *name != self.path && !kept.contains(*name));
            paths.into_iter().flat_map(unknown).collect()
        };
        let around: BTreeSet<&Path> = new.iter().map(|name| folder_of(name)).collect::<io::Result<_>>()?;
        around.into_iter().try_for_each(sync_folder)?;
        self.know(new);
        Ok(())
    }

    /// Makes the name of a file durable whatever is known of it: it may be new, or that of an announcement or a part
    /// that was swept and came again.
    fn keep_anew(&self, path: &Path) -> io::Result<()> {
        let folder = folder_of(path)?;
        sync_folder(folder)?;
        self.keep([folder])
    }

    /// Forgets what was known: a folder is gone, and what was known of others may be as wrong.
    fn forget(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Tells whether the name of a file is known to be durable.
    pub(super) fn is_kept(&self, path: &Path) -> bool {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).contains(path)
    }

    fn know(&self, names: impl IntoIterator<Item = impl Into<PathBuf>>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_NAMES {
            kept.clear();
        }
        kept.extend(names.into_iter().map(Into::into));
    }
}

/// Gathers pieces until they are `least` bytes; none when there are no more.
pub(crate) async fn batch(
    pieces: &mut BoxStream<'static, Result<Bytes, BodyError>>,
    least: u64,
) -> Result<Vec<Bytes>, BodyError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < least
        && let Some(piece) = pieces.next().await.transpose()?
    {
        bytes += piece.len() as u64;
        batch.push(piece);
    }
    Ok(batch)
}

/// What was found where an object may be.
pub(super) enum Found {
    Whole(Bytes),
    /// It has so many bytes, more than were wanted.
    Longer(u64),
    Nothing,
}

/// Reads an object of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> io::Result<Found> {
    let nothing = |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    let file = match File::open(path) {
        Err(error) if nothing(&error) => return Ok(Found::Nothing),
        opened => opened.map_err(failed("opened", path))?,
    };
    let meta = file.metadata().map_err(failed("looked at", path))?;
    if !meta.is_file() {
        return Ok(Found::Nothing);
    }
    if meta.len() > limit {
        return Ok(Found::Longer(meta.len()));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    file.take(limit).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if (bytes.len() as u64) < meta.len() {
        return Err(failed("read", path)(ErrorKind::UnexpectedEof.into()));
    }
    Ok(Found::Whole(bytes.into()))
}

/// An incoming file between two jobs. Given up, it is removed by a thread that may wait for that.
struct Staged {
    incoming: Option<Incoming>,
    ambient: Arc<dyn Ambient>,
}

impl Staged {
    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<(), Unwritten> {
        let Some(mut incoming) = self.incoming.take() else { return Ok(()) };
        let write = move || {
            let wrote = pieces.iter().try_for_each(|piece| incoming.write(piece));
            (incoming, wrote)
        };
        let (incoming, wrote) = self.ambient.waited(write).await;
        self.incoming = Some(incoming);
        Ok(wrote?)
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
struct Incoming {
    store: Arc<Folder>,
    /// Closed before it has its name.
    file: Option<File>,
    staged: PathBuf,
    path: PathBuf,
    /// Bytes that it will have.
    len: u64,
    written: u64,
    /// Bytes that the disk was set to work on.
    begun: u64,
    /// The staged name is gone: another writer may have it by now.
    renamed: bool,
}

impl Incoming {
    /// Begins a file of `len` bytes that will be `path`, in a folder that is made where it is not there yet. With a
    /// `number` that was drawn nobody has its name again: a writer that slept while its file was swept away as
    /// abandoned must not publish that of another.
    fn new(store: Arc<Folder>, path: PathBuf, mut number: u64, len: u64) -> io::Result<Self> {
        loop {
            // The object store's own names for this: it lists no such file.
            let mut staged = OsString::from(&path);
            staged.push(format!("#{number}"));
            let staged = PathBuf::from(staged);
            match OpenOptions::new().write(true).create_new(true).open(&staged) {
                Ok(file) => {
                    let file = Some(file);
                    return Ok(Self { store, file, staged, path, len, written: 0, begun: 0, renamed: false });
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
    fn reserve(&self) {
        self.file.iter().for_each(|file| reserve(file, self.len));
    }

    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Err(ErrorKind::BrokenPipe.into()) };
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min((WRITE_BYTES - self.written % WRITE_BYTES) as usize));
            file.write_all(now).map_err(failed("written", &self.staged))?;
            self.written += now.len() as u64;
            if self.written - self.begun >= WRITE_BACK_BYTES {
                write_back(file, self.begun, self.written - self.begun);
                self.begun = self.written;
            }
            rest = later;
        }
        Ok(())
    }

    /// Makes the file durable, then visible, then its name durable.
    fn publish(mut self, naming: Naming) -> Result<Created, Unwritten> {
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

fn folder_of(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "an object has a folder"))
}

/// Makes the folder of a store durably, and those above it that are not there.
pub(super) fn make_store(path: &Path) -> io::Result<()> {
    let new: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    make_folder(path)?;
    new.into_iter().try_for_each(|folder| sync_folder(folder_of(folder)?))
}

/// Makes a folder, and those above it that are not there.
fn make_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder).map_err(failed("made", folder))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(failed("synced", folder))
}

/// Says what could not be done to which file.
fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{} can't be {what}: {error}", path.display()))
}

#[cfg(test)]
#[path = "folder_test.rs"]
mod tests;
