//! The way from one participant to the bucket: requests and answers take their time, overtake each other, come late or
//! twice, and at any of them the participant may die.
//!
//! A request that was sent is the network's: it goes on when its sender is dead. What is answered instead of the truth
//! is the faulty store's part, which lies between this and the bucket. Must never hand out an answer to the dead.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::channel::oneshot;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use gigastore_formats::digest::Digest;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::bucket::Bucket;
use super::weather::{LATEST, STALE, Weather};
use super::world::{NOBODY, Owner, World};
use crate::faulty::FaultyStore;

/// Where a participant dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Death {
    /// At which of its operations, from 1.
    pub operation: u64,
    /// Whether that operation is done all the same.
    pub after_effect: bool,
}

/// One participant's way to the bucket. Clones are the same.
#[derive(Clone)]
pub struct Line(Arc<Shared>);

struct Shared {
    world: World,
    owner: Owner,
    name: String,
    store: FaultyStore,
    weather: Weather,
    /// From then on nothing goes wrong any more.
    calm_after: Duration,
    death: Option<Death>,
    operations: AtomicU64,
}

/// What makes one request, again where it is repeated.
type Request<T> = Arc<dyn Fn() -> BoxFuture<'static, Result<T>> + Send + Sync>;

impl Line {
    /// Returns the line of `owner`, which the trace calls `name`.
    pub fn new(
        bucket: &Bucket,
        world: &World,
        owner: Owner,
        name: &str,
        weather: Weather,
        calm_after: Duration,
        death: Option<Death>,
    ) -> Self {
        let store = FaultyStore::with_plan(Arc::new(bucket.clone()), weather.plan(world, calm_after));
        let (world, name, operations) = (world.clone(), name.to_owned(), AtomicU64::new(0));
        Self(Arc::new(Shared { world, owner, name, store, weather, calm_after, death, operations }))
    }

    /// Returns how many operations there were.
    pub fn operations(&self) -> u64 {
        self.0.operations.load(Ordering::SeqCst)
    }

    fn happens(&self, of: u64) -> bool {
        self.0.world.now() < self.0.calm_after && Weather::happens(&self.0.world, of)
    }

    /// Sends a request and waits for its answer. `changes` tells whether it may be repeated with an effect, and `said`
    /// is what the trace says of it.
    async fn ask<T: Send + 'static>(&self, said: String, changes: bool, request: Request<T>) -> Result<T> {
        let Shared { world, owner, name, death, .. } = &*self.0;
        if !world.is_alive(*owner) {
            return std::future::pending().await;
        }
        let n = self.0.operations.fetch_add(1, Ordering::SeqCst) + 1;
        let planned = death.filter(|death| death.operation == n).map(|death| death.after_effect);
        let dies = planned.or_else(|| self.happens(self.0.weather.dies).then(|| world.below(2) == 1));
        if dies == Some(false) {
            world.note(format_args!("{name} dies before {n} {said}"));
            world.kill(*owner);
            return std::future::pending().await;
        }
        world.note(format_args!("{name} asks {n} {said}"));
        let late = dies.is_none() && changes && self.happens(self.0.weather.late);
        let twice = changes && self.happens(self.0.weather.twice);
        let (sender, receiver) = oneshot::channel();
        let line = self.clone();
        let repeated = Arc::clone(&request);
        let sent = async move {
            let Shared { world, owner, name, weather, .. } = &*line.0;
            world.sleep(world.some_time(if late { LATEST } else { weather.way })).await;
            let done = request().await;
            let came = match &done {
                Ok(_) => "done".to_owned(),
                Err(error) => kind(error).to_owned(),
            };
            world.note(format_args!("{name} {n} {came}"));
            if dies == Some(true) {
                world.note(format_args!("{name} dies after {n}"));
                world.kill(*owner);
                return;
            }
            world.sleep(world.some_time(weather.way)).await;
            // Who does not wait any more has heard of a timeout.
            let _ = sender.send(done);
            if twice {
                world.sleep(world.some_time(LATEST)).await;
                let again = repeated().await;
                world.note(format_args!("{name} {n} again {}", if again.is_ok() { "done" } else { "refused" }));
            }
        };
        world.spawn(NOBODY, sent);
        if late {
            world.sleep(world.some_time(self.0.weather.way * 2)).await;
            return Err(timed_out());
        }
        match receiver.await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        }
    }

    fn listed<T: Send + 'static>(&self, of: Option<&Path>, request: Request<T>) -> BoxFuture<'static, Result<T>> {
        let (line, said) = (self.clone(), format!("list {}", of.map_or("", AsRef::as_ref)));
        async move { line.ask(said, false, request).await }.boxed()
    }

    /// Tells whether a listing shows an object that was put then.
    fn shows(&self, stale: bool, meta: &ObjectMeta) -> bool {
        let put_ms = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or_default();
        !stale || put_ms + (STALE.as_millis() as u64) < self.0.world.wall_ms()
    }

    fn all_of(&self, prefix: Option<&Path>, offset: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let stale = self.happens(self.0.weather.stale);
        let (store, prefix, offset) = (self.0.store.clone(), prefix.cloned(), offset.cloned());
        let of = prefix.clone();
        let request: Request<Vec<ObjectMeta>> = Arc::new(move || {
            let found = match &offset {
                Some(offset) => store.list_with_offset(prefix.as_ref(), offset),
                None => store.list(prefix.as_ref()),
            };
            found.try_collect().boxed()
        });
        let line = self.clone();
        let found = self.listed(of.as_ref(), request).map(move |found| match found {
            Ok(found) => {
                let shown: Vec<_> = found.into_iter().filter(|meta| line.shows(stale, meta)).map(Ok).collect();
                stream::iter(shown).boxed()
            }
            Err(error) => stream::iter([Err(error)]).boxed(),
        });
        found.flatten_stream().boxed()
    }
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::NotFound { .. } => "not found",
        Error::AlreadyExists { .. } => "exists",
        _ => "failed",
    }
}

