//! Health for load balancers, readiness with a real write, metrics, trials of the network.
//!
//! Must never say ready where a record could not be created, nor name a project to a caller without a scope on it.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, HeaderValue, Response, header};
use bytes::Bytes;
use gigastore_formats::wire::{Fault, FaultCode, ProbeReceipt};
use serde::Deserialize;
use tokio::sync::watch;

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

/// What is known of the store.
#[derive(Debug, Default)]
pub(crate) struct Ready(Mutex<Probed>);

/// When the store was probed and whether it could be used, and the probe that is under way.
#[derive(Debug, Default)]
struct Probed {
    last: Option<(Duration, bool)>,
    probing: Option<watch::Receiver<Option<bool>>>,
}

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Says no more than that the store can't be used: whoever asks may be anyone. Why stands in the log.
pub(super) async fn readyz(State(shared): State<Shared>) -> Result<&'static str, Refused> {
    if probed(&shared).await {
        return Ok("ready\n");
    }
    Err(Refused::new(Fault::of(FaultCode::Unavailable, "the store can't be used; the log of this service says why")))
}

/// Returns the outcome of the last probe, of the one under way, or of a new one. Of all who ask, one begins a probe,
/// and it goes on when they are gone: it deletes what it has created.
async fn probed(shared: &Shared) -> bool {
    let mut waiting = {
        let mut state = shared.ready.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (&state.last, &state.probing) {
            (Some((at, outcome)), _) if shared.ambient.monotonic().saturating_sub(*at) < GOOD_FOR => return *outcome,
            // One whose sender is gone has panicked.
            (_, Some(probing)) if probing.has_changed().is_ok() => probing.clone(),
            _ => {
                let (tell, probing) = watch::channel(None);
                state.probing = Some(probing.clone());
                shared.ambient.spawn(Box::pin(probe(Arc::clone(shared), tell)));
                probing
            }
        }
    };
    waiting.wait_for(Option::is_some).await.is_ok_and(|outcome| *outcome == Some(true))
}

async fn probe(shared: Shared, tell: watch::Sender<Option<bool>>) {
    let outcome = shared.engine.probe(PROBE_BYTES).await;
    if let Err(error) = &outcome {
        tracing::error!(error = Fault::from(error).message, "the store can't be used");
    }
    let good = outcome.is_ok();
    let state = Probed { last: Some((shared.ambient.monotonic(), good)), probing: None };
    *shared.ready.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    // Who asked may be gone.
    let _ = tell.send(Some(good));
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
        connections: shared.connections.load(Ordering::Relaxed),
        monotonic: shared.ambient.monotonic(),
    };
    let text = shared.metrics.text(&now, |project| caller.access(project).is_some());
    let text = text.map_err(|error| Refused::new(Fault::new(FaultCode::Unavailable, &error)))?;
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
