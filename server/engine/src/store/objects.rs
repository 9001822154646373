//! The few operations that Gigastore needs of an object store: get, create, stream in, list, length.
//!
//! Must never overwrite an object (caches and marks are the exception and say so; `replace.rs` puts true bytes over
//! damaged ones) and never return fewer bytes than were asked for.

mod read;
mod replace;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use gigastore_formats::ambient::Ambient;
use http::Method;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::StoreError;
use super::connect::Connected;
use super::folder::{self, Folder, Naming, Unwritten};
use super::parts::{self, PART_BYTES, Pace, send_parts};
use super::uploads::Uploads;

/// How often a create is tried whose answer says "exists" while nothing does: S3 answers 409 when two creates collide
/// and neither may have landed yet.
const CREATE_TRIES: u32 = 5;

/// The store of one URL.
#[derive(Clone)]
pub(crate) struct Objects {
    pub(super) store: Arc<dyn ObjectStore>,
    signer: Option<Arc<dyn Signer>>,
    folder: Option<Arc<Folder>>,
    pub(super) ambient: Arc<dyn Ambient>,
    pub(super) uploads: Option<Uploads>,
    url: String,
    pace: Arc<Pace>,
}

/// The bytes of an object to be stored.
pub enum Body {
    /// All of them, in memory, known to be right.
    Whole(Vec<Bytes>),
    /// They are made from memory as they are asked for; a piece is an error where it can't be what was promised.
    Made {
        /// How many bytes will come.
        len: u64,
        /// The pieces.
        pieces: MadePieces,
    },
    /// They come in pieces; the stream checks them and ends with an error where they are not those that were promised.
    Stream {
        /// How many bytes will come.
        len: u64,
        /// The pieces.
        pieces: BoxStream<'static, Result<Bytes, BodyError>>,
    },
}

impl Body {
    /// Returns how many bytes will come.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Whole(pieces) => pieces.iter().map(|piece| piece.len() as u64).sum(),
            Self::Made { len, .. } | Self::Stream { len, .. } => *len,
        }
    }
}

/// Why bytes to be stored did not come as promised: whatever the stream's owner found.
pub type BodyError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Pieces of an object that are made when they are asked for, by a thread that may wait.
pub type MadePieces = Box<dyn Iterator<Item = Result<Bytes, BodyError>> + Send>;

/// What a create found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Created {
    /// Nothing was there; now the given bytes are.
    New,
    /// An object of this length was there and stays.
    Exists(u64),
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Objects").field(&self.url).finish()
    }
}

impl Objects {
    pub(super) fn over(connected: Connected, url: String, ambient: Arc<dyn Ambient>) -> Self {
        let Connected { store, signer, folder, uploads } = connected;
        Self { store, signer, folder: folder.map(Folder::new), ambient, uploads, url, pace: Arc::default() }
    }

