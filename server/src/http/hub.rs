//! A read-only Hugging Face Hub: checkpoints as models, dataset versions as datasets, under the names `project/name`.
//!
//! A revision is `main`, the latest; a step or version; a tag; or the 40 hex digits that are told of each commit. What
//! is answered is what `huggingface_hub` reads. Must never answer by the digits of one commit with the bytes of
//! another.

mod question;

use std::collections::{BTreeSet, HashMap};

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use gigastore_formats::digest::{Digest, hex};
use gigastore_formats::moment::Moment;
use gigastore_formats::name::{LATEST, Name, ProjectName, Selector, Target};
use gigastore_formats::record::{Commit, Sort};
use gigastore_formats::wire::{CommitInfo, Fault, FaultCode, FileInfo};
use serde_json::{Value, json};

use self::question::Question;
use super::body::{document, gathered};
use super::checkpoints::{no_file, send};
use super::error::{Refused, refused};
use super::objects;
use super::router::Shared;
use crate::auth::Caller;
use crate::files::{self, Opened};

/// The revision that clients ask for where nobody says which.
const MAIN: &str = "main";

/// The header that says which commit was answered from.
const COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");

/// The header that says which of its exceptions a client raises.
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");

/// The header with the text that it shows then.
const ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");

/// Characters of that text.
const MESSAGE_CHARS: usize = 500;

/// Bytes of a question about paths: a thousand long ones.
const MAX_PATHS_BYTES: u64 = 1 << 20;

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
            .route(&api("/tree/{selector}"), get(move |state, path, query| root(sort, state, path, query)))
            .route(&api("/tree/{selector}/{*path}"), get(move |state, path, query| tree(sort, state, path, query)))
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

fn no_repo(project: &ProjectName, name: &str, sort: Sort) -> Unfound {
    let what = if sort == Sort::Checkpoint { "model" } else { "dataset" };
    let name: String = name.chars().take(128).collect();
    let fault = Fault::of(FaultCode::NotFound, format!("there is no {what} {project}/{name}"));
    Unfound { code: Some("RepoNotFound"), ..Refused::new(fault).into() }
}

/// Finds the commit that a revision means.
async fn revision(shared: &Shared, sort: Sort, in_path: &str, name: &str, revision: &str) -> Result<Revision, Unfound> {
    let project = objects::project(in_path)?;
    let no_repo = || no_repo(&project, name, sort);
    let named: Name = name.parse().map_err(|_| no_repo())?;
    let is_sha = revision.len() == 40 && revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let found = match revision {
        _ if is_sha => shared.engine.find(&project, &named, |commit, seq| sha(&project, commit, seq) == revision).await,
        _ => match if revision == MAIN { LATEST } else { revision }.parse::<Selector>() {
            Ok(selector) => {
                let target = Target { project: project.clone(), name: named.clone(), selector: Some(selector) };
                match shared.engine.resolve(&target).await {
                    Ok(info) => Ok(Some(info)),
                    // Not found: the revision, or all of it.
                    Err(error) if Fault::from(&error).code == FaultCode::NotFound => {
                        shared.engine.find(&project, &named, |_, _| false).await
                    }
                    Err(error) => Err(error),
                }
            }
            Err(_) => shared.engine.find(&project, &named, |_, _| false).await,
        },
    };
    match found.map_err(refused) {
        Ok(Some(info)) if info.commit.sort == sort => {
            Ok(Revision { sha: sha(&project, &info.commit, info.seq), project, info })
        }
        Ok(Some(_)) => Err(no_repo()),
        Ok(None) => {
            let revision: String = revision.chars().take(128).collect();
            let text = format!("{project}/{name} has no live revision {revision:?}");
            let refused = Refused::new(Fault::of(FaultCode::NotFound, text));
            Err(Unfound { code: Some("RevisionNotFound"), ..refused.into() })
        }
        Err(refused) if refused.fault.code == FaultCode::NotFound => Err(no_repo()),
        Err(refused) => Err(refused.into()),
    }
}

impl Revision {
    /// Finds a commit and its files.
    async fn with_files(
        shared: &Shared,
        sort: Sort,
        (project, name, selector): (&str, &str, &str),
    ) -> Result<(Self, Vec<FileInfo>), Unfound> {
        let revision = revision(shared, sort, project, name, selector).await?;
        let files = files::list(shared, &revision.project, &revision.info.commit).await?;
        Ok((revision, files))
    }

    fn no_entry(self, path: &str) -> Unfound {
        let Commit { name, number, .. } = &self.info.commit;
        let refused = no_file(name.as_str(), *number, path);
        Unfound { refused, code: Some("EntryNotFound"), sha: Some(self.sha) }
    }

    fn document(&self, value: &Value) -> Result<Response<Body>, Unfound> {
        let mut response = document(value)?;
        response.headers_mut().extend(HeaderValue::from_str(&self.sha).map(|sha| (COMMIT, sha)));
        Ok(response)
    }

