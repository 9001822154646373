//! Bodies: in at a pace, out in pieces, and never more of either in memory than was admitted.
//!
//! Must never wait without end for a client, nor read a byte of a body before its memory was given.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use gigastore_formats::digest::Digest;
use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::{Fault, FaultCode, SEAL_HEADER, check_seal};
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::error::Refused;
use super::range::Wanted;
use super::router::Shared;
use crate::accept::MAX_READ_BYTES;
use crate::admission::Admitted;
use crate::cache::BLOCK_BYTES;

const SEAL: HeaderName = HeaderName::from_static(SEAL_HEADER);

/// Bytes of a JSON request: a plan of 100,000 boxes of some 100 bytes.
pub(crate) const MAX_JSON_BYTES: u64 = 16 << 20;

/// Pieces of an answer that are read at once.
const AHEAD: usize = 2;

/// Memory of one answer in pieces: those being read, and one on its way out.
pub(crate) const ANSWER_BYTES: u64 = (AHEAD as u64 + 1) * BLOCK_BYTES;

/// A body that brings fewer than these bytes in the time of [`Limits::pace`](crate::Limits::pace) is given up: 35 kB/s,
/// below any link a trainer has, and enough that memory given to a body comes back.
const PACE_BYTES: u64 = 1 << 20;

/// Bytes of a read that is passed on as it is: three quarters of the memory it came in, or more.
const LONG_BYTES: usize = MAX_READ_BYTES / 4 * 3;

/// Bytes that are passed on at once where they come in short reads: what a client sends a byte at a time would take 32
/// times its memory in pieces.
const PIECE_BYTES: u64 = 512 << 10;

/// What is wrong with a body that comes in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body came too slowly: fewer than {PACE_BYTES} bytes in {} s", pace.as_secs_f64())]
    Slow { pace: Duration },
    #[error("the body broke off: {0}")]
    Broken(String),
}

/// Returns the length that the client says its body has.
pub(crate) fn content_length(headers: &HeaderMap) -> Result<u64, Refused> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    length
        .ok_or_else(|| Refused::invalid("this request needs a Content-Length").with_status(StatusCode::LENGTH_REQUIRED))
}

/// A body that comes in.
struct Coming {
    pieces: BodyDataStream,
    /// Bytes that the body still promises.
    left: u64,
    pace: Duration,
    until: tokio::time::Instant,
    came: u64,
    received: Counter,
}

impl Coming {
    /// Waits for what comes next.
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let slow = |_| BodyError::Slow { pace: self.pace };
        let next = tokio::time::timeout_at(self.until, self.pieces.next()).await.map_err(slow)?;
        let piece = next.transpose().map_err(|error| BodyError::Broken(error.to_string()))?;
        let len = piece.as_ref().map_or(0, Bytes::len) as u64;
        self.received.inc_by(len);
        self.left = self.left.saturating_sub(len);
        self.came += len;
        if self.came >= PACE_BYTES {
            (self.came, self.until) = (0, tokio::time::Instant::now() + self.pace);
        }
        Ok(piece)
    }

    /// Waits for a piece of [`PIECE_BYTES`], or what comes in one long read, or the last one.
    async fn piece(&mut self) -> Result<Option<Bytes>, BodyError> {
        let mut gathered = BytesMut::new();
        while (gathered.len() as u64) < PIECE_BYTES {
            let Some(next) = self.next().await? else { break };
            if gathered.is_empty() && next.len() >= LONG_BYTES {
                return Ok(Some(next));
            }
            if gathered.is_empty() {
                // All at once: memory that grows is copied each time.
                gathered.reserve(next.len() + PIECE_BYTES.min(self.left) as usize);
            }
            gathered.extend_from_slice(&next);
        }
        Ok((!gathered.is_empty()).then(|| gathered.freeze()))
    }
}

/// Returns a body in pieces that fill most of the memory they hold, however small those are that it comes in; they end
/// with an error where it stops coming.
pub(crate) fn paced(shared: &Shared, body: Body) -> BoxStream<'static, Result<Bytes, BodyError>> {
    let left = body.size_hint().upper().unwrap_or(0);
    let (pieces, received, pace) = (body.into_data_stream(), shared.metrics.received.clone(), shared.pace);
    let coming = Coming { pieces, left, pace, until: tokio::time::Instant::now() + pace, came: 0, received };
    let pieces = futures::stream::try_unfold(coming, |mut coming| async move {
        Ok(coming.piece().await?.map(|piece| (piece, coming)))
    });
    pieces.boxed()
}

/// Reads a whole body of at most `limit` bytes, checked against its seal where it has one. The memory is given back
/// when the second value is dropped.
pub(crate) async fn gathered(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
    limit: u64,
) -> Result<(Bytes, Admitted), Refused> {
    let (len, limit) = (content_length(headers)?, limit.min(shared.admission.most()));
    if len > limit {
        let refused = Refused::new(Fault {
            expected: Some(format!("at most {limit} bytes")),
            actual: Some(format!("{len} bytes")),
            hint: Some("half of the service's --memory is the most that one body may take: raise it".to_owned()),
            ..Fault::of(FaultCode::Invalid, format!("the body has {len} bytes, over the limit of {limit} here"))
        });
        return Err(refused.with_status(StatusCode::PAYLOAD_TOO_LARGE));
    }
    let admitted = shared.admission.body(len).await?;
    let mut gathered = BytesMut::with_capacity(len as usize);
    let mut pieces = paced(shared, body);
    while let Some(piece) = pieces.next().await {
        gathered.extend_from_slice(&piece.map_err(|error| Refused::invalid(error.to_string()))?);
    }
    let gathered = gathered.freeze();
    if let Some(seal) = headers.get(SEAL_HEADER).cloned() {
        let checked = gathered.clone();
        let check = move || check_seal(Some(seal.as_bytes()), &checked);
        let damaged = |fault| Refused::new(fault).with_status(StatusCode::UNPROCESSABLE_ENTITY);
        shared.ambient.computed_over(gathered.len(), check).await.map_err(damaged)?;
    }
    Ok((gathered, admitted))
}

