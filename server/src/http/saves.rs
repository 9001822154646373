//! Save sessions: begin, parts, commit, abort. Every step may be repeated.
//!
//! Must never wait longer than a client would: who waits for other ranks asks again.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode};
use gigastore_formats::limits::MAX_PART_BYTES;
use gigastore_formats::record::{SaveBegin, TxnId};
use gigastore_formats::wire::{Fault, FaultCode, FinishRequest, SaveRequest};

use super::body::{content_length, document, gathered, json};
use super::error::{Refused, refused};
use super::objects::project;
use super::router::Shared;

/// How long one request waits for other ranks: below the idle limits of common proxies.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

pub(super) async fn begin(
    State(shared): State<Shared>,
    Path(in_path): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let (request, _admitted): (SaveRequest, _) = json(&shared, &headers, body).await?;
    same_project(&in_path, &request)?;
    shared.admission.check_disk()?;
    let session = shared.engine.begin_save(&request).await.map_err(refused)?;
    if session.existing.is_none() {
        // What is committed already will not be finished once more.
        shared.metrics.save_begun(session.save);
    }
    document(&session)
}

pub(super) async fn part(
    State(shared): State<Shared>,
    Path((in_path, save, rank)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refused> {
    let (project, save) = (project(&in_path)?, txn(&save)?);
    let no_rank = |_| Refused::invalid(format!("{:?} is not a rank", rank.chars().take(40).collect::<String>()));
    let rank: u32 = rank.parse().map_err(no_rank)?;
    let _room = shared.admission.reserve(content_length(&headers)?)?;
    let (bytes, _admitted) = gathered(&shared, &headers, body, MAX_PART_BYTES).await?;
    shared.engine.put_part(&project, save, rank, bytes).await.map_err(refused)?;
    Ok(StatusCode::CREATED)
}

pub(super) async fn commit(
    State(shared): State<Shared>,
    Path((in_path, save)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refused> {
    let (mut request, _admitted): (FinishRequest, _) = json(&shared, &headers, body).await?;
    same_project(&in_path, &request.save)?;
    let SaveRequest { project, run, step, attempt, .. } = &request.save;
    let expected = SaveBegin::id(project, run, *step, attempt);
    if txn(&save)? != expected {
        return Err(Refused::invalid(format!("the body describes save {expected}, the path names {save}")));
    }
    let longest = LONGEST_WAIT.min(shared.commit / 2);
    request.deadline_ms = request.deadline_ms.min(longest.as_millis() as u64);
    let committed = within(&shared, shared.engine.finish_save(&request)).await?;
    shared.metrics.save_ended(expected);
    shared.metrics.log(&request.save.project, committed.info.seq);
    document(&committed)
}

/// Waits for a commit, which goes on where its request has waited long enough: the client asks again and joins it.
pub(super) async fn within<T, E>(shared: &Shared, commit: impl Future<Output = Result<T, Arc<E>>>) -> Result<T, Refused>
where
    for<'e> Fault: From<&'e E>,
{
    match tokio::time::timeout(shared.commit, commit).await {
        Ok(done) => done.map_err(|error| Refused::new(Fault::from(&*error))),
        Err(_) => Err(Refused::new(Fault {
            hint: Some("send the same request again: it waits for the same commit".to_owned()),
            ..Fault::of(FaultCode::InProgress, "the commit is under way")
        })),
    }
}

pub(super) async fn abort(
    State(shared): State<Shared>,
    Path((in_path, save)): Path<(String, String)>,
) -> Result<StatusCode, Refused> {
    let (project, save) = (project(&in_path)?, txn(&save)?);
    shared.engine.abort_save(&project, save).await.map_err(refused)?;
    shared.metrics.save_ended(save);
    Ok(StatusCode::NO_CONTENT)
}

fn same_project(in_path: &str, request: &SaveRequest) -> Result<(), Refused> {
    let project = project(in_path)?;
    if project == request.project {
        return Ok(());
    }
    Err(Refused::invalid(format!("the body is about project {}, the path about {project}", request.project)))
}

fn txn(text: &str) -> Result<TxnId, Refused> {
    text.parse().map(TxnId).map_err(|error| Refused::new(Fault::new(FaultCode::Invalid, &error)))
}
