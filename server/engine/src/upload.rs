//! Packs and dataset files on their way in: checked group after group as they pass, visible only when all of it
//! matched.
//!
//! Must never overwrite an object but one that is marked as damaged, and never make one visible whose bytes were not
//! checked by somebody in this process.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt, TryStreamExt};
use gigastore_formats::ambient::Ambient;
use gigastore_formats::digest::Digest;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::pack::PackCheck;
use gigastore_formats::pack::{PackError, PackHeader};
use gigastore_formats::verified::{GroupTree, StreamCheck, StreamHasher};

use crate::engine::Engine;
use crate::log::LogError;
use crate::store::{Body, BodyError, Created, MadePieces, StoreError, batch, keys};

/// Questions about objects in flight at once: lookups cost latency, not bandwidth.
const LOOKUPS_IN_FLIGHT: usize = 64;

/// Bytes that are hashed at once: far more work than handing them to a thread.
const CHECK_BYTES: u64 = 512 << 10;

/// The bytes of a pack after its header.
pub enum PackBody {
    /// In memory, hashed in this process since they were last touched.
    Whole(Vec<Bytes>),
    /// From a socket, or read a second time from a source that may have changed: checked as they pass.
    Stream(BoxStream<'static, Result<Bytes, BodyError>>),
    /// Hashed in this process, and made from memory by whoever fails where that is not any more what was hashed.
    Watched(MadePieces),
}

/// Why an upload was refused.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The header is not that of the named pack.
    #[error("the header of pack {name} is not valid")]
    Header {
        /// The pack.
        name: Digest,
        /// What is wrong with it.
        #[source]
        source: PackError,
    },
    /// The bytes are not as many as the header says.
    #[error("{key} has {expected} bytes, but {actual} were sent")]
    Length {
        /// The object's key.
        key: String,
        /// Bytes that it has.
        expected: u64,
        /// Bytes sent.
        actual: u64,
    },
    /// An object of that name is there with another length: it was damaged after it was stored.
    #[error(
        "{key} is in the store with {actual} bytes, expected {expected}: it is damaged; `gigastore verify` says \
         who needs it"
    )]
    Damaged {
        /// The object's key.
        key: String,
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        actual: u64,
    },
    /// The epoch in the object's name has not begun: no fence would ever condemn the object.
    #[error("{key} is said to be of epoch {epoch}, but the newest is {newest}: read the log and upload again")]
    Epoch {
        /// The object's key.
        key: String,
        /// The epoch in its name.
        epoch: u64,
        /// The newest epoch of the project.
        newest: u64,
    },
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store failed, or the stream did.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Engine {
    /// Returns the length of each object that something new may refer to; `None` for those that are not there, or are
    /// marked as damaged: an upload of their content puts them right.
    pub async fn lengths(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        objects: &[Stored],
    ) -> Result<Vec<Option<u64>>, StoreError> {
        let marked = self.marked(project).await?;
        let lengths = futures::stream::iter(objects.to_vec()).map(|stored| {
            let sound = !marked.contains(&(kind, stored));
            async move { if sound { self.len_of(project, kind, &stored).await } else { Ok(None) } }
        });
        lengths.buffered(LOOKUPS_IN_FLIGHT).try_collect().await
    }

    /// Returns the length of an object, damaged or not; `None` where it is not there.
    pub async fn len_of(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        object: &Stored,
    ) -> Result<Option<u64>, StoreError> {
        self.objects.len(&keys::object(project, kind, object)).await
    }

    /// Returns the bytes that an upload of an object of `len` bytes holds in memory.
    pub fn upload_memory(&self, len: u64) -> u64 {
        self.objects.upload_memory(len)
    }

    /// Stores a pack. Nothing is sent where it is there already.
    pub async fn put_pack(
        &self,
        project: &ProjectName,
        pack: Stored,
        header: Bytes,
        body: PackBody,
    ) -> Result<(), UploadError> {
        let key = keys::object(project, ObjectKind::Pack, &pack);
        let invalid = |source| UploadError::Header { name: pack.digest, source };
        // Up to 8 MiB: not on a thread that others wait for.
        let text = header.clone();
        let parsed = self.ambient.computed(move || PackHeader::parse(pack.digest, &text)).await.map_err(invalid)?;
        let len = parsed.object_len();
        let body = match body {
            PackBody::Whole(mut pieces) => {
                pieces.insert(0, header);
                let actual = pieces.iter().map(|piece| piece.len() as u64).sum();
                if actual != len {
                    return Err(UploadError::Length { key, expected: len, actual });
                }
                Body::Whole(pieces)
            }
            PackBody::Watched(pieces) => {
                Body::Made { len, pieces: Box::new(std::iter::once(Ok(header)).chain(pieces)) }
            }
            PackBody::Stream(pieces) => {
                let checked = checked(PackCheck::new(parsed), pieces, Arc::clone(&self.ambient));
                let head = futures::stream::once(std::future::ready(Ok(header)));
                Body::Stream { len, pieces: head.chain(checked).boxed() }
            }
        };
        self.store_content(project, ObjectKind::Pack, pack, len, body).await
    }

    /// Stores a dataset file of which `tree` is the group tree. Nothing is sent where it is there already.
    pub async fn put_blob(
        &self,
        project: &ProjectName,
        epoch: u64,
        tree: GroupTree,
        bytes: BoxStream<'static, Result<Bytes, BodyError>>,
    ) -> Result<Stored, UploadError> {
        let blob = Stored { digest: tree.root(), epoch };
        let len = tree.len();
        let pieces = checked(StreamCheck::new(tree), bytes, Arc::clone(&self.ambient)).boxed();
        self.store_content(project, ObjectKind::Blob, blob, len, Body::Stream { len, pieces }).await?;
        Ok(blob)
    }

    /// Stores a dataset file of `len` bytes under the name it was promised to have; its bytes are hashed as they pass,
    /// and become visible only if the name is right.
    pub async fn put_blob_as(
        &self,
        project: &ProjectName,
        blob: Stored,
        len: u64,
        bytes: BoxStream<'static, Result<Bytes, BodyError>>,
    ) -> Result<(), UploadError> {
        let hasher = StreamHasher::default();
        let check = NameCheck { hasher, passed: 0, expected: blob.digest, len };
        let pieces = checked(check, bytes, Arc::clone(&self.ambient)).boxed();
        self.store_content(project, ObjectKind::Blob, blob, len, Body::Stream { len, pieces }).await
    }

    /// Makes the names of stored objects durable, before a commit refers to them: whoever stored one may have died when
    /// it was visible and its name not yet durable.
    pub(crate) async fn keep_names(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        objects: impl Iterator<Item = Stored>,
    ) -> Result<(), StoreError> {
        let keys = objects.map(|stored| keys::object(project, kind, &stored)).collect();
        self.objects.keep_names(keys).await
    }

    /// Stores an object of `expected` bytes under the name of its content; over the one that is there where that is
    /// marked as damaged: both have one content, and these bytes are it.
    pub(crate) async fn store_content(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        object: Stored,
        expected: u64,
        body: Body,
    ) -> Result<(), UploadError> {
        let key = keys::object(project, kind, &object);
        if object.epoch > self.seen_epoch(project) {
            let newest = self.state(project).await?.epoch;
            if object.epoch > newest {
                return Err(UploadError::Epoch { key, epoch: object.epoch, newest });
            }
        }
        if self.marked(project).await?.contains(&(kind, object)) {
            self.objects.replace(&key, body).await?;
            return Ok(self.unmark(project, kind, object).await?);
        }
        match self.objects.store(&key, body).await? {
            Created::Exists(actual) if actual != expected => Err(UploadError::Damaged { key, expected, actual }),
            Created::New | Created::Exists(_) => Ok(()),
        }
    }
}

