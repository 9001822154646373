//! A directory, objects to be read through it, and a count of what was read past it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gigastore_cache::{BLOCK_BYTES, Cache, Directory, Object, Tier};
use gigastore_client::ambient::SystemAmbient;
use gigastore_formats::digest::Digest;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::range::ByteRange;
use gigastore_tests::model::XorShift;

/// Room for all that a test reads.
pub(crate) const ROOMY: u64 = 1 << 30;

/// An object, its bytes, and how many of them were asked of the store.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) object: Object,
    pub(crate) content: Bytes,
    pub(crate) asked: Arc<AtomicU64>,
    pub(crate) delay: Duration,
}

impl Source {
    pub(crate) fn new(seed: u64, len: usize) -> Self {
        let content = XorShift::new(seed).bytes(len);
        let stored = Stored { digest: Digest::of(&content), epoch: 0 };
        let object = Object { project: "p".parse().unwrap(), kind: ObjectKind::Blob, stored };
        Self { object, content, asked: Arc::default(), delay: Duration::ZERO }
    }

    /// One of `blocks` whole blocks, whatever its first block.
    pub(crate) fn of_blocks(seed: u64, blocks: u64) -> Self {
        Self::new(seed, (blocks * BLOCK_BYTES) as usize)
    }

    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Reads a range through `cache`, and checks it.
    pub(crate) async fn read(&self, cache: &Cache, start: u64, end: u64) {
        let fetch = |range: ByteRange| async move {
            tokio::time::sleep(self.delay).await;
            self.asked.fetch_add(range.len(), Ordering::SeqCst);
            Ok(self.content.slice(range.start() as usize..range.end() as usize))
        };
        let range = ByteRange::new(start, end).unwrap();
        let read = cache.read(&self.object, range, self.content.len() as u64, fetch).await.unwrap();
        assert!(read == self.content[start as usize..end as usize], "wrong bytes of {range}");
    }

    pub(crate) async fn read_all(&self, cache: &Cache) {
        self.read(cache, 0, self.content.len() as u64).await;
    }
}

/// Opens a cache over `folder` as another process would, with nothing in memory.
pub(crate) fn open(folder: &Path, bytes: u64) -> Cache {
    Cache::new(0, Some(Directory::open(folder, bytes, SystemAmbient::shared())))
}

pub(crate) fn disk(cache: &Cache) -> Tier {
    cache.counts().1.unwrap()
}

/// Every file below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut folders, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Bytes of the files below a folder, as long as they are there.
pub(crate) fn size(folder: &Path) -> u64 {
    files(folder).iter().map(|path| path.metadata().map_or(0, |meta| meta.len())).sum()
}
