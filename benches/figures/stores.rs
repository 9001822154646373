//! Object stores as others give them: slow, counted, or plain. The only file of the benches that names their crate.
//!
//! Must never change a byte, nor be slower than its limits say.

use std::fmt;
use std::path::Path as Folder;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use gigastore_client::ambient::SystemAmbient;
use gigastore_engine::Engine;
use gigastore_engine::store::OpenMode;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::Res;

/// Bytes that a slow answer gives at once.
const PIECE_BYTES: usize = 256 << 10;

/// Bytes of one read of the plain store, and reads and writes of it at once: what its users commonly choose.
const READ_BYTES: u64 = 8 << 20;
const AT_ONCE: usize = 4;

/// What a store gives at most, in bytes a second, and how soon; none means no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// To each request that reads.
    pub(crate) request: Option<f64>,
    /// To all that read.
    pub(crate) reads: Option<f64>,
    /// To all that write.
    pub(crate) writes: Option<f64>,
    /// Between a request that reads or writes and its effect.
    pub(crate) latency: Duration,
}

/// A store with limits, which counts what is read of it. Clones share store, limits and count.
#[derive(Clone, Debug)]
pub(crate) struct Limited {
    inner: Arc<dyn ObjectStore>,
    pace: Pace,
    line: Arc<Line>,
}

/// What all requests of a store share.
#[derive(Debug, Default)]
struct Line {
    read: AtomicU64,
    reads_free: Mutex<Option<Instant>>,
    writes_free: Mutex<Option<Instant>>,
}

impl Limited {
    /// Returns a new store in memory.
    pub(crate) fn memory(pace: Pace) -> Self {
        Self { inner: Arc::new(InMemory::new()), pace, line: Arc::default() }
    }

    /// Returns the store in a folder.
    pub(crate) fn folder(folder: &Folder, pace: Pace) -> Res<Self> {
        Ok(Self { inner: Arc::new(LocalFileSystem::new_with_prefix(folder)?), pace, line: Arc::default() })
    }

    /// Opens an engine of its own over it, as another process would.
    pub(crate) async fn engine(&self) -> Res<Engine> {
        let store = Arc::new(self.clone());
        let ambient = SystemAmbient::shared();
        Ok(Engine::with_store(store, "limited:///".to_owned(), OpenMode::Create, ambient).await?)
    }

    /// Returns the bytes that were read since it was last asked.
    pub(crate) fn take_read(&self) -> u64 {
        self.line.read.swap(0, Ordering::Relaxed)
    }

    /// Gives an answer in pieces, each when it is due.
    fn paced(&self, answer: GetResult) -> GetResult {
        let (line, pace, began) = (Arc::clone(&self.line), self.pace, Instant::now());
        let (meta, range) = (answer.meta.clone(), answer.range.clone());
        let (attributes, extensions) = (answer.attributes.clone(), answer.extensions.clone());
        let pieces = answer.into_stream().map_ok(|bytes| stream::iter(cut(bytes).into_iter().map(Ok))).try_flatten();
        let mut given = 0;
        let paced = pieces.and_then(move |piece| {
            given += piece.len() as u64;
            line.read.fetch_add(piece.len() as u64, Ordering::Relaxed);
            let of_all = due(&line.reads_free, pace.reads, piece.len());
            let of_request = pace.request.map(|rate| began + Duration::from_secs_f64(given as f64 / rate));
            let due = of_all.max(of_request);
            async move {
                if let Some(due) = due {
                    sleep_until(due).await;
                }
                Ok(piece)
            }
        });
        GetResult { payload: GetResultPayload::Stream(paced.boxed()), meta, range, attributes, extensions }
    }

    async fn arrived(&self) {
        if !self.pace.latency.is_zero() {
            sleep(self.pace.latency).await;
        }
    }

    async fn written(&self, bytes: usize) {
        if let Some(due) = due(&self.line.writes_free, self.pace.writes, bytes) {
            sleep_until(due).await;
        }
    }
}

/// Takes the next place on a line that `bytes` more have to pass; returns when they have.
fn due(free: &Mutex<Option<Instant>>, rate: Option<f64>, bytes: usize) -> Option<Instant> {
    let takes = Duration::from_secs_f64(bytes as f64 / rate?);
    let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
    let end = free.map_or_else(Instant::now, |free| free.max(Instant::now())) + takes;
    *free = Some(end);
    Some(end)
}

fn cut(mut bytes: Bytes) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(bytes.len().div_ceil(PIECE_BYTES));
    while !bytes.is_empty() {
        pieces.push(bytes.split_to(PIECE_BYTES.min(bytes.len())));
    }
    pieces
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Limited({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Limited {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.arrived().await;
        self.written(payload.content_length()).await;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(LimitedUpload { inner, store: self.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.arrived().await;
        let head = options.head;
        let answer = self.inner.get_opts(location, options).await?;
        Ok(if head { answer } else { self.paced(answer) })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A multipart upload whose parts pass the limit of writes.
#[derive(Debug)]
struct LimitedUpload {
    inner: Box<dyn MultipartUpload>,
    store: Limited,
}

#[async_trait]
impl MultipartUpload for LimitedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, bytes) = (self.store.clone(), data.content_length());
        let part = self.inner.put_part(data);
        Box::pin(async move {
            store.written(bytes).await;
            part.await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

/// A bucket as programs use it that know nothing of Gigastore.
#[derive(Debug)]
pub(crate) struct Plain(Arc<dyn ObjectStore>);

impl Plain {
    /// Opens a bucket with settings such as the environment's.
    pub(crate) fn bucket(name: &str, settings: &[(String, String)]) -> Res<Self> {
        let builder =
            settings.iter().try_fold(AmazonS3Builder::new().with_bucket_name(name), |builder, (key, value)| {
                Ok::<_, object_store::Error>(builder.with_config(key.to_ascii_lowercase().parse()?, value))
            })?;
        Ok(Self(Arc::new(builder.build()?)))
    }

    /// Stores each body below `folder`, several at once.
    pub(crate) async fn put(&self, folder: &str, bodies: &[Bytes]) -> Res<()> {
        let puts = bodies.iter().enumerate().map(|(i, body)| async move {
            self.0.put(&Path::from(format!("{folder}/{i}")), body.clone().into()).await.map(|_| ())
        });
        Ok(stream::iter(puts).buffer_unordered(AT_ONCE).try_collect().await?)
    }

    /// Reads what [`put`](Self::put) stored into buffers of the same lengths, in ranges, several at once.
    pub(crate) async fn get(&self, folder: &str, buffers: &mut [Vec<u8>]) -> Res<()> {
        let ranges = buffers.iter_mut().enumerate().flat_map(|(i, buffer)| {
            let pieces = buffer.chunks_mut(READ_BYTES as usize).enumerate();
            pieces.map(move |(piece, into)| (i, piece as u64 * READ_BYTES, into)).collect::<Vec<_>>()
        });
        let gets = ranges.map(|(i, start, into)| async move {
            let range = start..start + into.len() as u64;
            let bytes = self.0.get_range(&Path::from(format!("{folder}/{i}")), range).await?;
            into.copy_from_slice(&bytes);
            Ok::<_, object_store::Error>(())
        });
        Ok(stream::iter(gets).buffer_unordered(AT_ONCE).try_collect().await?)
    }
}