fn timed_out() -> Error {
    Error::Generic { store: "Line", source: Box::new(std::io::Error::from(std::io::ErrorKind::TimedOut)) }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({})", self.0.name)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({})", self.0.name)
    }
}

#[async_trait]
impl ObjectStore for Line {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let digest = Digest::of(&payload.iter().flatten().copied().collect::<Vec<u8>>());
        let verb = if opts.mode == PutMode::Create { "create" } else { "put" };
        let said = format!("{verb} {location} of {} {}", payload.content_length(), digest.short());
        let (store, location) = (self.0.store.clone(), location.clone());
        let request: Request<PutResult> = Arc::new(move || {
            let (store, location) = (store.clone(), location.clone());
            let (payload, opts) = (payload.clone(), opts.clone());
            async move { store.put_opts(&location, payload, opts).await }.boxed()
        });
        self.ask(said, true, request).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let (store, said, location) = (self.0.store.clone(), format!("multipart {location}"), location.clone());
        let request: Request<Box<dyn MultipartUpload>> = Arc::new(move || {
            let (store, location, opts) = (store.clone(), location.clone(), opts.clone());
            async move { store.put_multipart_opts(&location, opts).await }.boxed()
        });
        self.ask(said, false, request).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let verb = if options.head { "head" } else { "get" };
        let said = match &options.range {
            Some(range) => format!("{verb} {location} {range}"),
            None => format!("{verb} {location}"),
        };
        let (store, location) = (self.0.store.clone(), location.clone());
        let request: Request<GetResult> = Arc::new(move || {
            let (store, location, options) = (store.clone(), location.clone(), options.clone());
            async move { store.get_opts(&location, options).await }.boxed()
        });
        self.ask(said, false, request).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let line = self.clone();
        let deleted = locations.then(move |location| {
            let line = line.clone();
            async move {
                let location = location?;
                let (store, asked) = (line.0.store.clone(), location.clone());
                let request: Request<()> = Arc::new(move || {
                    let (store, location) = (store.clone(), asked.clone());
                    async move { store.delete(&location).await }.boxed()
                });
                line.ask(format!("delete {location}"), true, request).await?;
                Ok(location)
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.all_of(prefix, None)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.all_of(prefix, Some(offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let stale = self.happens(self.0.weather.stale);
        let (store, of) = (self.0.store.clone(), prefix.cloned());
        let request: Request<ListResult> = Arc::new(move || {
            let (store, of) = (store.clone(), of.clone());
            async move { store.list_with_delimiter(of.as_ref()).await }.boxed()
        });
        let mut found = self.listed(prefix, request).await?;
        found.objects.retain(|meta| self.shows(stale, meta));
        Ok(found)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let said = format!("copy {from} to {to}");
        let (store, from, to) = (self.0.store.clone(), from.clone(), to.clone());
        let request: Request<()> = Arc::new(move || {
            let (store, from, to, options) = (store.clone(), from.clone(), to.clone(), options.clone());
            async move { store.copy_opts(&from, &to, options).await }.boxed()
        });
        self.ask(said, true, request).await
    }
}
