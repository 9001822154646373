//! Blocks in a directory that all processes of a machine may share: found, filled in the background, forgotten.
//!
//! Must never fail its caller: what can't be read is not there, what can't be written is not kept. Nor make anyone wait
//! for a block to be written.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, thread};

use bytes::Bytes;
use gigastore_formats::ambient::Ambient;
use rustix::fs::{OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens};
use tokio::sync::Notify;

use crate::counts::Counts;
use crate::entry::{self, HEAD_BYTES, Name};
use crate::room::{Room, STAGING};

/// The folder of this form of files; another form gets another one.
const FORM: &str = "v1";

/// Bytes that wait to be written, of memory that their readers may have let go of: what a disk takes in a fraction of a
/// second. A store that is quicker for longer than that leaves blocks unkept rather than readers waiting.
const WAITING_BYTES: u64 = 128 << 20;

/// Most blocks that are written at once: more add nothing on any disk.
const WRITERS: usize = 8;

/// Blocks that are not written after a failure: a disk that is full is tried again after 128 MiB have passed by.
const PAUSE: u32 = 64;

/// Blocks in a directory.
pub struct Directory {
    folder: PathBuf,
    ambient: Arc<dyn Ambient>,
    room: Room,
    queue: Mutex<Queue>,
    /// Held while a block is renamed into place or forgotten, so that none appears after it was forgotten.
    placing: Mutex<()>,
    idle: Notify,
    counts: Counts,
    trouble: Mutex<Option<String>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Fill>,
    /// The blocks that wait or are being written, unless they were forgotten meanwhile.
    wanted: HashMap<Name, Fill>,
    tickets: u64,
    bytes: u64,
    writers: usize,
    pause: u32,
}

#[derive(Clone)]
struct Fill {
    ticket: u64,
    name: Name,
    bytes: Bytes,
}

impl Queue {
    /// Tells whether a block is still to be written, and not another one of its name.
    fn wants(&self, fill: &Fill) -> bool {
        self.wanted.get(&fill.name).is_some_and(|wanted| wanted.ticket == fill.ticket)
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Directory").field(&self.folder).finish()
    }
}

