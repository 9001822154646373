//! Bodies that are sent: from the start at each try, with the progress that was made and the source's own error.
//!
//! Must never hide why a source failed behind an error of the network.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::ambient::Ambient;
use gigastore_formats::digest::Digest;
use gigastore_formats::wire::with_causes;
use reqwest::Body;

use crate::transport::{PieceStream, Pieces, UploadError};

/// Bytes of a body that count as progress: more than a connection that is about to break takes.
const PROGRESS_BYTES: u64 = 8 << 20;

/// Bytes of a sealed body that go out at once.
const SEALED_BYTES: usize = 1 << 20;

/// A body.
#[derive(Clone, Debug)]
pub(super) enum Sent {
    /// None.
    Nothing,
    /// In memory, of a name that says what it is.
    Bytes(Vec<Bytes>),
    /// A document or manifest, with its digest.
    Sealed(Bytes, Digest),
    /// Read from its source as it is sent.
    Stream {
        /// What comes before the source's bytes.
        first: Bytes,
        /// The source.
        pieces: Pieces,
        /// Bytes in all.
        len: u64,
    },
}

/// What becomes of one try to send a body.
#[derive(Clone, Default, Debug)]
pub(super) struct Fate {
    /// Time of the last piece that was taken, in milliseconds of the ambient's clock.
    moved: Arc<AtomicU64>,
    passed: Arc<AtomicU64>,
    failed: Arc<Mutex<Option<String>>>,
}

impl Fate {
    /// Returns the time of the last progress.
    pub(super) fn moved_ms(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Returns when the body last moved, where more of it went out than fits the buffers on the way.
    pub(super) fn progress(&self) -> Option<Duration> {
        let out = self.passed.load(Ordering::Relaxed) >= PROGRESS_BYTES;
        out.then(|| Duration::from_millis(self.moved_ms()))
    }

    /// Returns why the source failed, if it did.
    pub(super) fn failed(&self) -> Option<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Sent {
    /// Seals a body that may be long: its digest is made on a thread for that.
    pub(super) async fn sealed(ambient: &dyn Ambient, bytes: Bytes) -> Self {
        let hashed = bytes.clone();
        let digest = ambient.computed_over(bytes.len(), move || Digest::of(&hashed)).await;
        Self::Sealed(bytes, digest)
    }

    /// Returns the body's bytes; `None` where there is no body.
    pub(super) fn len(&self) -> Option<u64> {
        match self {
            Self::Nothing => None,
            Self::Bytes(pieces) => Some(pieces.iter().map(|piece| piece.len() as u64).sum()),
            Self::Sealed(bytes, _) => Some(bytes.len() as u64),
            Self::Stream { len, .. } => Some(*len),
        }
    }

    /// Returns the body from its start, and what will become of it.
    pub(super) fn body(&self, ambient: &Arc<dyn Ambient>) -> (Body, Fate) {
        let fate = Fate::default();
        fate.moved.store(ambient.monotonic().as_millis() as u64, Ordering::Relaxed);
        let pieces = match self {
            Self::Nothing => return (Body::default(), fate),
            Self::Bytes(pieces) => futures::stream::iter(pieces.clone()).map(Ok).boxed(),
            Self::Sealed(bytes, _) => {
                // In pieces, so that it is seen to move.
                let (bytes, starts) = (bytes.clone(), (0..bytes.len()).step_by(SEALED_BYTES));
                let piece = move |start: usize| Ok(bytes.slice(start..bytes.len().min(start + SEALED_BYTES)));
                futures::stream::iter(starts.map(piece)).boxed()
            }
            Self::Stream { first, pieces, .. } => {
                futures::stream::iter([Ok(first.clone())]).chain(pieces.read()).boxed()
            }
        };
        let (noted, passed, clock) = (Arc::clone(&fate.moved), Arc::clone(&fate.passed), Arc::clone(ambient));
        let failed = Arc::clone(&fate.failed);
        let pieces = exactly(pieces, self.len().unwrap_or_default())
            .inspect_ok(move |piece| {
                noted.store(clock.monotonic().as_millis() as u64, Ordering::Relaxed);
                passed.fetch_add(piece.len() as u64, Ordering::Relaxed);
            })
            .inspect_err(move |error: &UploadError| {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(with_causes(error.as_ref()));
            });
        (Body::wrap_stream(pieces), fate)
    }
}

/// A source gave other bytes than it had when it was measured.
#[derive(Debug, thiserror::Error)]
enum LengthError {
    #[error("the source gave more than the {expected} bytes that it had")]
    Longer { expected: u64 },
    #[error("the source ended after {actual} of the {expected} bytes that it had")]
    Shorter { expected: u64, actual: u64 },
}

/// Passes pieces on that are `len` bytes in all; ends with an error where they are more or fewer.
///
/// The last piece is passed on only when the source has ended: nobody asks a body for more than its length.
fn exactly(pieces: PieceStream, len: u64) -> PieceStream {
    futures::stream::try_unfold((pieces, 0u64), move |(mut pieces, passed)| async move {
        let Some(piece) = pieces.next().await.transpose()? else {
            let short = LengthError::Shorter { expected: len, actual: passed };
            return if passed < len { Err(short.into()) } else { Ok(None) };
        };
        let passed = passed + piece.len() as u64;
        if passed > len || (passed == len && pieces.next().await.transpose()?.is_some_and(|more| !more.is_empty())) {
            return Err(LengthError::Longer { expected: len }.into());
        }
        Ok(Some((piece, (pieces, passed))))
    })
    .boxed()
}
