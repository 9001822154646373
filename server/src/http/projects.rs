//! A project as a whole: its list, its names and tags, its log as a feed, its verification.
//!
//! Must never list a project that its caller has no scope on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Response, header};
use futures::channel::mpsc;
use futures::stream::{BoxStream, StreamExt};
use gigastore_formats::name::Name;
use gigastore_formats::record::TxnId;
use gigastore_formats::wire::{Fault, FaultCode, LogPage, VerifyLine, VerifyProgress, VerifyRequest};
use serde::Deserialize;

use super::body::{document, json};
use super::checkpoints::target;
use super::error::{Refused, refused};
use super::objects;
use super::router::Shared;
use crate::auth::Caller;

/// How long a question for new records is held open at most.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// Lines of a verification that wait for a slow reader.
const LINES_WAITING: usize = 16;

/// Pause between two lines where there is no progress: well below the time that a client waits.
const BEAT_EVERY: Duration = Duration::from_secs(5);

/// Pause between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn list(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
) -> Result<Response<Body>, Refused> {
    let mut projects = shared.engine.projects().await.map_err(refused)?;
    projects.retain(|project| caller.access(project).is_some());
    document(&projects)
}

pub(super) async fn project(
    State(shared): State<Shared>,
    Path(in_path): Path<String>,
) -> Result<Response<Body>, Refused> {
    let info = shared.engine.project(&objects::project(&in_path)?).await.map_err(refused)?;
    shared.metrics.log(&info.project, info.seq);
    document(&info)
}

pub(super) async fn resolve(
    State(shared): State<Shared>,
    Path((in_path, name, selector)): Path<(String, String, String)>,
) -> Result<Response<Body>, Refused> {
    let target = target(&objects::project(&in_path)?, &name, &selector)?;
    document(&shared.engine.resolve(&target).await.map_err(refused)?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Moved {
    number: u64,
    /// The operation, the same through every retry; without one each request is an operation of its own.
    #[serde(default)]
    txn: Option<TxnId>,
}

pub(super) async fn tag(
    State(shared): State<Shared>,
    Path((in_path, name, tag)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let project = objects::project(&in_path)?;
    let invalid = |error| Refused::new(Fault::new(FaultCode::Invalid, &error));
    let (name, tag) = (Name::new(&name).map_err(invalid)?, Name::new_tag(&tag).map_err(invalid)?);
    let (Moved { number, txn }, _admitted) = json(&shared, &headers, body).await?;
    let txn = txn.unwrap_or_else(|| TxnId::derive(&[b"tag", &shared.ambient.random_bytes()]));
    document(&shared.engine.set_tag(&project, txn, &name, &tag, number).await.map_err(refused)?)
}

#[derive(Deserialize)]
pub(super) struct After {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_ms: u64,
}

pub(super) async fn log(
    State(shared): State<Shared>,
    Path(in_path): Path<String>,
    query: Result<Query<After>, axum::extract::rejection::QueryRejection>,
) -> Result<Response<Body>, Refused> {
    let project = objects::project(&in_path)?;
    let Query(After { after, wait_ms }) = query.map_err(|error| Refused::invalid(error.body_text()))?;
    let wait = Duration::from_millis(wait_ms).min(LONGEST_WAIT);
    let records = shared.engine.records(&project, after, wait).await.map_err(refused)?;
    document(&LogPage { records })
}

/// Verifies, and answers with a line of JSON for each step: an answer that is under way for an hour is not cut off as
/// idle.
pub(super) async fn verify(
    State(shared): State<Shared>,
    Path(in_path): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let project = objects::project(&in_path)?;
    let (request, _admitted): (VerifyRequest, _) = json(&shared, &headers, body).await?;
    if request.project != project {
        return Err(Refused::invalid(format!(
            "the body is about project {}, the path about {project}",
            request.project
        )));
    }
    let verifying = shared.admission.verification()?;
    let (lines, given) = mpsc::channel::<VerifyLine>(LINES_WAITING);
    let told = Arc::new(Mutex::new((None, VerifyProgress::default())));
    let beats = beats(Arc::clone(&shared), Arc::clone(&told));
    let work = async move {
        let _verifying = verifying;
        let progress = lines.clone();
        let tell = |now| {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            let moment = shared.ambient.monotonic();
            told.1 = now;
            if told.0.is_none_or(|last| moment.saturating_sub(last) >= PROGRESS_EVERY) {
                told.0 = Some(moment);
                // A reader that is behind misses a line of progress, not the report.
                let _ = progress.clone().try_send(VerifyLine::Progress(now));
            }
        };
        let report = shared.engine.verify(&request, &tell).await;
        let done = told.lock().unwrap_or_else(PoisonError::into_inner).1;
        let line = match report {
            Ok(report) => {
                shared.metrics.verification_failures.inc_by(report.findings.len() as u64);
                VerifyLine::Report(report)
            }
            Err(error) => VerifyLine::Fault(refused(error).fault),
        };
        let mut lines = lines;
        for line in [VerifyLine::Progress(done), line] {
            // A reader that is gone needs no report.
            let _ = futures::SinkExt::send(&mut lines, line).await;
        }
    };
    // The verification is polled with the answer, and ends with it when the client goes away.
    let done = futures::stream::once(work).filter_map(|()| std::future::ready(None::<VerifyLine>));
    let lines = futures::stream::select(futures::stream::select(given, done).boxed(), beats);
    let lines = futures::stream::unfold((lines, false), |(mut lines, ended)| async move {
        let line = if ended { None } else { lines.next().await }?;
        let last = !matches!(line, VerifyLine::Progress(_));
        Some((line, (lines, last)))
    });
    let lines = lines.map(|line| {
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        Ok::<_, serde_json::Error>(bytes)
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

/// When a verification last said how far it was, and how far.
type Told = Arc<Mutex<(Option<Duration>, VerifyProgress)>>;

/// Says again and again how far a verification is, so that a client knows that it goes on where nothing changes: the
/// log and the manifests are read before the first object is.
fn beats(shared: Shared, told: Told) -> BoxStream<'static, VerifyLine> {
    let beats = futures::stream::unfold((shared, told), |(shared, told)| async move {
        shared.ambient.sleep(BEAT_EVERY).await;
        let now = told.lock().unwrap_or_else(PoisonError::into_inner).1;
        Some((VerifyLine::Progress(now), (shared, told)))
    });
    beats.boxed()
}
