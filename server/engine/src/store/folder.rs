//! Objects of a folder of this machine: written so that the disk is at work from the first pieces on, visible at once
//! and only when they are durable.
//!
//! The object store's own put leaves all of an object to the system until the end, so that the disk idles while bytes
//! come and the processors idle while it catches up. Must never replace a file, nor name one whose bytes could still be
//! lost.

mod incoming;

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use gigastore_formats::ambient::Ambient;

use super::objects::{Body, BodyError, Created, MadePieces};

use incoming::{Incoming, Staged};

/// Bytes that are written at once where they come in pieces: 2 MiB, long enough that the write costs more than handing
/// it to a thread, and short enough that many objects on their way fit into little memory.
const BATCH_BYTES: u64 = 2 << 20;

/// Memory of one object on its way: a batch that is written, what is left of the one before it, one that is gathered,
/// one that is checked before, and what their pieces hold of the memory that they came in.
pub(super) const MEMORY_BYTES: u64 = 5 * BATCH_BYTES;

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
                let mut staged = Staged::new(incoming, Arc::clone(ambient));
                let mut gathered = batch(&mut pieces, BATCH_BYTES).await.map_err(Unwritten::Body)?;
                while !gathered.is_empty() {
                    let next = async { batch(&mut pieces, BATCH_BYTES).await.map_err(Unwritten::Body) };
                    (gathered, _) = futures::try_join!(next, staged.write(gathered))?;
                }
                return staged.publish(naming).await;
            }
        };
        // One job for all: to hand steps over costs more than most, and what was made is still in the core's caches.
        let write = move || match begin()? {
            Ok(mut incoming) => {
                incoming.reserve();
                for piece in made {
                    incoming.write(piece.map_err(Unwritten::Body)?)?;
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
