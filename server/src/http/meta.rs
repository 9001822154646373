//! Health for load balancers, readiness with a real write, metrics.
//!
//! Must never say ready where a record could not be created.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, header};
use gigastore_formats::wire::{Fault, FaultCode};

use super::error::Refused;
use super::router::Shared;

/// How long a probe of the store stays good: load balancers ask every few seconds, and each probe writes.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// Bytes of a probe.
const PROBE_BYTES: usize = 64;

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

pub(super) async fn metrics(State(shared): State<Shared>) -> Result<Response<Body>, Refused> {
    let connections = shared.connections.load(Ordering::Relaxed);
    let text = shared.metrics.text(shared.admission.used(), connections);
    let text = text.map_err(|error| Refused::new(Fault::new(FaultCode::Unavailable, &error)))?;
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
