//! A read-only Hugging Face Hub: checkpoints as models, dataset versions as datasets, under the names `project/name`.
//!
//! A revision is `main`, the latest; a step or version; a tag; or the 40 hex digits that are told of each commit. What
//! is answered is what `huggingface_hub` reads. Must never answer by the digits of one commit with the bytes of
//! another.

mod listing;
mod question;
mod tree;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use gigastore_engine::ReadError;
use gigastore_formats::digest::{Digest, hex};
use gigastore_formats::moment::Moment;
use gigastore_formats::name::{LATEST, Name, ProjectName, Selector, Target};
use gigastore_formats::record::{Commit, Sort};
use gigastore_formats::wire::{CommitInfo, Fault, FaultCode, FileInfo};
use serde::Serialize;
use serde_json::{Value, json};

use self::listing::Siblings;
use self::tree::{paths, root, tree};
use super::body::document;
use super::checkpoints::{no_file, send};
use super::error::{Refused, refused};
use super::router::Shared;
use crate::auth::Caller;
use crate::files::Opened;

/// The revision that clients ask for where nobody says which.
const MAIN: &str = "main";

/// The header that says which commit was answered from.
const COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");

/// The header that says which of its exceptions a client raises.
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");

/// The header with the text that it shows then.
const ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");

/// Digits of what names a commit.
const SHA_CHARS: usize = 40;

/// Characters of that text.
const MESSAGE_CHARS: usize = 500;

/// Characters of a name that a refusal repeats: names have at most as many.
const NAME_CHARS: usize = 128;

/// A repository and a revision of it, as they stand in the path of a request.
type Asked = Path<(String, String, String)>;

/// The same with a path in the repository.
type AskedPath = Path<(String, String, String, String)>;

type Parameters = Query<HashMap<String, String>>;

/// A commit of a repository.
struct Revision {
    project: ProjectName,
    info: CommitInfo,
    sha: String,
}

/// A refusal, and the word that clients of a hub tell it by.
pub(super) struct Unfound {
    refused: Refused,
    code: Option<&'static str>,
    /// The commit that has no such file.
    sha: Option<String>,
}

impl<R: Into<Refused>> From<R> for Unfound {
    fn from(refused: R) -> Self {
        Self { refused: refused.into(), code: None, sha: None }
    }
}

impl IntoResponse for Unfound {
    fn into_response(self) -> Response<Body> {
        let mut response = self.refused.into_response();
        let values = self.code.map(HeaderValue::from_static).map(|code| (ERROR_CODE, code));
        let sha = self.sha.and_then(|sha| Some((COMMIT, HeaderValue::try_from(sha).ok()?)));
        response.headers_mut().extend(values.into_iter().chain(sha));
        response
    }
}

/// Returns the routes.
pub(super) fn routes() -> Router<Shared> {
    let of = |sort: Sort, api: &str, files: &str| {
        let api = |rest: &str| format!("/api/{api}/{{project}}/{{name}}{rest}");
        let file = move |state, method, uri, path, headers| resolve(sort, state, method, uri, path, headers);
        Router::new()
            .route(&api(""), get(move |state, caller, path, query| latest(sort, state, caller, path, query)))
            .route(
                &api("/revision/{selector}"),
                get(move |state, caller, path, query| info(sort, state, caller, path, query)),
            )
            .route(
                &api("/tree/{selector}"),
                get(move |state, uri, headers, path, query| root(sort, state, uri, headers, path, query)),
            )
            .route(
                &api("/tree/{selector}/{*path}"),
                get(move |state, uri, headers, path, query| tree(sort, state, uri, headers, path, query)),
            )
            .route(
                &api("/paths-info/{selector}"),
                post(move |state, path, headers, body| paths(sort, state, path, headers, body)),
            )
            .route(&format!("{files}/{{project}}/{{name}}/resolve/{{selector}}/{{*path}}"), get(file))
    };
    of(Sort::Checkpoint, "models", "").merge(of(Sort::Dataset, "datasets", "/datasets"))
}

/// Says a refusal of a route of the hub in the way that its clients read.
pub(super) fn translate(response: &mut Response<Body>, fault: &Fault) {
    let text: String = fault.message.chars().filter(|c| matches!(c, ' '..='~')).take(MESSAGE_CHARS).collect();
    if let Ok(text) = HeaderValue::try_from(text) {
        response.headers_mut().insert(ERROR_MESSAGE, text);
    }
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        // Downloads are tried again after this one alone, and wait as long as the answer says.
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    }
}

