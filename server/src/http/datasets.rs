//! Datasets: which versions there are, committing one, and its files as they were pushed.
//!
//! Must never send a byte of a file that was not verified: its reader has no hashes.

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, Response};
use gigastore_formats::name::Name;
use gigastore_formats::record::{Sort, TxnId};
use gigastore_formats::wire::DatasetRequest;
use serde::Deserialize;

use super::body::{content_length, document, gathered};
use super::checkpoints::{found, list_files, listed, no_file, send};
use super::error::Refused;
use super::objects::project;
use super::router::Shared;
use super::saves::within;
use crate::files::Opened;

/// What is said of a version beside its manifest, which is the body.
#[derive(Deserialize)]
pub(super) struct Commit {
    txn: TxnId,
    epoch: u64,
    tag: Option<Name>,
}

pub(super) async fn list(State(shared): State<Shared>, Path(in_path): Path<String>) -> Result<Response<Body>, Refused> {
    document(&listed(&shared, &in_path, Sort::Dataset).await?)
}

pub(super) async fn commit(
    State(shared): State<Shared>,
    Path(in_path): Path<String>,
    query: Result<Query<Commit>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let project = project(&in_path)?;
    let Query(Commit { txn, epoch, tag }) = query.map_err(|error| Refused::invalid(error.body_text()))?;
    let _room = shared.admission.reserve(content_length(&headers)?)?;
    let (manifest, _admitted) = gathered(&shared, &headers, body, u64::MAX).await?;
    let request = DatasetRequest { project, txn, epoch, tag };
    let committed = within(&shared, shared.engine.commit_dataset(&request, manifest)).await?;
    shared.metrics.log(&request.project, committed.info.seq);
    document(&committed)
}

pub(super) async fn resolve(
    State(shared): State<Shared>,
    Path((in_path, name, selector)): Path<(String, String, String)>,
) -> Result<Response<Body>, Refused> {
    document(&found(&shared, &in_path, &name, &selector, Sort::Dataset).await?.1)
}

pub(super) async fn files(
    State(shared): State<Shared>,
    Path((in_path, name, selector)): Path<(String, String, String)>,
) -> Result<Response<Body>, Refused> {
    let (project, info) = found(&shared, &in_path, &name, &selector, Sort::Dataset).await?;
    list_files(&shared, &project, &info.commit).await
}

pub(super) async fn file(
    State(shared): State<Shared>,
    method: Method,
    Path((in_path, name, selector, path)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, Refused> {
    let (project, info) = found(&shared, &in_path, &name, &selector, Sort::Dataset).await?;
    let opened = Opened::find(&shared, &project, &info.commit, &path).await?;
    send(&shared, opened.ok_or_else(|| no_file(&name, info.commit.number, &path))?, method, headers).await
}
