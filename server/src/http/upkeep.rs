//! Upkeep of a project: pins, drops, policies, retention, collection, and what is stored.
//!
//! Must never let two collections run at once in one service: the second would only look at what the first deletes.

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Response, header};
use futures::stream::StreamExt;
use gigastore_formats::collect::{CollectRequest, Line, UsageRequest};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::record::TxnId;
use gigastore_formats::retention::{Policy, RetainRequest, Verb};
use gigastore_formats::wire::{Fault, FaultCode};
use serde::{Deserialize, Serialize};

use super::body::{document, json};
use super::error::{Refused, refused};
use super::objects;
use super::router::Shared;

/// Pause between two lines while an operation goes on: well below the time that a client waits.
const BEAT_EVERY: Duration = Duration::from_secs(5);

/// The operation, the same through every retry; without one each request is an operation of its own.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Operation {
    #[serde(default)]
    txn: Option<TxnId>,
}

impl Operation {
    fn id(self, shared: &Shared) -> TxnId {
        self.txn.unwrap_or_else(|| TxnId::derive(&[b"keep", &shared.ambient.random_bytes()]))
    }
}

type InPath = Path<(String, String, String)>;

pub(super) async fn pin(
    State(shared): State<Shared>,
    path: InPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let (operation, _admitted): (Operation, _) = json(&shared, &headers, body).await?;
    keep(&shared, path, Verb::Pin, operation).await
}

pub(super) async fn unpin(
    State(shared): State<Shared>,
    path: InPath,
    query: Result<Query<Operation>, QueryRejection>,
) -> Result<Response<Body>, Refused> {
    let Query(operation) = query.map_err(|error| Refused::invalid(error.body_text()))?;
    keep(&shared, path, Verb::Unpin, operation).await
}

pub(super) async fn drop_number(
    State(shared): State<Shared>,
    path: InPath,
    query: Result<Query<Operation>, QueryRejection>,
) -> Result<Response<Body>, Refused> {
    let Query(operation) = query.map_err(|error| Refused::invalid(error.body_text()))?;
    keep(&shared, path, Verb::Drop, operation).await
}

async fn keep(
    shared: &Shared,
    Path((in_path, name, number)): InPath,
    verb: Verb,
    operation: Operation,
) -> Result<Response<Body>, Refused> {
    let (project, name) = (objects::project(&in_path)?, named(&name)?);
    let number: u64 = number.parse().map_err(|_| {
        let shown: String = number.chars().take(40).collect();
        Refused::invalid(format!("{shown:?} is no step or version: a tag may move before it is looked at"))
    })?;
    document(&shared.engine.keep(&project, operation.id(shared), verb, &name, number).await.map_err(refused)?)
}

fn named(name: &str) -> Result<Name, Refused> {
    Name::new(name).map_err(|error| Refused::new(Fault::new(FaultCode::Invalid, &error)))
}

pub(super) async fn policies(
    State(shared): State<Shared>,
    Path(in_path): Path<String>,
) -> Result<Response<Body>, Refused> {
    document(&shared.engine.policies(&objects::project(&in_path)?).await.map_err(refused)?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    #[serde(default)]
    txn: Option<TxnId>,
    policy: Option<Policy>,
}

pub(super) async fn set_policy(
    State(shared): State<Shared>,
    Path((in_path, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let (project, name) = (objects::project(&in_path)?, named(&name)?);
    let (Set { txn, policy }, _admitted) = json(&shared, &headers, body).await?;
    let txn = Operation { txn }.id(&shared);
    shared.engine.set_policy(&project, txn, &name, policy.as_ref()).await.map_err(refused)?;
    document(&())
}

pub(super) async fn retain(
    State(shared): State<Shared>,
    Path(in_path): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let (request, _admitted): (RetainRequest, _) = json(&shared, &headers, body).await?;
    same_project(&in_path, &request.project)?;
    let retaining = shared.admission.collection()?;
    let service = Shared::clone(&shared);
    let work = async move {
        let _retaining = retaining;
        let report = service.engine.retain(&request).await.map_err(|error| refused(error).fault)?;
        if !request.dry_run {
            service.metrics.retention(&report);
        }
        Ok(report)
    };
    Ok(lines(shared, work))
}

pub(super) async fn usage(
    State(shared): State<Shared>,
    Path(in_path): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let (request, _admitted): (UsageRequest, _) = json(&shared, &headers, body).await?;
    same_project(&in_path, &request.project)?;
    // As long, and as much to read, as a quick verification.
    let looking = shared.admission.verification()?;
    let engine = shared.engine.clone();
    let work = async move {
        let _looking = looking;
        engine.usage(&request).await.map_err(|error| refused(error).fault)
    };
    Ok(lines(shared, work))
}

fn same_project(in_path: &str, in_body: &ProjectName) -> Result<(), Refused> {
    let project = objects::project(in_path)?;
    if *in_body == project {
        return Ok(());
    }
    Err(Refused::invalid(format!("the body is about project {in_body}, the path about {project}")))
}

pub(super) async fn collect(
    State(shared): State<Shared>,
    Path(in_path): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let (request, _admitted): (CollectRequest, _) = json(&shared, &headers, body).await?;
    same_project(&in_path, &request.project)?;
    let collecting = shared.admission.collection()?;
    let service = Shared::clone(&shared);
    let work = async move {
        let _collecting = collecting;
        let report = service.engine.collect(&request).await.map_err(|error| refused(error).fault)?;
        if !request.dry_run {
            service.metrics.collection(&request.project, &report, service.ambient.monotonic());
        }
        Ok(report)
    };
    Ok(lines(shared, work))
}

/// Answers with a line now and again while `work` goes on, and with what came of it in the last one. It ends where its
/// client goes away.
fn lines<T: Serialize + Send + 'static>(
    shared: Shared,
    work: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> Response<Body> {
    let done = futures::stream::once(work).map(|done| done.map_or_else(Line::Fault, Line::Done));
    let beats = futures::stream::unfold(shared, |shared| async move {
        shared.ambient.sleep(BEAT_EVERY).await;
        Some((Line::Beat, shared))
    });
    let lines = futures::stream::select(done.boxed(), beats.boxed());
    let lines = futures::stream::unfold((lines, false), |(mut lines, ended)| async move {
        let line = if ended { None } else { lines.next().await }?;
        let last = !matches!(line, Line::Beat);
        Some((line, (lines, last)))
    });
    let lines = lines.map(|line| {
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        Ok::<_, serde_json::Error>(bytes)
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}