/// Tells whether a route is one of the hub's.
pub(super) fn is_route(route: &str) -> bool {
    route.starts_with("/api/") || route.contains("/resolve/")
}

/// Refuses what no route leads to: of paths of a hub, as a repository that is not there, such as one whose name is in
/// one part.
pub(super) fn nowhere(path: &str, refused: Refused) -> Unfound {
    let code = is_route(path).then_some("RepoNotFound");
    Unfound { code, ..refused.into() }
}

/// Returns what names a commit: 40 hex digits, as of a commit of git. Two commits of one content have two of them.
fn sha(project: &ProjectName, commit: &Commit, seq: u64) -> String {
    let Commit { name, number, content, .. } = commit;
    short(format!("gigastore commit 1\n{project}\t{name}\t{number}\t{seq}\t{content}\n").as_bytes())
}

fn short(bytes: &[u8]) -> String {
    oid(&Digest::of(bytes))
}

/// Returns what names a file, as long as an object id of git.
fn oid(tag: &Digest) -> String {
    hex(&tag.as_bytes()[..20])
}

/// Refuses a repository that is not there, or can't be.
pub(super) fn no_repo(project: &str, name: &str) -> Unfound {
    let [project, name] = [project, name].map(|text| text.chars().take(NAME_CHARS).collect::<String>());
    let fault = Fault::of(FaultCode::NotFound, format!("there is no repository {project}/{name} of this sort"));
    Unfound { code: Some("RepoNotFound"), ..Refused::new(fault).into() }
}

/// Finds the commit that a revision means.
async fn revision(shared: &Shared, sort: Sort, in_path: &str, name: &str, revision: &str) -> Result<Revision, Unfound> {
    let no_repo = || no_repo(in_path, name);
    let project: ProjectName = in_path.parse().map_err(|_| no_repo())?;
    let named: Name = name.parse().map_err(|_| no_repo())?;
    let found = found(shared, &project, &named, revision).await;
    match found.map_err(refused) {
        Ok(Some(info)) if info.commit.sort == sort => {
            Ok(Revision { sha: sha(&project, &info.commit, info.seq), project, info })
        }
        Ok(Some(_)) => Err(no_repo()),
        Ok(None) => {
            let revision: String = revision.chars().take(NAME_CHARS).collect();
            let text = format!("{project}/{name} has no live revision {revision:?}");
            let refused = Refused::new(Fault::of(FaultCode::NotFound, text));
            Err(Unfound { code: Some("RevisionNotFound"), ..refused.into() })
        }
        Err(refused) if refused.fault.code == FaultCode::NotFound => Err(no_repo()),
        Err(refused) => Err(refused.into()),
    }
}

/// Finds what a revision means: the digits of a commit, or else a step, version or tag, which may look like them.
async fn found(
    shared: &Shared,
    project: &ProjectName,
    name: &Name,
    revision: &str,
) -> Result<Option<CommitInfo>, ReadError> {
    if revision.len() == SHA_CHARS && revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        let (of, wanted) = (project.clone(), revision.to_owned());
        let found = shared.engine.find(project, name, move |commit, seq| sha(&of, commit, seq) == wanted).await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    let Ok(selector) = (if revision == MAIN { LATEST } else { revision }).parse::<Selector>() else {
        return shared.engine.find(project, name, |_, _| false).await;
    };
    let target = Target { project: project.clone(), name: name.clone(), selector: Some(selector) };
    match shared.engine.resolve(&target).await {
        Ok(info) => Ok(Some(info)),
        // Not found: the revision, or all of it.
        Err(error) if Fault::from(&error).code == FaultCode::NotFound => {
            shared.engine.find(project, name, |_, _| false).await
        }
        Err(error) => Err(error),
    }
}

impl Revision {
    /// Finds a commit and its files.
    async fn with_files(
        shared: &Shared,
        sort: Sort,
        (project, name, selector): (&str, &str, &str),
    ) -> Result<(Self, Arc<[FileInfo]>), Unfound> {
        let revision = revision(shared, sort, project, name, selector).await?;
        let files = shared.manifests.files(shared, &revision.project, &revision.info.commit).await?;
        Ok((revision, files))
    }

