//! What is really stored, with its whole history: an object store in memory that has the world's clock.
//!
//! Must never fail by itself, and never forget what was put where and when: the checker reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use gigastore_formats::digest::Digest;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::world::World;

/// One thing that happened to an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// When, in wall-clock milliseconds.
    pub at_ms: u64,
    /// The object.
    pub path: String,
    /// Digest of what was put there; `None`: it was deleted.
    pub put: Option<Digest>,
    /// Records that the logs of all projects had together.
    pub records: u64,
}

/// What a store does that it must not. Only to show that the checker sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// Creation overwrites what is there.
    Overwrites,
    /// With every log record, one pack goes away.
    Loses,
    /// With every log record, one pack gets other bytes.
    Alters,
}

#[derive(Default)]
struct Kept {
    /// When each object was last put, in wall-clock milliseconds.
    put_ms: BTreeMap<Path, u64>,
    history: Vec<Change>,
    records: u64,
    /// Everything that was ever put, whether or not it is there still.
    ever: BTreeMap<String, Bytes>,
}

/// The bucket of a world. Clones are the same one.
#[derive(Clone)]
pub struct Bucket {
    inner: Arc<InMemory>,
    world: World,
    kept: Arc<Mutex<Kept>>,
    flaw: Option<Flaw>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bucket")
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bucket")
    }
}

/// Tells whether a path is that of a log record.
pub fn is_record(path: &str) -> bool {
    path.contains("/log/") && path.ends_with(".json")
}

impl Bucket {
    /// Returns an empty bucket.
    pub fn new(world: &World, flaw: Option<Flaw>) -> Self {
        Self { inner: Arc::default(), world: world.clone(), kept: Arc::default(), flaw }
    }

    /// Does what the flaw says when a log record was put.
    async fn damage(&self) -> Result<()> {
        let packs: Vec<Path> =
            self.kept().put_ms.keys().filter(|path| path.as_ref().contains("/packs/")).cloned().collect();
        if packs.is_empty() || self.flaw == Some(Flaw::Overwrites) {
            return Ok(());
        }
        let path = &packs[self.world.below(packs.len() as u64) as usize];
        if self.flaw == Some(Flaw::Loses) {
            self.inner.delete(path).await?;
            self.kept().put_ms.remove(path);
        } else {
            let mut bytes = self.inner.get(path).await?.bytes().await?.to_vec();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            self.inner.put(path, bytes.into()).await?;
        }
        Ok(())
    }

    /// Returns everything that happened.
    pub fn history(&self) -> Vec<Change> {
        self.kept().history.clone()
    }

    /// Returns what was last put at a path, even where it was deleted since.
    pub fn ever_stored(&self, path: &str) -> Option<Bytes> {
        self.kept().ever.get(path).cloned()
    }

    /// Returns the paths of all that is there.
    pub fn paths(&self) -> BTreeSet<String> {
        self.kept().put_ms.keys().map(ToString::to_string).collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, path: &Path, put: Option<Bytes>) {
        let mut kept = self.kept();
        let digest = put.as_deref().map(Digest::of);
        let at_ms = self.world.wall_ms();
        match put {
            Some(bytes) => {
                kept.ever.insert(path.to_string(), bytes);
                let before = kept.put_ms.insert(path.clone(), at_ms);
                kept.records += u64::from(before.is_none() && is_record(path.as_ref()));
            }
            None => drop(kept.put_ms.remove(path)),
        }
        let records = kept.records;
        kept.history.push(Change { at_ms, path: path.to_string(), put: digest, records });
    }

    /// Puts the world's time in the place of the machine's.
    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let at_ms = self.kept().put_ms.get(&meta.location).copied().unwrap_or_default();
        meta.last_modified = (UNIX_EPOCH + Duration::from_millis(at_ms)).into();
        meta
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut opts: PutOptions) -> Result<PutResult> {
        if self.flaw == Some(Flaw::Overwrites) {
            opts.mode = PutMode::Overwrite;
        }
        let bytes = payload.iter().flatten().copied().collect::<Vec<u8>>();
        let done = self.inner.put_opts(location, payload, opts).await?;
        self.changed(location, Some(bytes.into()));
        if self.flaw.is_some() && is_record(location.as_ref()) {
            self.damage().await?;
        }
        Ok(done)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(Upload { inner, bucket: self.clone(), location: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut found = self.inner.get_opts(location, options).await?;
        found.meta = self.dated(found.meta);
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let bucket = self.clone();
        let deleted = locations.then(move |location| {
            let bucket = bucket.clone();
            async move {
                let location = location?;
                let there = bucket.inner.head(&location).await.is_ok();
                bucket.inner.delete(&location).await?;
                if there {
                    bucket.changed(&location, None);
                }
                Ok(location)
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let bucket = self.clone();
        self.inner.list(prefix).map(move |meta| meta.map(|meta| bucket.dated(meta))).boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let bucket = self.clone();
        self.inner.list_with_offset(prefix, offset).map(move |meta| meta.map(|meta| bucket.dated(meta))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let found = self.inner.list_with_delimiter(prefix).await?;
        let objects = found.objects.into_iter().map(|meta| self.dated(meta)).collect();
        Ok(ListResult { objects, ..found })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let bytes = self.inner.get(from).await?.bytes().await?;
        self.inner.copy_opts(from, to, options).await?;
        self.changed(to, Some(bytes));
        Ok(())
    }
}

/// A multipart upload that becomes a change when it completes.
#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    bucket: Bucket,
    location: Path,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> object_store::UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let done = self.inner.complete().await?;
        let bytes = self.bucket.inner.get(&self.location).await?.bytes().await?;
        self.bucket.changed(&self.location, Some(bytes));
        Ok(done)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn create(bucket: &Bucket, path: &str, bytes: &'static str) -> Result<PutResult> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        bucket.put_opts(&Path::from(path), bytes.into(), options).await
    }

    #[tokio::test]
    async fn what_happened_is_kept_with_the_worlds_time() {
        let world = World::new(1);
        let bucket = Bucket::new(&world, None);
        create(&bucket, "projects/p/log/00000000000000000001.json", "a").await.unwrap();
        assert!(create(&bucket, "projects/p/log/00000000000000000001.json", "b").await.is_err());
        bucket.delete(&Path::from("projects/p/log/00000000000000000001.json")).await.unwrap();
        let seen: Vec<_> = bucket.history().into_iter().map(|change| (change.put, change.records)).collect();
        assert_eq!(seen, [(Some(Digest::of(b"a")), 1), (None, 1)]);
        create(&bucket, "x", "c").await.unwrap();
        let dated = bucket.head(&Path::from("x")).await.unwrap().last_modified.timestamp_millis();
        assert_eq!(dated as u64, world.wall_ms());
    }
}