    /// Returns what is said of a file.
    fn file(&self, file: &FileInfo, expand: bool) -> Value {
        let value = json!({ "type": "file", "oid": oid(&file.tag), "size": file.bytes, "path": file.path });
        self.expanded(value, expand)
    }

    /// Returns what is said of a folder.
    fn folder(&self, path: &str, expand: bool) -> Value {
        let oid = short(format!("gigastore folder 1\n{}\t{path}\n", self.sha).as_bytes());
        self.expanded(json!({ "type": "directory", "oid": oid, "size": 0, "path": path }), expand)
    }

    /// Adds the commit to what is said of a file or folder: versions do not change, so that it is the one of all.
    fn expanded(&self, mut value: Value, expand: bool) -> Value {
        if expand {
            let Commit { name, number, .. } = &self.info.commit;
            let (title, date) = (format!("{name}@{number}"), Moment::of_ms(self.info.time).rfc3339());
            value["lastCommit"] = json!({ "id": self.sha, "title": title, "date": date });
        }
        value
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
    let sibling = |file: &FileInfo| match blobs {
        true => json!({ "rfilename": file.path, "size": file.bytes, "blobId": oid(&file.tag) }),
        false => json!({ "rfilename": file.path }),
    };
    let modified = Moment::of_ms(revision.info.time).rfc3339();
    let id = format!("{project}/{name}");
    let mut value = json!({
        "id": id,
        "author": project,
        "sha": revision.sha,
        "lastModified": modified,
        "createdAt": modified,
        "private": !matches!(caller, Caller::Anyone),
        "gated": false,
        "disabled": false,
        "downloads": 0,
        "likes": 0,
        "tags": revision.info.tags,
        "usedStorage": revision.info.commit.bytes,
        "siblings": files.iter().map(sibling).collect::<Vec<_>>(),
    });
    if sort == Sort::Checkpoint {
        value["modelId"] = json!(id);
    }
    revision.document(&value)
}

/// Lists the root of a repository.
async fn root(
    sort: Sort,
    state: State<Shared>,
    Path((project, name, selector)): Asked,
    parameters: Parameters,
) -> Result<Response<Body>, Unfound> {
    tree(sort, state, Path((project, name, selector, String::new())), parameters).await
}

/// Lists a folder: what is in it, or all that is below it.
async fn tree(
    sort: Sort,
    State(shared): State<Shared>,
    Path((project, name, selector, path)): AskedPath,
    Query(parameters): Parameters,
) -> Result<Response<Body>, Unfound> {
    let (revision, files) = Revision::with_files(&shared, sort, (&project, &name, &selector)).await?;
    let (recursive, expand) = (is_on(&parameters, "recursive"), is_on(&parameters, "expand"));
    let path = path.trim_end_matches('/');
    let below = if path.is_empty() { String::new() } else { format!("{path}/") };
    let (mut folders, mut list) = (BTreeSet::new(), Vec::new());
    let (mut any, mut found) = (path.is_empty(), Vec::new());
    for file in &files {
        let Some(rest) = file.path.strip_prefix(&below) else { continue };
        any = true;
        let borders = rest.match_indices('/').map(|(at, _)| at);
        let depth = if recursive { usize::MAX } else { 1 };
        folders.extend(borders.take(depth).map(|at| &file.path[..below.len() + at]));
        if recursive || !rest.contains('/') {
            found.push(file);
        }
    }
    if !any {
        return Err(revision.no_entry(path));
    }
    list.extend(folders.iter().map(|folder| revision.folder(folder, expand)));
    list.extend(found.iter().map(|file| revision.file(file, expand)));
    revision.document(&Value::Array(list))
}

/// Tells what paths are; nothing of those that are not there.
async fn paths(
    sort: Sort,
    State(shared): State<Shared>,
    Path((project, name, selector)): Asked,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Unfound> {
    let (body, _admitted) = gathered(&shared, &headers, body, MAX_PATHS_BYTES).await?;
    let asked = Question::read(&headers, &body);
    let Question { paths, expand } =
        asked.ok_or_else(|| Refused::invalid("the body should have paths, as a form or as JSON"))?;
    let (revision, files) = Revision::with_files(&shared, sort, (&project, &name, &selector)).await?;
    let entry = |path: &String| {
        let path = path.trim_end_matches('/');
        let at = files.partition_point(|file| file.path.as_str() < path);
        if let Some(file) = files.get(at).filter(|file| file.path == path) {
            return Some(revision.file(file, expand));
        }
        let below = format!("{path}/");
        let at = files.partition_point(|file| file.path < below);
        files.get(at).filter(|file| file.path.starts_with(&below))?;
        Some(revision.folder(path, expand))
    };
    revision.document(&Value::Array(paths.iter().filter_map(entry).collect()))
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
