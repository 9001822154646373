//! Health for load balancers, readiness with a real write, metrics, trials of the network.
//!
//! Must never say ready where a record could not be created, nor name a project to a caller without a scope on it.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, HeaderValue, Response, header};
use bytes::Bytes;
use gigastore_formats::wire::{Fault, FaultCode, ProbeReceipt};
use serde::Deserialize;

use super::body::{document, gathered};
use super::error::Refused;
use super::router::Shared;
use crate::auth::Caller;
use crate::metrics::Now;

/// How long a probe of the store stays good: load balancers ask every few seconds, and each probe writes.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// Bytes of a probe.
const PROBE_BYTES: usize = 64;

/// Bytes of a trial of the network: enough for a second at 100 Mbit/s, and half of the smallest memory that is set.
const MAX_TRIAL_BYTES: u64 = 16 << 20;

/// What a trial of the way back is made of.
static TRIAL_PIECE: [u8; 64 << 10] = [0x5a; 64 << 10];

/// When the store was probed, and with what outcome.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    last: Mutex<Option<(Duration, Option<Fault>)>>,
}

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(shared): State<Shared>) -> Result<&'static str, Refused> {
    let now = shared.ambient.monotonic();
    let last = shared.ready.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let outcome = match last {
        Some((at, outcome)) if now.saturating_sub(at) < GOOD_FOR => outcome,
        _ => {
            let outcome = shared.engine.probe(PROBE_BYTES).await.err().map(|error| Fault::from(&error));
            *shared.ready.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, outcome.clone()));
            outcome
        }
    };
    match outcome {
        None => Ok("ready\n"),
        Some(fault) => Err(Refused::new(Fault { code: FaultCode::Unavailable, ..fault })),
    }
}

/// Takes the bytes of a trial of the way here, and forgets them.
pub(super) async fn probe_in(
    State(shared): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let (bytes, _admitted) = gathered(&shared, &headers, body, MAX_TRIAL_BYTES).await?;
    document(&ProbeReceipt { received: bytes.len() as u64, wall_ms: shared.ambient.wall_ms() })
}

#[derive(Deserialize)]
pub(super) struct Trial {
    bytes: u64,
}

/// Sends the bytes of a trial of the way back.
pub(super) async fn probe_out(
    State(shared): State<Shared>,
    query: Result<Query<Trial>, QueryRejection>,
) -> Result<Response<Body>, Refused> {
    let Query(Trial { bytes }) = query.map_err(|error| Refused::invalid(error.body_text()))?;
    if bytes > MAX_TRIAL_BYTES {
        return Err(Refused::invalid(format!("{bytes} bytes of a trial, over the limit of {MAX_TRIAL_BYTES}")));
    }
    // All clients are sent the same piece: one that does not read holds no memory.
    let whole = Bytes::from_static(&TRIAL_PIECE);
    let count = bytes.div_ceil(whole.len() as u64);
    let pieces = (0..count).map(move |i| {
        let len = (bytes - i * whole.len() as u64).min(whole.len() as u64);
        Ok::<_, Infallible>(whole.slice(..len as usize))
    });
    shared.metrics.sent.inc_by(bytes);
    let mut response = Response::new(Body::from_stream(futures::stream::iter(pieces)));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    Ok(response)
}

pub(super) async fn metrics(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
) -> Result<Response<Body>, Refused> {
    let now = Now {
        memory: shared.admission.used(),
        cache: shared.cache.bytes(),
        connections: shared.connections.load(Ordering::Relaxed),
    };
    let text = shared.metrics.text(&now, |project| caller.access(project).is_some());
    let text = text.map_err(|error| Refused::new(Fault::new(FaultCode::Unavailable, &error)))?;
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