/// Something that checks bytes as they pass.
pub(crate) trait Check: Send + 'static {
    fn update(&mut self, bytes: &[u8]) -> Result<(), BodyError>;
    fn finish(self) -> Result<(), BodyError>;
}

impl Check for PackCheck {
    fn update(&mut self, bytes: &[u8]) -> Result<(), BodyError> {
        Ok(PackCheck::update(self, bytes)?)
    }

    fn finish(self) -> Result<(), BodyError> {
        Ok(PackCheck::finish(self)?)
    }
}

impl Check for StreamCheck {
    fn update(&mut self, bytes: &[u8]) -> Result<(), BodyError> {
        Ok(StreamCheck::update(self, bytes)?)
    }

    fn finish(self) -> Result<(), BodyError> {
        Ok(StreamCheck::finish(self)?)
    }
}

/// Checks that bytes have the name and length that was promised for them.
struct NameCheck {
    hasher: StreamHasher,
    passed: u64,
    expected: Digest,
    len: u64,
}

/// Bytes are not those that were promised.
#[derive(Debug, thiserror::Error)]
enum NameMismatch {
    #[error("expected {expected} bytes, more came")]
    Longer { expected: u64 },
    #[error("expected {expected} bytes, actual {actual}")]
    Length { expected: u64, actual: u64 },
    #[error("expected BLAKE3 {expected}, actual {actual}")]
    Digest { expected: Digest, actual: Digest },
}

impl Check for NameCheck {
    fn update(&mut self, bytes: &[u8]) -> Result<(), BodyError> {
        self.passed += bytes.len() as u64;
        if self.passed > self.len {
            return Err(NameMismatch::Longer { expected: self.len }.into());
        }
        self.hasher.update(bytes);
        Ok(())
    }

    fn finish(self) -> Result<(), BodyError> {
        let tree = self.hasher.finish();
        let (expected, actual) = (self.expected, tree.root());
        if tree.len() != self.len {
            return Err(NameMismatch::Length { expected: self.len, actual: tree.len() }.into());
        }
        if actual != expected {
            return Err(NameMismatch::Digest { expected, actual }.into());
        }
        Ok(())
    }
}

/// Passes pieces on once `check` has taken them; ends with an error at the first that does not match, or where the
/// stream ends too early. The hashing runs on the pool of the ambient, for some pieces at once.
pub(crate) fn checked<C: Check>(
    check: C,
    pieces: BoxStream<'static, Result<Bytes, BodyError>>,
    ambient: Arc<dyn Ambient>,
) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
    let checked = futures::stream::try_unfold((check, pieces), move |(mut check, mut pieces)| {
        let ambient = Arc::clone(&ambient);
        async move {
            let batch = batch(&mut pieces, CHECK_BYTES).await?;
            if batch.is_empty() {
                check.finish()?;
                return Ok::<_, BodyError>(None);
            }
            let hash = move || (batch.iter().try_for_each(|piece| check.update(piece)).map(|()| batch), check);
            let (checked, check) = ambient.computed(hash).await;
            Ok(Some((futures::stream::iter(checked?).map(Ok), (check, pieces))))
        }
    });
    checked.try_flatten()
}
