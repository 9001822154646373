//! Upkeep of a project: pins, drops, policies, retention, collection, and what is stored.
//!
//! Must never let two collections run at once in one service: the second would only look at what the first deletes.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Response};
use gigastore_formats::collect::{CollectRequest, UsageRequest};
use gigastore_formats::name::Name;
use gigastore_formats::record::TxnId;
use gigastore_formats::retention::{Policy, RetainRequest, Verb};
use gigastore_formats::wire::{Fault, FaultCode};
use serde::Deserialize;

use super::body::{document, json};
use super::error::{Refused, refused};
use super::lines::{self, Tell};
use super::objects;
use super::projects::same_project;
use super::router::Shared;

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
    same_project(&objects::project(&in_path)?, &request.project)?;
    let retaining = shared.admission.collection()?;
    let service = Shared::clone(&shared);
    Ok(lines::answer(&shared, retaining, |_: Tell<()>| async move {
        let report = service.engine.retain(&request).await.map_err(|error| refused(error).fault)?;
        if !request.dry_run {
            service.metrics.retention(&report);
        }
        Ok(report)
    }))
}

pub(super) async fn usage(
    State(shared): State<Shared>,
    Path(in_path): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let (request, _admitted): (UsageRequest, _) = json(&shared, &headers, body).await?;
    same_project(&objects::project(&in_path)?, &request.project)?;
    // As long, and as much to read, as a quick verification.
    let looking = shared.admission.verification()?;
    let engine = shared.engine.clone();
    Ok(lines::answer(&shared, looking, |_: Tell<()>| async move {
        engine.usage(&request).await.map_err(|error| refused(error).fault)
    }))
}

pub(super) async fn collect(
    State(shared): State<Shared>,
    Path(in_path): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let (request, _admitted): (CollectRequest, _) = json(&shared, &headers, body).await?;
    same_project(&objects::project(&in_path)?, &request.project)?;
    let collecting = shared.admission.collection()?;
    let service = Shared::clone(&shared);
    Ok(lines::answer(&shared, collecting, |_: Tell<()>| async move {
        let report = service.engine.collect(&request).await.map_err(|error| refused(error).fault)?;
        if !request.dry_run {
            service.metrics.collection(&request.project, &report, service.ambient.monotonic());
        }
        Ok(report)
    }))
}