    /// Returns the file of an object, where objects are files of a folder.
    pub(crate) fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.file(key))
    }

    /// Signs a URL with which anyone may GET an object for so long; `None` where the store has no such URLs.
    pub(crate) async fn signed_url(&self, key: &str, valid: Duration) -> Option<Result<String, StoreError>> {
        let signed = self.signer.as_ref()?.signed_url(Method::GET, &Path::from(key), valid).await;
        Some(signed.map(String::from).map_err(|source| StoreError::sort(key, source)))
    }

    /// Returns the URL that the store was opened with.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Stores an object where there is none. What is there already stays as it is.
    pub(crate) async fn create(&self, key: &str, pieces: Vec<Bytes>) -> Result<Created, StoreError> {
        if let Some(folder) = &self.folder {
            return self.write_file(folder, key, Body::Whole(pieces), Naming::New).await;
        }
        let payload = PutPayload::from_iter(pieces);
        let mut tries = 1;
        loop {
            match self.create_once(key, payload.clone()).await {
                Ok(()) => return Ok(Created::New),
                Err(source @ Error::AlreadyExists { .. }) => match self.len(key).await? {
                    Some(len) => return Ok(Created::Exists(len)),
                    None if tries < CREATE_TRIES => tries += 1,
                    None => return Err(StoreError::Unavailable { key: key.to_owned(), source }),
                },
                Err(source) => return Err(StoreError::sort(key, source)),
            }
        }
    }

    /// Tries to store an object where there is none, once. After an error of any kind it may be there or not: the
    /// caller reads back.
    pub(crate) async fn create_or_doubt(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        if let Some(folder) = &self.folder {
            return self.write_file(folder, key, Body::Whole(vec![bytes]), Naming::New).await;
        }
        let created = self.create_once(key, bytes.into()).await;
        created.map(|()| Created::New).map_err(|source| StoreError::sort(key, source))
    }

    async fn create_once(&self, key: &str, payload: PutPayload) -> Result<(), Error> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.store.put_opts(&Path::from(key), payload, options).await.map(|_| ())
    }

    /// Writes a cache entry or a mark, over an older one if there is any: what may be missing or stale.
    pub(crate) async fn put_cache(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let put = self.store.put(&Path::from(key), bytes.into()).await;
        put.map(|_| ()).map_err(|source| StoreError::sort(key, source))
    }

    /// Deletes a cache entry or a mark.
    pub(crate) async fn delete_cache(&self, key: &str) -> Result<(), StoreError> {
        match self.store.delete(&Path::from(key)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(StoreError::sort(key, source)),
        }
    }

    /// Stores a content-named object from `body`. Where one is there already nothing is sent and its length is
    /// returned.
    ///
    /// To a cloud store, what is longer than one part goes up in parts that become visible together, unless it is in
    /// memory and the store is fast. Completing parts has no create mode (S3 overwrites), so the looks before the first
    /// part and before completing are what keeps an existing object. A race of two writers that both saw none ends with
    /// an equal object over an equal one: its name is the digest of its content. A file is never replaced.
    pub(crate) async fn store(&self, key: &str, body: Body) -> Result<Created, StoreError> {
        if let Some(folder) = &self.folder {
            return self.write_file(folder, key, body, Naming::New).await;
        }
        let len = body.len();
        // One request says whether a short object is there and puts it there if not. A longer one is not sent to learn
        // that.
        let short = len <= PART_BYTES && matches!(body, Body::Whole(_));
        if !short && let Some(len) = self.len(key).await? {
            return Ok(Created::Exists(len));
        }
        match body {
            Body::Whole(pieces) if self.pace.takes_whole(len) => {
                let began = self.ambient.monotonic();
                let created = self.create(key, pieces).await?;
                // What was there took no time to be sent, and a short body says little.
                if created == Created::New && !short {
                    self.pace.saw(len, self.ambient.monotonic().saturating_sub(began));
                }
                Ok(created)
            }
            body => self.upload(key, body, Naming::New).await,
        }
    }

    /// Stores an object as a file of the store's folder.
    async fn write_file(
        &self,
        folder: &Arc<Folder>,
        key: &str,
        body: Body,
        naming: Naming,
    ) -> Result<Created, StoreError> {
        folder.write(&self.ambient, key, body, naming).await.map_err(|unwritten| match unwritten {
            Unwritten::Folder(error) => StoreError::sort(key, folder_error(error)),
            Unwritten::Body(source) => StoreError::Body { key: key.to_owned(), source },
        })
    }

    /// Makes the names of objects durable that others may have stored a moment ago, where they are files.
    pub(crate) async fn keep_names(&self, keys: Vec<String>) -> Result<(), StoreError> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        let new: Vec<String> = keys.into_iter().filter(|key| !folder.is_kept(&folder.file(key))).collect();
        if new.is_empty() {
            return Ok(());
        }
        let first = new[0].clone();
        let paths: Vec<PathBuf> = new.iter().map(|key| folder.file(key)).collect();
        let kept = self.ambient.waited(move || folder.keep(paths.iter().map(PathBuf::as_path))).await;
        kept.map_err(|error| StoreError::sort(&first, folder_error(error)))
    }

    /// Stores an object in parts, or whole where it is no longer than one.
    async fn upload(&self, key: &str, body: Body, naming: Naming) -> Result<Created, StoreError> {
        let sort = |source| StoreError::sort(key, source);
        let len = body.len();
        let pieces = match body {
            Body::Whole(pieces) => futures::stream::iter(pieces).map(Ok).boxed(),
            Body::Made { pieces, .. } => made(Arc::clone(&self.ambient), pieces),
            Body::Stream { pieces, .. } => pieces,
        };
        if len <= PART_BYTES {
            let gathered = pieces.try_collect().await;
            let pieces: Vec<_> = gathered.map_err(|source| StoreError::Body { key: key.to_owned(), source })?;
            return match naming {
                Naming::New => self.create(key, pieces).await,
                Naming::Over => {
                    let put = self.store.put(&Path::from(key), PutPayload::from_iter(pieces)).await;
                    put.map(|_| Created::New).map_err(sort)
                }
            };
        }
        let mut upload = self.store.put_multipart(&Path::from(key)).await.map_err(sort)?;
        let sent = async {
            send_parts(&*self.ambient, &self.pace, key, upload.as_mut(), len, pieces).await?;
            let there = match naming {
                Naming::New => self.len(key).await?,
                Naming::Over => None,
            };
            match there {
                Some(len) => Ok(Created::Exists(len)),
                None => upload.complete().await.map(|_| Created::New).map_err(sort),
            }
        };
        let done = sent.await;
        if !matches!(done, Ok(Created::New)) {
            // What ended the upload is the thing to report.
            let _ = upload.abort().await;
        }
        done
    }

    /// Returns the bytes that an upload of an object of `len` bytes holds in memory.
    pub(crate) fn upload_memory(&self, len: u64) -> u64 {
        let most = match self.folder {
            Some(_) => folder::MEMORY_BYTES,
            None => parts::memory_bytes(len),
        };
        len.min(most)
    }
}

/// Has pieces made one by one, where none waits for them that serves sockets.
fn made(ambient: Arc<dyn Ambient>, pieces: MadePieces) -> BoxStream<'static, Result<Bytes, BodyError>> {
    let next = move |mut pieces: MadePieces| {
        let ambient = Arc::clone(&ambient);
        async move { ambient.waited(move || pieces.next().map(|piece| (piece, pieces))).await }
    };
    futures::stream::unfold(pieces, next).boxed()
}

pub(super) fn folder_error(error: io::Error) -> Error {
    Error::Generic { store: "folder", source: Box::new(error) }
}