impl Directory {
    /// Uses `folder`, of which it keeps at most `bytes` bytes full; made where it is not there. One that can't be
    /// used is used for nothing: [`trouble`](Self::trouble) says why.
    pub fn open(folder: &Path, bytes: u64, ambient: Arc<dyn Ambient>) -> Arc<Self> {
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()).join(FORM);
        let directory = Arc::new(Self {
            folder,
            ambient,
            room: Room::new(bytes),
            queue: Mutex::default(),
            placing: Mutex::default(),
            idle: Notify::new(),
            counts: Counts::default(),
            trouble: Mutex::default(),
        });
        let made = fs::create_dir_all(directory.folder.join(STAGING));
        directory.check("can't be made", made);
        let looking = Arc::clone(&directory);
        directory.ambient.compute(Box::new(move || {
            let looked = looking.room.look(&looking.folder, &looking.counts);
            looking.check("can't be looked through", looked);
        }));
        directory
    }

    /// Returns the numbers.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Returns the first failure, in words.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    /// Finds a block of `len` bytes, on the disk or on its way there. Nothing where it is not there, or
    /// anything is wrong with it.
    pub(crate) async fn read(self: &Arc<Self>, name: Name, len: u64) -> Option<Bytes> {
        let waiting = lock(&self.queue).wanted.get(&name).map(|fill| fill.bytes.clone());
        let found = match waiting.filter(|bytes| bytes.len() as u64 == len) {
            Some(bytes) => Some(bytes),
            None => {
                let this = Arc::clone(self);
                self.ambient.computed(move || this.read_now(&name, len)).await
            }
        };
        if found.is_some() {
            self.counts.hit();
        } else {
            self.counts.miss();
        }
        found
    }

    fn read_now(&self, name: &Name, len: u64) -> Option<Bytes> {
        let path = self.folder.join(name.path());
        // Whatever lies there instead of a file, nobody waits for it.
        let options = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&path);
        let file = match options {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            opened => self.check("can't be read", opened)?,
        };
        let found = self.check("can't be read", entry::read(&file, name, len))?;
        if found.is_none() {
            self.counts.damage();
            let removed = fs::remove_file(&path);
            self.check("can't be cleared of a damaged file", gone(removed));
            return None;
        }
        // Where it may not be noted, blocks go in the order in which they came.
        let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let _ = futimens(&file, &Timestamps { last_access: keep, last_modification: now });
        found
    }

    /// Has a block written when the pool has time, unless too much waits already.
    pub(crate) fn fill(self: &Arc<Self>, name: Name, bytes: Bytes) {
        let mut queue = lock(&self.queue);
        if queue.wanted.contains_key(&name) {
            return;
        }
        if queue.pause > 0 || queue.bytes + bytes.len() as u64 > WAITING_BYTES {
            queue.pause = queue.pause.saturating_sub(1);
            self.counts.skip();
            return;
        }
        queue.tickets += 1;
        queue.bytes += bytes.len() as u64;
        let ticket = queue.tickets;
        let fill = Fill { ticket, name, bytes };
        queue.wanted.insert(name, fill.clone());
        queue.waiting.push_back(fill);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let one_more = queue.writers < (cores / 2).clamp(1, WRITERS);
        queue.writers += usize::from(one_more);
        drop(queue);
        if one_more {
            self.write_next();
        }
    }

    /// Has the pool write one block, and then the next: whoever waits for a thread gets one in between.
    fn write_next(self: &Arc<Self>) {
        let this = Arc::clone(self);
        self.ambient.compute(Box::new(move || {
            let next = lock(&this.queue).waiting.pop_front();
            if let Some(fill) = &next {
                this.write(fill);
            }
            let mut queue = lock(&this.queue);
            if let Some(fill) = next {
                queue.bytes -= fill.bytes.len() as u64;
                if queue.wants(&fill) {
                    queue.wanted.remove(&fill.name);
                }
            }
            let more = !queue.waiting.is_empty();
            queue.writers -= usize::from(!more);
            drop(queue);
            if more {
                this.write_next();
            } else {
                this.idle.notify_waiters();
            }
        }));
    }

    fn write(&self, fill: &Fill) {
        let len = (HEAD_BYTES + fill.bytes.len()) as u64;
        let claimed = self.check("can't be looked through", self.room.claim(&self.folder, len, &self.counts));
        if claimed != Some(true) || !lock(&self.queue).wants(fill) {
            self.counts.skip();
            return;
        }
        let Err(error) = self.place(fill) else { return };
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        self.check("can't be written", Err::<(), _>(error));
        lock(&self.queue).pause = PAUSE;
        if full {
            let shrunk = self.room.shrink(&self.folder, &self.counts);
            self.check("is full and can't be cleared", shrunk);
        }
    }

    /// Writes a block's file and renames it into place. It is not synced: what a power cut leaves of it has no seal.
    fn place(&self, fill: &Fill) -> io::Result<()> {
        let staging = Staging::new(&self.folder, self.ambient.as_ref())?;
        let mut file = &staging.file;
        file.write_all(&entry::head(&fill.name, &fill.bytes))?;
        file.write_all(&fill.bytes)?;
        let path = self.folder.join(fill.name.path());
        if let Some(shelf) = path.parent() {
            match fs::create_dir(shelf) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        let _placing = lock(&self.placing);
        if lock(&self.queue).wants(fill) { fs::rename(&staging.path, path) } else { Ok(()) }
    }

    /// Forgets blocks, in place or on their way there.
    pub(crate) async fn forget(self: &Arc<Self>, names: Vec<Name>) {
        let this = Arc::clone(self);
        let forget = move || {
            let _placing = lock(&this.placing);
            for name in names {
                lock(&this.queue).wanted.remove(&name);
                let removed = fs::remove_file(this.folder.join(name.path()));
                this.check("can't be cleared of a file", gone(removed));
            }
        };
        self.ambient.computed(forget).await;
    }

    /// Waits until nothing waits to be written.
    pub(crate) async fn settled(&self) {
        loop {
            let idle = self.idle.notified();
            if lock(&self.queue).writers == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Counts a failure, and says it if it is the first.
    fn check<T>(&self, what: &str, outcome: io::Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                if self.counts.failed() {
                    let text = format!("the cache in {} {what}: {error}", self.folder.display());
                    tracing::warn!("{text}; what it does not give comes from the store (said once)");
                    *lock(&self.trouble) = Some(text);
                }
                None
            }
        }
    }
}

/// A block's file until it is renamed; it is removed where that does not come.
struct Staging {
    path: PathBuf,
    file: File,
}

impl Staging {
    fn new(folder: &Path, ambient: &dyn Ambient) -> io::Result<Self> {
        let staging = folder.join(STAGING);
        loop {
            let path = staging.join(format!("{:016x}", ambient.random()));
            let create = || OpenOptions::new().write(true).create_new(true).open(&path);
            let file = match create() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // Somebody has cleared the whole directory.
                    fs::create_dir_all(&staging)?;
                    create()?
                }
                file => file?,
            };
            // The lock says that its writer lives. Who sweeps locks a file first: one that was swept before it was
            // locked here is held, or has lost its name.
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => continue,
                Ok(()) if file.metadata()?.nlink() == 0 => continue,
                // Where files can't be locked, none is swept.
                Ok(()) | Err(TryLockError::Error(_)) => return Ok(Self { path, file }),
            }
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Renamed already, or nothing that anyone would read.
        let _ = fs::remove_file(&self.path);
    }
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
