//! Packs, blobs and manifests by their names, and which of them there are.
//!
//! Must never make an object visible before all of its bytes matched its name, nor overwrite one.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use axum::routing::MethodRouter;
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt};
use gigastore_engine::PackBody;
use gigastore_formats::limits::{MAX_BLOB_BYTES, MAX_PACK_HEADER_BYTES};
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::pack::PackHeader;
use gigastore_formats::wire::{ExistsRequest, Fault, FaultCode, PlacesAnswer};

use super::body::{self, ANSWER_BYTES, Head, document, json, paced, ranged};
use super::error::{Refused, refused};
use super::range::{afresh, least, wanted};
use super::router::Shared;
use crate::admission::{Admitted, Reserved};
use crate::maps::Mapped;

/// Objects that are asked for at once.
const MAX_ASKED: usize = 100_000;

const OBJECT: &str = "application/octet-stream";

/// Objects whose places are asked for at once.
const MAX_PLACES: usize = 1000;

/// How long a signed URL is good: longer than any read of a pack takes, and short enough that one which leaks into a
/// log is soon worth nothing.
const PLACE_VALID: Duration = Duration::from_secs(900);

type Which = Path<(String, String)>;

/// Returns the route that gives objects of a kind.
pub(super) fn read(kind: ObjectKind) -> MethodRouter<Shared> {
    axum::routing::get(move |state, method, which, headers| get(state, method, which, headers, kind))
}

async fn get(
    State(shared): State<Shared>,
    method: Method,
    which: Which,
    headers: HeaderMap,
    kind: ObjectKind,
) -> Result<Response<Body>, Refused> {
    let (project, object) = parse(which)?;
    if let Some(mapped) = mapped(&shared, &project, kind, object).await {
        let (etag, len, ambient) = (object.to_string(), mapped.len(), Arc::clone(&shared.ambient));
        let wanted = wanted(&method, &headers, &etag, len)?;
        let read = move |range| {
            let (mapped, ambient) = (mapped.clone(), Arc::clone(&ambient));
            let failed = |error| Fault::new(FaultCode::Unavailable, &error);
            async move { mapped.range(&ambient, range).await.map_err(failed) }
        };
        let head = Head { etag, len, kind: OBJECT, memory: (0, 0) };
        return ranged(&shared, head, wanted, method == Method::GET, read).await;
    }
    // A client that found other bytes than promised asks for those of the store.
    let afresh = afresh(&headers);
    if afresh {
        shared.cache.forget_len(&project, kind, object);
    }
    let Some(len) = shared.cache.len(&project, kind, object, least(&headers)).await? else {
        return Err(Refused::new(Fault {
            object: Some(object.key(kind)),
            ..Fault::of(FaultCode::Lost, format!("project {project} has no object {}", object.key(kind)))
        })
        .with_status(StatusCode::NOT_FOUND));
    };
    let etag = object.to_string();
    let wanted = wanted(&method, &headers, &etag, len)?;
    let cached = Arc::clone(&shared);
    let read = move |range| {
        let (cached, project) = (Arc::clone(&cached), project.clone());
        async move {
            if afresh {
                cached.cache.forget(&project, kind, object, range).await;
            }
            cached.cache.read(&project, kind, object, range, len).await
        }
    };
    let head = Head { etag, len, kind: OBJECT, memory: (ANSWER_BYTES, 0) };
    ranged(&shared, head, wanted, method == Method::GET, read).await
}

/// Maps an object that is a file of this machine. What can't be mapped is read in the ordinary way, which says why.
async fn mapped(shared: &Shared, project: &ProjectName, kind: ObjectKind, object: Stored) -> Option<Mapped> {
    let path = shared.engine.path(project, kind, &object)?;
    let maps = Arc::clone(shared.maps.as_ref()?);
    tokio::task::spawn_blocking(move || maps.open(&path)).await.ok()?.ok()
}