    fn no_entry(self, path: &str) -> Unfound {
        let Commit { name, number, .. } = &self.info.commit;
        let refused = no_file(name.as_str(), *number, path);
        Unfound { refused, code: Some("EntryNotFound"), sha: Some(self.sha) }
    }

    fn document<T: Serialize>(&self, value: &T) -> Result<Response<Body>, Unfound> {
        let mut response = document(value)?;
        response.headers_mut().extend(HeaderValue::from_str(&self.sha).map(|sha| (COMMIT, sha)));
        Ok(response)
    }

    fn title(&self) -> String {
        format!("{}@{}", self.info.commit.name, self.info.commit.number)
    }

    fn date(&self) -> String {
        Moment::of_ms(self.info.time).rfc3339()
    }

    fn oid_of_folder(&self, path: &str) -> String {
        short(format!("gigastore folder 1\n{}\t{path}\n", self.sha).as_bytes())
    }
}

/// Tells whether a switch of the query is on.
fn is_on(parameters: &HashMap<String, String>, name: &str) -> bool {
    parameters.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
}

/// What is said of a model or dataset as a whole.
async fn latest(
    sort: Sort,
    state: State<Shared>,
    caller: Extension<Caller>,
    Path((project, name)): Path<(String, String)>,
    parameters: Parameters,
) -> Result<Response<Body>, Unfound> {
    info(sort, state, caller, Path((project, name, MAIN.to_owned())), parameters).await
}

/// What is said of one revision.
async fn info(
    sort: Sort,
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path((project, name, selector)): Asked,
    Query(parameters): Parameters,
) -> Result<Response<Body>, Unfound> {
    let (revision, files) = Revision::with_files(&shared, sort, (&project, &name, &selector)).await?;
    let blobs = is_on(&parameters, "blobs");
    let is_private = !matches!(caller, Caller::Anyone);
    let _admitted = shared.admission.answer(Siblings { files: &files, blobs }.memory()).await?;
    let said = shared.ambient.computed(move || {
        let id = format!("{project}/{name}");
        let mut about = json!({
            "id": id,
            "author": project,
            "sha": revision.sha,
            "lastModified": revision.date(),
            "createdAt": revision.date(),
            "private": is_private,
            "gated": false,
            "disabled": false,
            "downloads": 0,
            "likes": 0,
            "tags": revision.info.tags,
            "usedStorage": revision.info.commit.bytes,
        });
        if sort == Sort::Checkpoint {
            about["modelId"] = json!(id);
        }
        revision.document(&About { about, siblings: Siblings { files: &files, blobs } })
    });
    said.await
}

/// What is said of a repository: much of a few words, and a little of each file.
#[derive(Serialize)]
struct About<'f> {
    #[serde(flatten)]
    about: Value,
    siblings: Siblings<'f>,
}

/// A file, or a range of it. `HEAD` of a revision that may come to mean another commit is sent on to the commit that it
/// means now: a client downloads from where that leads, and gets no bytes of a step that was committed meanwhile.
async fn resolve(
    sort: Sort,
    State(shared): State<Shared>,
    method: Method,
    uri: Uri,
    Path((project, name, selector, path)): AskedPath,
    headers: HeaderMap,
) -> Result<Response<Body>, Unfound> {
    let revision = revision(&shared, sort, &project, &name, &selector).await?;
    let opened = Opened::find(&shared, &revision.project, &revision.info.commit, &path).await?;
    let Some(opened) = opened else { return Err(revision.no_entry(&path)) };
    let pinned = Some(pinned(&uri, sort, &revision.sha)).filter(|_| method == Method::HEAD && selector != revision.sha);
    let mut response = send(&shared, opened, method, headers).await?;
    if let Some(location) = pinned.and_then(|path| HeaderValue::try_from(path).ok()) {
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        response.headers_mut().insert(header::LOCATION, location);
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    }
    response.headers_mut().extend(HeaderValue::from_str(&revision.sha).map(|sha| (COMMIT, sha)));
    Ok(response)
}

/// Returns the path of a file with the commit in place of its revision: `/project/name/resolve/revision/…`, and the
/// word `datasets` before that.
fn pinned(uri: &Uri, sort: Sort, sha: &str) -> String {
    let mut parts: Vec<&str> = uri.path().split('/').collect();
    let at = if sort == Sort::Dataset { 5 } else { 4 };
    if let Some(revision) = parts.get_mut(at) {
        *revision = sha;
    }
    parts.join("/")
}
