//! The files of a cache on a disk: damaged ones are misses, and are replaced.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use gigastore_cache::{Cache, Directory, Object};
use gigastore_formats::digest::Digest;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::range::ByteRange;
use gigastore_tests::model::XorShift;

use crate::damage::{Other, damages};
use crate::inline;

/// Bytes of an object: one short block of a cache.
const OBJECT_BYTES: usize = 1000;

/// Room for all of it.
const ROOM_BYTES: u64 = 1 << 20;

struct Source {
    object: Object,
    content: Bytes,
    asked: AtomicU64,
}

impl Source {
    fn new(seed: u64) -> Self {
        let content = XorShift::new(seed).bytes(OBJECT_BYTES);
        let stored = Stored { digest: Digest::of(&content), epoch: 0 };
        let object = Object { project: "p".parse().unwrap(), kind: ObjectKind::Blob, stored };
        Self { object, content, asked: AtomicU64::new(0) }
    }

    async fn read(&self, cache: &Cache, what: &str) {
        let fetch = |range: ByteRange| async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            Ok(self.content.slice(range.start() as usize..range.end() as usize))
        };
        let range = ByteRange::new(0, OBJECT_BYTES as u64).unwrap();
        let read = cache.read(&self.object, range, OBJECT_BYTES as u64, fetch).await.unwrap();
        assert_eq!(read, self.content, "{what}: wrong bytes");
        cache.settled().await;
    }
}

/// Damages a block's file in every way; returns in how many.
pub(crate) fn attack() -> usize {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Source::new(1), Source::new(2));
    inline::runtime().block_on(async {
        let cache = Cache::new(0, Some(Directory::open(folder.path(), ROOM_BYTES, inline::ambient())));
        theirs.read(&cache, "another block").await;
        let other = file(folder.path(), None);
        ours.read(&cache, "a first read").await;
        let path = file(folder.path(), Some(&other));
        let right = Bytes::from(std::fs::read(&path).unwrap());
        let key = other.display().to_string();
        let other = Arc::new(Other { key, bytes: std::fs::read(&other).unwrap().into() });
        let cases = damages(&right, &[other], 1, true);
        for damage in &cases {
            match damage.of(&right) {
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let asked = ours.asked.load(Ordering::SeqCst);
            let what = format!("cache entry, {damage}");
            ours.read(&cache, &what).await;
            assert_eq!(ours.asked.load(Ordering::SeqCst), asked + 1, "{what}: it was taken for the block");
            assert_eq!(std::fs::read(&path).unwrap(), right, "{what}: it was not replaced");
        }
        theirs.read(&cache, "another block").await;
        assert_eq!(theirs.asked.load(Ordering::SeqCst), 1, "another block suffered");
        cases.len()
    })
}

/// Returns the file of a block that is not `known`.
fn file(folder: &Path, known: Option<&Path>) -> PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if known != Some(path.as_path()) {
                return path;
            }
        }
    }
    panic!("no block in {}", folder.display());
}
