//! A project as a whole: its list, its names and tags, its log as a feed, its verification and scrub.
//!
//! Must never list a project that its caller has no scope on.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, Response};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::record::TxnId;
use gigastore_formats::wire::{Fault, FaultCode, LogPage, ScrubRequest, VerifyRequest};
use serde::Deserialize;

use super::body::{document, json};
use super::checkpoints::target;
use super::error::{Refused, refused};
use super::router::Shared;
use super::{lines, objects};
use crate::auth::Caller;
use crate::scrubbing;

/// How long a question for new records is held open at most.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

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

/// Verifies, and answers with a line of JSON for each step.
pub(super) async fn verify(
    State(shared): State<Shared>,
    Path(in_path): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let project = objects::project(&in_path)?;
    let (request, _admitted): (VerifyRequest, _) = json(&shared, &headers, body).await?;
    same_project(&project, &request.project)?;
    let verifying = shared.admission.verification()?;
    let service = Arc::clone(&shared);
    Ok(lines::answer(&shared, verifying, |tell| async move {
        let report = service.engine.verify(&request, &*tell).await.map_err(|error| refused(error).fault)?;
        service.metrics.verification_failures.inc_by(report.findings.len() as u64);
        Ok(report)
    }))
}

/// Verifies every object, marks what is damaged and repairs what it can; answers as a verification does.
pub(super) async fn scrub(
    State(shared): State<Shared>,
    Path(in_path): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let project = objects::project(&in_path)?;
    let (request, _admitted): (ScrubRequest, _) = json(&shared, &headers, body).await?;
    same_project(&project, &request.project)?;
    let verifying = shared.admission.verification()?;
    let service = Arc::clone(&shared);
    Ok(lines::answer(&shared, verifying, |tell| async move {
        let scrubbed = service.engine.scrub(&request, service.replica.as_ref(), &*tell).await;
        let report = scrubbed.map_err(|error| refused(error).fault)?;
        scrubbing::tell(&service, &request.project, &report);
        Ok(report)
    }))
}

/// Lists the objects that are marked as damaged.
pub(super) async fn damaged(
    State(shared): State<Shared>,
    Path(in_path): Path<String>,
) -> Result<Response<Body>, Refused> {
    document(&shared.engine.damaged(&objects::project(&in_path)?).await.map_err(refused)?)
}

pub(super) fn same_project(in_path: &ProjectName, in_body: &ProjectName) -> Result<(), Refused> {
    if in_path == in_body {
        return Ok(());
    }
    Err(Refused::invalid(format!("the body is about project {in_body}, the path about {in_path}")))
}