pub(super) async fn put_pack(
    State(shared): State<Shared>,
    which: Which,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refused> {
    let (project, pack) = parse(which)?;
    let len = body::content_length(&headers)?;
    let _admitted = admit(&shared, len).await?;
    let mut pieces = paced(&shared, body);
    let (header, rest) = header(&mut pieces, len).await?;
    let first = futures::stream::iter((!rest.is_empty()).then_some(Ok(rest)));
    let rest = first.chain(pieces.map(|piece| piece.map_err(Into::into)));
    shared.engine.put_pack(&project, pack, header, PackBody::Stream(rest.boxed())).await.map_err(refused)?;
    Ok(StatusCode::CREATED)
}

/// Gathers the header of a pack, and returns it with what came after it.
async fn header(
    pieces: &mut BoxStream<'static, Result<Bytes, body::BodyError>>,
    len: u64,
) -> Result<(Bytes, Bytes), Refused> {
    let bad = |text: String| Refused::new(Fault::of(FaultCode::BadUpload, text));
    let mut gathered = BytesMut::new();
    let mut needed = None;
    loop {
        if let (None, Some(prefix)) = (needed, gathered.first_chunk::<8>()) {
            let header_len = PackHeader::len_from_prefix(*prefix).map_err(|error| bad(error.to_string()))?;
            let header_len = header_len.min(MAX_PACK_HEADER_BYTES + 8);
            if header_len > len {
                return Err(bad(format!("the pack's header has {header_len} bytes, its body {len}")));
            }
            needed = Some(header_len as usize);
        }
        if let Some(needed) = needed.filter(|needed| gathered.len() >= *needed) {
            let rest = gathered.split_off(needed);
            return Ok((gathered.freeze(), rest.freeze()));
        }
        match pieces.next().await {
            Some(piece) => gathered.extend_from_slice(&piece.map_err(|error| bad(error.to_string()))?),
            None => {
                return Err(bad(format!("the body ended after {} bytes, within the pack's header", gathered.len())));
            }
        }
    }
}

pub(super) async fn put_blob(
    State(shared): State<Shared>,
    which: Which,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refused> {
    let (project, blob) = parse(which)?;
    let len = body::content_length(&headers)?;
    if len > MAX_BLOB_BYTES {
        let text = format!("the file has {len} bytes, over the limit of {MAX_BLOB_BYTES}");
        return Err(Refused::invalid(text).with_status(StatusCode::PAYLOAD_TOO_LARGE));
    }
    let _admitted = admit(&shared, len).await?;
    let pieces = paced(&shared, body).map(|piece| piece.map_err(Into::into)).boxed();
    shared.engine.put_blob_as(&project, blob, len, pieces).await.map_err(refused)?;
    Ok(StatusCode::CREATED)
}

/// Asks for room on the disk, and for the memory that an upload of `len` bytes takes.
async fn admit(shared: &Shared, len: u64) -> Result<(Admitted, Reserved), Refused> {
    let (needed, most) = (shared.engine.upload_memory(len), shared.admission.all());
    if needed > most {
        let refused = Refused::new(Fault {
            expected: Some(format!("at most {most} bytes of memory")),
            actual: Some(format!("{needed} bytes")),
            hint: Some("raise --memory of the service, or push it to the bucket without a service".to_owned()),
            ..Fault::of(FaultCode::Invalid, format!("an object of {len} bytes takes more memory than this service has"))
        });
        return Err(refused.with_status(StatusCode::PAYLOAD_TOO_LARGE));
    }
    let room = shared.admission.reserve(len)?;
    Ok((shared.admission.memory(needed).await?, room))
}

pub(super) async fn exists(
    State(shared): State<Shared>,
    Path(project): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let project = self::project(&project)?;
    let (asked, _admitted) = asked(&shared, &headers, body, MAX_ASKED).await?;
    document(&shared.engine.lengths(&project, asked.kind, &asked.objects).await.map_err(refused)?)
}

/// Tells where objects can be read without this service, where it may.
pub(super) async fn places(
    State(shared): State<Shared>,
    Path(project): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let project = self::project(&project)?;
    let (asked, _admitted) = asked(&shared, &headers, body, MAX_PLACES).await?;
    if !shared.direct {
        return document(&PlacesAnswer::default());
    }
    let mut places = Vec::with_capacity(asked.objects.len());
    for object in &asked.objects {
        places.push(shared.engine.place_of(&project, asked.kind, object, PLACE_VALID).await.map_err(refused)?);
    }
    document(&PlacesAnswer { direct: true, places, valid_ms: PLACE_VALID.as_millis() as u64 })
}

/// Reads a question about at most `most` objects.
async fn asked(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
    most: usize,
) -> Result<(ExistsRequest, Admitted), Refused> {
    let (asked, admitted): (ExistsRequest, _) = json(shared, headers, body).await?;
    if asked.objects.len() > most {
        let text = format!("{} objects in one question, over the limit of {most}", asked.objects.len());
        return Err(Refused::invalid(text));
    }
    Ok((asked, admitted))
}

/// Parses a project's name.
pub(super) fn project(text: &str) -> Result<ProjectName, Refused> {
    text.parse().map_err(|error| Refused::new(Fault::new(FaultCode::Invalid, &error)))
}

fn parse(Path((project, object)): Which) -> Result<(ProjectName, Stored), Refused> {
    let object = object.parse().map_err(|error| Refused::new(Fault::new(FaultCode::Invalid, &error)))?;
    Ok((self::project(&project)?, object))
}
