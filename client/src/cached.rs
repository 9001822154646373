//! Stored objects of a store on another machine, through a cache in a directory of this one where there is one.
//!
//! What is kept was verified by nobody: whoever reads objects checks them against the digests they have, has a range
//! forgotten that does not match, and reads it once more. Must never keep objects of a store in a folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use gigastore_cache::{Cache, Directory, Object};
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::{Fault, FaultCode};

use crate::store::Store;
use crate::transport::{Held, Taker};

/// The variables that name the cache's directory, and the most bytes that it may hold.
const FOLDER: &str = "GIGASTORE_CACHE";
const BYTES: &str = "GIGASTORE_CACHE_BYTES";

/// Bytes of the cache, unless set: 32 GiB, as much as a service keeps.
const DEFAULT_BYTES: u64 = 32 << 30;

/// A cache that is open.
#[derive(Clone, Debug)]
pub(crate) struct Cached {
    directory: Arc<Directory>,
    /// Nothing in memory: a process reads each byte once.
    cache: Arc<Cache>,
}

impl Store {
    /// Keeps what is read in `folder`, which other processes of this machine may use too, and reads it from there: at
    /// most `bytes` bytes, which several processes stay below together where it is 256 MiB or more. A folder that
    /// can't be used is used for nothing; [`cache_trouble`](Self::cache_trouble) says why. Blocks on
    /// their way there take at most 128 MiB of memory. Stores in a folder or in memory are read without a cache.
    pub fn with_cache(mut self, folder: &Path, bytes: u64) -> Self {
        if ["file:", "memory:"].iter().any(|scheme| self.url().starts_with(scheme)) {
            return self;
        }
        let directory = Directory::open(folder, bytes, Arc::clone(&self.ambient));
        let cache = Arc::new(Cache::new(0, Some(Arc::clone(&directory))));
        self.cached = Some(Cached { directory, cache });
        self
    }

    /// Uses the cache that the environment names, if it names one.
    pub(crate) fn with_cache_of_environment(self) -> Result<Self, Fault> {
        let Some(folder) = std::env::var_os(FOLDER).filter(|folder| !folder.is_empty()).map(PathBuf::from) else {
            return Ok(self);
        };
        let bytes = match std::env::var(BYTES) {
            Ok(text) => text.parse().map_err(|_| {
                Fault::of(FaultCode::Invalid, format!("{BYTES} is {text:?}: expected a number of bytes"))
            })?,
            Err(_) => DEFAULT_BYTES,
        };
        Ok(self.with_cache(&folder, bytes))
    }

    /// Returns what first went wrong with the cache, if anything did.
    pub fn cache_trouble(&self) -> Option<String> {
        self.cached.as_ref()?.directory.trouble()
    }

    /// Waits until what was read is in the cache, so that the process may end.
    pub async fn cache_settled(&self) {
        if let Some(cached) = &self.cached {
            cached.cache.settled().await;
        }
    }

    /// Reads exactly `range` of a stored object, as it is stored: nothing is verified.
    pub async fn read_object(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        stored: &Stored,
        range: ByteRange,
    ) -> Result<Bytes, Fault> {
        let read = |range| self.transport.read(project, kind, stored, range, false);
        let Some(Cached { cache, .. }) = &self.cached else { return read(range).await };
        let object = Object { project: project.clone(), kind, stored: *stored };
        let ask = async { Ok(self.transport.lengths(project, kind, &[*stored]).await?.first().copied().flatten()) };
        match cache.len(&object, range.end(), ask).await? {
            Some(len) => cache.read(&object, range, len, read).await,
            // The store says in its own words that it is not there.
            None => read(range).await,
        }
    }

    /// Reads a range of an object and has it checked on a thread for that. What does not match is read once more, past
    /// all that keeps bytes: what was damaged on its way here is right then.
    pub(crate) async fn read_checked<T: Send + 'static, E: Send + 'static>(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        stored: &Stored,
        range: ByteRange,
        check: impl Fn(Bytes) -> Result<T, E> + Clone + Send + 'static,
    ) -> Result<Result<T, E>, Fault> {
        let (bytes, again) = (self.read_object(project, kind, stored, range).await?, check.clone());
        let checked = self.ambient.computed(move || check(bytes)).await;
        if checked.is_ok() {
            return Ok(checked);
        }
        self.count_refetch();
        self.forget_object(project, kind, stored, range).await;
        let bytes = self.transport.read(project, kind, stored, range, true).await?;
        Ok(self.ambient.computed(move || again(bytes)).await)
    }

    /// Passes the bytes of an object that `taker` wants to it. `afresh`: from the store, past all that keeps bytes.
    pub(crate) async fn pass_object(
        &self,
        project: &ProjectName,
        (kind, stored): (ObjectKind, &Stored),
        taker: Arc<dyn Taker>,
        afresh: bool,
    ) -> Result<(), Fault> {
        let rest = taker.rest();
        if afresh {
            self.forget_object(project, kind, stored, rest).await;
        }
        if afresh || self.cached.is_none() {
            return self.transport.pass(project, kind, stored, taker, afresh).await;
        }
        let bytes = self.read_object(project, kind, stored, rest).await?;
        self.ambient.computed(move || taker.take(&mut Held::new(rest.start(), [bytes]))).await
    }

    /// Has a range of an object forgotten that was found to be wrong, so that it is read from the store next. Tells
    /// whether it may have been kept.
    pub async fn forget_object(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        stored: &Stored,
        range: ByteRange,
    ) -> bool {
        let Some(Cached { cache, .. }) = &self.cached else { return false };
        let object = Object { project: project.clone(), kind, stored: *stored };
        cache.forget_len(&object);
        cache.forget(&object, range).await
    }
}
