//! Checkpoints: which there are, where their boxes lie, and their files.
//!
//! Must never send a byte of a file that was not verified: its reader has no hashes.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, Response};
use gigastore_formats::limits::MAX_PATH_BYTES;
use gigastore_formats::name::{ProjectName, Target};
use gigastore_formats::plan::{PlanAnswer, PlanRequest, Planner};
use gigastore_formats::record::{Commit, Sort};
use gigastore_formats::wire::{CommitInfo, Fault, FaultCode};

use super::body::{ANSWER_BYTES, Head, document, json, ranged};
use super::error::{Refused, refused};
use super::objects::project;
use super::range::wanted;
use super::router::{Service, Shared};
use crate::files::Opened;

pub(super) async fn list(State(shared): State<Shared>, Path(in_path): Path<String>) -> Result<Response<Body>, Refused> {
    document(&listed(&shared, &in_path, Sort::Checkpoint).await?)
}

pub(super) async fn resolve(
    State(shared): State<Shared>,
    Path((in_path, run, selector)): Path<(String, String, String)>,
) -> Result<Response<Body>, Refused> {
    document(&found(&shared, &in_path, &run, &selector, Sort::Checkpoint).await?.1)
}

pub(super) async fn plan(
    State(shared): State<Shared>,
    Path((in_path, run, selector)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let (request, _admitted): (PlanRequest, _) = json(&shared, &headers, body).await?;
    let (project, info) = found(&shared, &in_path, &run, &selector, Sort::Checkpoint).await?;
    let planner = decoded(&shared, &project, &info.commit).await?;
    // Answers to 100,000 boxes are tens of MiB of JSON: not on a thread that others wait for.
    let answered = shared.ambient.computed(move || {
        let slices = planner.plan(&request).map_err(refused)?;
        document(&PlanAnswer { info, meta: planner.checkpoint().meta.clone(), slices })
    });
    answered.await
}

pub(super) async fn files(
    State(shared): State<Shared>,
    Path((in_path, run, selector)): Path<(String, String, String)>,
) -> Result<Response<Body>, Refused> {
    let (project, info) = found(&shared, &in_path, &run, &selector, Sort::Checkpoint).await?;
    list_files(&shared, &project, &info.commit).await
}

pub(super) async fn file(
    State(shared): State<Shared>,
    method: Method,
    Path((in_path, run, selector, path)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, Refused> {
    let (project, info) = found(&shared, &in_path, &run, &selector, Sort::Checkpoint).await?;
    let opened = Opened::find(&shared, &project, &info.commit, &path).await?;
    send(&shared, opened.ok_or_else(|| no_file(&run, info.commit.number, &path))?, method, headers).await
}

async fn decoded(shared: &Shared, project: &ProjectName, commit: &Commit) -> Result<Arc<Planner>, Refused> {
    Ok(shared.manifests.checkpoint(shared, project, commit).await?)
}

/// Memory of a file that is listed, beside its path: two digests in hex, and the words around them.
const LISTED_BYTES: u64 = 256;

/// Lists the files of a commit.
pub(super) async fn list_files(
    shared: &Shared,
    project: &ProjectName,
    commit: &Commit,
) -> Result<Response<Body>, Refused> {
    let files = shared.manifests.files(shared, project, commit).await?;
    let bytes = files.iter().map(|file| file.path.len() as u64 + LISTED_BYTES).sum();
    let _admitted = shared.admission.answer(bytes).await?;
    shared.ambient.computed(move || document(&*files)).await
}

/// Sends a file, or the range of it that the headers ask for.
pub(super) async fn send(
    shared: &Shared,
    opened: Opened,
    method: Method,
    headers: HeaderMap,
) -> Result<Response<Body>, Refused> {
    let (etag, len) = (opened.tag().to_string(), opened.len());
    let wanted = wanted(&method, &headers, &etag, len)?;
    let memory = (ANSWER_BYTES, opened.memory(wanted.range(len)));
    let head = Head { etag, len, kind: "application/octet-stream", memory };
    let read = move |range| {
        let opened = opened.clone();
        async move { opened.read(range).await }
    };
    ranged(shared, head, wanted, method == Method::GET, read).await
}

pub(super) fn no_file(name: &str, number: u64, path: &str) -> Refused {
    let path: String = path.chars().take(MAX_PATH_BYTES).collect();
    Refused::new(Fault::of(FaultCode::NotFound, format!("{name}@{number} has no file {path:?}")))
}

/// Lists the live commits of one sort.
pub(super) async fn listed(service: &Service, in_path: &str, sort: Sort) -> Result<Vec<CommitInfo>, Refused> {
    let info = service.engine.project(&project(in_path)?).await.map_err(refused)?;
    Ok(info.names.into_iter().filter(|name| name.sort == sort).flat_map(|name| name.live).collect())
}

/// Finds a live commit, which must be of this sort.
pub(super) async fn found(
    service: &Service,
    in_path: &str,
    name: &str,
    selector: &str,
    sort: Sort,
) -> Result<(ProjectName, CommitInfo), Refused> {
    let project = project(in_path)?;
    let target = target(&project, name, selector)?;
    let info = service.engine.resolve(&target).await.map_err(refused)?;
    if info.commit.sort != sort {
        return Err(Refused::invalid(format!("{target} is a {:?}, not a {sort:?}", info.commit.sort)));
    }
    Ok((project, info))
}

pub(super) fn target(project: &ProjectName, name: &str, selector: &str) -> Result<Target, Refused> {
    let invalid = |error| Refused::new(Fault::new(FaultCode::Invalid, &error));
    let name = name.parse().map_err(invalid)?;
    Ok(Target { project: project.clone(), name, selector: Some(selector.parse().map_err(invalid)?) })
}
