//! What is in a repository, over HTTP: its folders a page at a time, and what paths are.
//!
//! Must never make a page on a thread that others wait for, nor before its memory was given.

use std::collections::{BTreeSet, HashMap};

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, Uri, header};
use gigastore_formats::record::Sort;

use super::listing::{ENTRY_BYTES, Entry, PAGE_ENTRIES, Page};
use super::question::{MAX_PATHS, Question, escaped};
use super::{Asked, AskedPath, Parameters, Revision, Unfound, is_on};
use crate::http::body::gathered;
use crate::http::error::Refused;
use crate::http::router::Shared;

/// Bytes of a question about paths: [`MAX_PATHS`] of the longest.
const MAX_PATHS_BYTES: u64 = 1 << 20;

/// The scheme by which a proxy was asked.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Lists the root of a repository.
pub(super) async fn root(
    sort: Sort,
    state: State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    Path((project, name, selector)): Asked,
    parameters: Parameters,
) -> Result<Response<Body>, Unfound> {
    tree(sort, state, uri, headers, Path((project, name, selector, String::new())), parameters).await
}

/// Lists a folder, a page at a time: what is in it, or all that is below it.
pub(super) async fn tree(
    sort: Sort,
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    Path((project, name, selector, path)): AskedPath,
    Query(parameters): Parameters,
) -> Result<Response<Body>, Unfound> {
    let (revision, files) = Revision::with_files(&shared, sort, (&project, &name, &selector)).await?;
    let depths = files.iter().take(PAGE_ENTRIES).map(|file| 1 + file.path.matches('/').count());
    let most = depths.sum::<usize>().min(PAGE_ENTRIES);
    let _admitted = shared.admission.answer(most as u64 * ENTRY_BYTES).await?;
    let secure = shared.secure;
    let listed = shared.ambient.computed(move || {
        let (recursive, expand) = (is_on(&parameters, "recursive"), is_on(&parameters, "expand"));
        let limit = parameters.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(PAGE_ENTRIES);
        let after = parameters.get("cursor").map_or("", String::as_str);
        let path = path.trim_end_matches('/');
        let below = if path.is_empty() { String::new() } else { format!("{path}/") };
        let page = Page::new(&files, &below, recursive, after, limit.clamp(1, PAGE_ENTRIES));
        let Some(page) = page else { return Err(revision.no_entry(path)) };
        let said: Vec<_> = page.entries.iter().map(|entry| revision.say(*entry, expand)).collect();
        let mut response = revision.document(&said)?;
        let next = page.next.map(|next| link(secure, &uri, &headers, &parameters, next));
        let next = next.and_then(|link| HeaderValue::try_from(link).ok());
        response.headers_mut().extend(next.map(|next| (header::LINK, next)));
        Ok(response)
    });
    listed.await
}

/// Returns what leads to the next page of a list: the same question, at the address that was asked.
fn link(secure: bool, uri: &Uri, headers: &HeaderMap, asked: &HashMap<String, String>, next: &str) -> String {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let scheme = match text(FORWARDED_PROTO) {
        Some(scheme @ ("http" | "https")) => scheme,
        _ if secure => "https",
        _ => "http",
    };
    let host = uri.authority().cloned().or_else(|| text(header::HOST)?.parse::<Authority>().ok());
    let base = host.map_or(String::new(), |host| format!("{scheme}://{host}"));
    let kept = ["recursive", "expand", "limit"].into_iter();
    let kept = kept.filter_map(|name| Some(format!("{name}={}&", escaped(asked.get(name)?))));
    let kept: String = kept.collect();
    format!("<{base}{}?{kept}cursor={}>; rel=\"next\"", uri.path(), escaped(next))
}

/// Tells what paths are; nothing of those that are not there.
pub(super) async fn paths(
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
    if paths.len() > MAX_PATHS {
        let text = format!("more than {MAX_PATHS} paths are asked for, the limit of one question: ask in parts");
        return Err(Refused::invalid(text).into());
    }
    let (revision, files) = Revision::with_files(&shared, sort, (&project, &name, &selector)).await?;
    let _told = shared.admission.answer(paths.len() as u64 * ENTRY_BYTES).await?;
    let told = shared.ambient.computed(move || {
        let paths: BTreeSet<&str> = paths.iter().map(|path| path.trim_end_matches('/')).collect();
        let found = paths.into_iter().filter_map(|path| Entry::find(&files, path));
        let said: Vec<_> = found.map(|entry| revision.say(entry, expand)).collect();
        revision.document(&said)
    });
    told.await
}