/// Reads a JSON body. Its memory is given back when the second value is dropped: whoever works on the first holds it.
pub(crate) async fn json<T: DeserializeOwned>(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
) -> Result<(T, Admitted), Refused> {
    let (bytes, admitted) = gathered(shared, headers, body, MAX_JSON_BYTES).await?;
    let value = serde_json::from_slice(&bytes)
        .map_err(|error| Refused::invalid(format!("the body is not what it should be: {error}")))?;
    Ok((value, admitted))
}

/// A document that has no memory yet: [`admitted`] gives it, once the handler has given back its own.
#[derive(Clone, Debug)]
struct Document(Bytes);

/// Answers with a JSON document.
pub(crate) fn document<T: Serialize + ?Sized>(value: &T) -> Result<Response<Body>, Refused> {
    let bytes = serde_json::to_vec(value).map_err(|error| Refused::new(Fault::new(FaultCode::Invalid, &error)))?;
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    headers.extend(HeaderValue::try_from(Digest::of(&bytes).to_string()).map(|seal| (SEAL, seal)));
    response.extensions_mut().insert(Document(bytes.into()));
    Ok(response)
}

/// Waits for the memory of a document, which holds it until it is sent. Other answers stay as they are.
pub(crate) async fn admitted(shared: &Shared, mut response: Response<Body>) -> Result<Response<Body>, Refused> {
    if let Some(Document(bytes)) = response.extensions_mut().remove() {
        let len = bytes.len() as u64;
        let admitted = shared.admission.answer(len).await?;
        shared.metrics.sent.inc_by(len);
        *response.body_mut() = Body::from(admitted.held_by(bytes));
    }
    Ok(response)
}

/// What is answered with.
pub(crate) struct Head {
    /// Its name for caches.
    pub(crate) etag: String,
    pub(crate) len: u64,
    pub(crate) kind: &'static str,
    /// The most memory that its pieces take, and what reading them takes beside.
    pub(crate) memory: (u64, u64),
}

/// Answers with an object or a part of it, read piece by piece by `read`. `HEAD` gets the same without the bytes.
pub(crate) async fn ranged<R, F>(
    shared: &Shared,
    head: Head,
    wanted: Wanted,
    with_body: bool,
    read: R,
) -> Result<Response<Body>, Refused>
where
    R: Fn(ByteRange) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Bytes, Fault>> + Send + 'static,
{
    let range = wanted.range(head.len);
    let status = match wanted {
        Wanted::NotModified => StatusCode::NOT_MODIFIED,
        Wanted::Whole => StatusCode::OK,
        Wanted::Part(_) => StatusCode::PARTIAL_CONTENT,
    };
    let (most, beside) = head.memory;
    let body = match with_body && status != StatusCode::NOT_MODIFIED {
        true => pieces(shared, range, range.len().min(most) + beside, read).await?,
        false => Body::empty(),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let mut set = |name, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    };
    set(header::ETAG, format!("\"{}\"", head.etag));
    set(header::ACCEPT_RANGES, "bytes".to_owned());
    if status != StatusCode::NOT_MODIFIED {
        set(header::CONTENT_TYPE, head.kind.to_owned());
        set(header::CONTENT_LENGTH, range.len().to_string());
    }
    if let Wanted::Part(range) = wanted {
        set(header::CONTENT_RANGE, format!("bytes {}-{}/{}", range.start(), range.end() - 1, head.len));
    }
    Ok(response)
}

/// Cuts a range at borders of blocks and reads the pieces, some ahead of the one that is being sent.
async fn pieces<R, F>(shared: &Shared, range: ByteRange, memory: u64, read: R) -> Result<Body, Refused>
where
    R: Fn(ByteRange) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Bytes, Fault>> + Send + 'static,
{
    // What takes none waits for none.
    let admitted = match memory {
        0 => None,
        bytes => Some(shared.admission.memory(bytes).await?),
    };
    let mut rest = futures::stream::iter(range.cut(BLOCK_BYTES)).map(move |cut| apart(read(cut))).buffered(AHEAD);
    // The first piece is read before the head is sent, so that what can't be read has a status that says so.
    let Some(first) = rest.next().await.transpose()? else { return Ok(Body::empty()) };
    let shared = Arc::clone(shared);
    // A failure after the head has no status that says so: the answer breaks off, and it is counted and logged here.
    let failing = Arc::clone(&shared);
    let rest = rest.inspect_err(move |fault| {
        failing.metrics.fault(fault);
        tracing::error!(code = ?fault.code, object = fault.object, message = fault.message, "an answer broke off");
    });
    let all = futures::stream::iter([Ok(first)]).chain(rest).map_ok(move |bytes: Bytes| {
        shared.metrics.sent.inc_by(bytes.len() as u64);
        admitted.clone().map_or(bytes.clone(), |admitted| admitted.held_by(bytes))
    });
    Ok(Body::from_stream(all))
}

/// Reads on a task of its own, which ends with the answer: a client that takes its time keeps nobody waiting who wants
/// the same group or header.
fn apart(
    read: impl Future<Output = Result<Bytes, Fault>> + Send + 'static,
) -> impl Future<Output = Result<Bytes, Fault>> {
    let mut task = JoinSet::new();
    task.spawn(read);
    async move {
        match task.join_next().await {
            Some(Ok(read)) => read,
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            _ => Err(Fault::of(FaultCode::Unavailable, "the service ends")),
        }
    }
}
