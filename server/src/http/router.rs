//! All routes, in one table with the access each needs; who may pass; what is logged and counted.
//!
//! Must never route a request that the table does not name: a route without an entry is not found.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::http::{HeaderValue, Method, Response, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::{get, post, put};
use gigastore_engine::Engine;
use gigastore_formats::ambient::Ambient;
use gigastore_formats::digest::hex;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::ObjectKind;
use gigastore_formats::wire::{Fault, FaultCode};

use super::error::Refused;
use super::{body, checkpoints, datasets, hub, meta, objects, projects, saves, upkeep};
use crate::admission::Admission;
use crate::auth::{Access, Caller, Gate};
use crate::cache::Cache;
use crate::manifests::Manifests;
use crate::maps::Maps;
use crate::metrics::Metrics;
use crate::packs::Packs;

/// What every handler has.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) engine: Engine,
    /// A second store, from which damaged objects are repaired.
    pub(crate) replica: Option<Engine>,
    pub(crate) ambient: Arc<dyn Ambient>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) admission: Admission,
    pub(crate) metrics: Metrics,
    pub(crate) cache: Arc<Cache>,
    pub(crate) manifests: Manifests,
    pub(crate) packs: Packs,
    /// Maps of a store's files, where they may be sent as they are.
    pub(crate) maps: Option<Arc<Maps>>,
    /// Connections that are open.
    pub(crate) connections: AtomicU64,
    /// Whether clients reach it by `https`: its own, or that of a proxy.
    pub(crate) secure: bool,
    /// Whether clients are told where objects can be read without the service.
    pub(crate) direct: bool,
    /// How long a client may take to send each MiB of a body.
    pub(crate) pace: std::time::Duration,
    /// How long one request waits for a commit.
    pub(crate) commit: std::time::Duration,
    pub(crate) ready: meta::Ready,
    /// The address that requests must be sent to, by name or number, where nobody needs a token.
    pub(crate) only_host: Option<IpAddr>,
}

/// The service, shared by all requests.
pub(crate) type Shared = Arc<Service>;

/// Every route: method, path, and the access to the path's project that it needs; `None` where there is no project.
pub const ROUTES: &[(&str, &str, Option<Access>)] = &[
    ("GET", "/healthz", None),
    ("HEAD", "/healthz", None),
    ("GET", "/readyz", None),
    ("HEAD", "/readyz", None),
    ("GET", "/metrics", None),
    ("GET", "/v1/probe", None),
    ("PUT", "/v1/probe", None),
    ("GET", "/v1/projects", None),
    ("GET", "/v1/projects/{project}", Some(Access::Read)),
    ("GET", "/v1/projects/{project}/names/{name}/{selector}", Some(Access::Read)),
    ("GET", "/v1/projects/{project}/packs/{object}", Some(Access::Read)),
    ("HEAD", "/v1/projects/{project}/packs/{object}", Some(Access::Read)),
    ("PUT", "/v1/projects/{project}/packs/{object}", Some(Access::Write)),
    ("GET", "/v1/projects/{project}/blobs/{object}", Some(Access::Read)),
    ("HEAD", "/v1/projects/{project}/blobs/{object}", Some(Access::Read)),
    ("PUT", "/v1/projects/{project}/blobs/{object}", Some(Access::Write)),
    ("GET", "/v1/projects/{project}/manifests/{object}", Some(Access::Read)),
    ("HEAD", "/v1/projects/{project}/manifests/{object}", Some(Access::Read)),
    ("POST", "/v1/projects/{project}/exists", Some(Access::Read)),
    ("POST", "/v1/projects/{project}/places", Some(Access::Read)),
    ("POST", "/v1/projects/{project}/saves", Some(Access::Write)),
    ("PUT", "/v1/projects/{project}/saves/{save}/parts/{rank}", Some(Access::Write)),
    ("POST", "/v1/projects/{project}/saves/{save}/commit", Some(Access::Write)),
    ("DELETE", "/v1/projects/{project}/saves/{save}", Some(Access::Write)),
    ("GET", "/v1/projects/{project}/checkpoints", Some(Access::Read)),
    ("GET", "/v1/projects/{project}/checkpoints/{run}/{selector}", Some(Access::Read)),
    ("POST", "/v1/projects/{project}/checkpoints/{run}/{selector}/plan", Some(Access::Read)),
    ("GET", "/v1/projects/{project}/checkpoints/{run}/{selector}/files", Some(Access::Read)),
    ("GET", "/v1/projects/{project}/checkpoints/{run}/{selector}/files/{*path}", Some(Access::Read)),
    ("HEAD", "/v1/projects/{project}/checkpoints/{run}/{selector}/files/{*path}", Some(Access::Read)),
    ("GET", "/v1/projects/{project}/datasets", Some(Access::Read)),
    ("POST", "/v1/projects/{project}/datasets", Some(Access::Write)),
    ("GET", "/v1/projects/{project}/datasets/{name}/{selector}", Some(Access::Read)),
    ("GET", "/v1/projects/{project}/datasets/{name}/{selector}/files", Some(Access::Read)),
    ("GET", "/v1/projects/{project}/datasets/{name}/{selector}/files/{*path}", Some(Access::Read)),
    ("HEAD", "/v1/projects/{project}/datasets/{name}/{selector}/files/{*path}", Some(Access::Read)),
    ("PUT", "/v1/projects/{project}/tags/{name}/{tag}", Some(Access::Write)),
    ("GET", "/v1/projects/{project}/log", Some(Access::Read)),
    ("POST", "/v1/projects/{project}/verify", Some(Access::Read)),
    ("POST", "/v1/projects/{project}/scrub", Some(Access::Write)),
    ("GET", "/v1/projects/{project}/damaged", Some(Access::Read)),
    ("DELETE", "/v1/projects/{project}/names/{name}/{selector}", Some(Access::Admin)),
    ("PUT", "/v1/projects/{project}/pins/{name}/{selector}", Some(Access::Write)),
    ("DELETE", "/v1/projects/{project}/pins/{name}/{selector}", Some(Access::Write)),
    ("GET", "/v1/projects/{project}/policies", Some(Access::Read)),
    ("PUT", "/v1/projects/{project}/policies/{name}", Some(Access::Admin)),
    ("POST", "/v1/projects/{project}/retain", Some(Access::Admin)),
    ("POST", "/v1/projects/{project}/usage", Some(Access::Read)),
    ("POST", "/v1/projects/{project}/collect", Some(Access::Admin)),
    ("GET", "/api/models/{project}/{name}", Some(Access::Read)),
    ("GET", "/api/models/{project}/{name}/revision/{selector}", Some(Access::Read)),
    ("GET", "/api/models/{project}/{name}/tree/{selector}", Some(Access::Read)),
    ("GET", "/api/models/{project}/{name}/tree/{selector}/{*path}", Some(Access::Read)),
    ("POST", "/api/models/{project}/{name}/paths-info/{selector}", Some(Access::Read)),
    ("GET", "/api/datasets/{project}/{name}", Some(Access::Read)),
    ("GET", "/api/datasets/{project}/{name}/revision/{selector}", Some(Access::Read)),
    ("GET", "/api/datasets/{project}/{name}/tree/{selector}", Some(Access::Read)),
    ("GET", "/api/datasets/{project}/{name}/tree/{selector}/{*path}", Some(Access::Read)),
    ("POST", "/api/datasets/{project}/{name}/paths-info/{selector}", Some(Access::Read)),
    ("GET", "/{project}/{name}/resolve/{selector}/{*path}", Some(Access::Read)),
    ("HEAD", "/{project}/{name}/resolve/{selector}/{*path}", Some(Access::Read)),
    ("GET", "/datasets/{project}/{name}/resolve/{selector}/{*path}", Some(Access::Read)),
    ("HEAD", "/datasets/{project}/{name}/resolve/{selector}/{*path}", Some(Access::Read)),
];

/// Returns the routes over a service.
pub(crate) fn router(service: Shared) -> Router {
    let below = |path: &str| format!("/v1/projects/{{project}}{path}");
    Router::new()
        .route("/healthz", get(meta::healthz))
        .route("/readyz", get(meta::readyz))
        .route("/metrics", get(meta::metrics))
        .route("/v1/probe", get(meta::probe_out).put(meta::probe_in))
        .route("/v1/projects", get(projects::list))
        .route(&below(""), get(projects::project))
        .route(&below("/names/{name}/{selector}"), get(projects::resolve).delete(upkeep::drop_number))
        .route(&below("/packs/{object}"), objects::read(ObjectKind::Pack).put(objects::put_pack))
        .route(&below("/blobs/{object}"), objects::read(ObjectKind::Blob).put(objects::put_blob))
        .route(&below("/manifests/{object}"), objects::read(ObjectKind::Manifest))
        .route(&below("/exists"), post(objects::exists))
        .route(&below("/places"), post(objects::places))
        .route(&below("/saves"), post(saves::begin))
        .route(&below("/saves/{save}/parts/{rank}"), put(saves::part))
        .route(&below("/saves/{save}/commit"), post(saves::commit))
        .route(&below("/saves/{save}"), axum::routing::delete(saves::abort))
        .route(&below("/checkpoints"), get(checkpoints::list))
        .route(&below("/checkpoints/{run}/{selector}"), get(checkpoints::resolve))
        .route(&below("/checkpoints/{run}/{selector}/plan"), post(checkpoints::plan))
        .route(&below("/checkpoints/{run}/{selector}/files"), get(checkpoints::files))
        .route(&below("/checkpoints/{run}/{selector}/files/{*path}"), get(checkpoints::file))
        .route(&below("/datasets"), get(datasets::list).post(datasets::commit))
        .route(&below("/datasets/{name}/{selector}"), get(datasets::resolve))
        .route(&below("/datasets/{name}/{selector}/files"), get(datasets::files))
        .route(&below("/datasets/{name}/{selector}/files/{*path}"), get(datasets::file))
        .route(&below("/tags/{name}/{tag}"), put(projects::tag))
        .route(&below("/log"), get(projects::log))
        .route(&below("/verify"), post(projects::verify))
        .route(&below("/scrub"), post(projects::scrub))
        .route(&below("/damaged"), get(projects::damaged))
        .route(&below("/pins/{name}/{selector}"), put(upkeep::pin).delete(upkeep::unpin))
        .route(&below("/policies"), get(upkeep::policies))
        .route(&below("/policies/{name}"), put(upkeep::set_policy))
        .route(&below("/retain"), post(upkeep::retain))
        .route(&below("/usage"), post(upkeep::usage))
        .route(&below("/collect"), post(upkeep::collect))
        .merge(hub::routes())
        .route_layer(from_fn_with_state(Arc::clone(&service), admit))
        .fallback(nowhere)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(Arc::clone(&service), account))
        .with_state(service)
}

async fn nowhere(uri: Uri) -> hub::Unfound {
    let fault = Fault::of(FaultCode::NotFound, "there is no such route; the README of Gigastore lists them");
    hub::nowhere(uri.path(), Refused::new(fault))
}

async fn no_such_method() -> Refused {
    Refused::invalid("this route has no such method").with_status(StatusCode::METHOD_NOT_ALLOWED)
}

/// Refuses a body in chunks: it has no length to admit, and whatever length stands beside it is not what comes. Nobody
/// else may see another end of this request than we do, so the connection ends with it (RFC 9112, 6.1).
fn in_chunks() -> Response<Body> {
    let text = "a body needs a Content-Length, and no Transfer-Encoding";
    let mut response = Refused::invalid(text).with_status(StatusCode::LENGTH_REQUIRED).into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Lets a request pass to its handler if its caller may.
async fn admit(
    State(service): State<Shared>,
    path: MatchedPath,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let params = params.map_err(|error| Refused::invalid(error.body_text()).into());
    let checked = params.and_then(|params| check(&service, path.as_str(), &params, &request));
    match checked {
        Ok(caller) => {
            request.extensions_mut().insert(caller.clone());
            let response = next.run(request).await;
            let mut response = body::admitted(&service, response).await.unwrap_or_else(Refused::into_response);
            response.extensions_mut().insert(caller);
            response
        }
        Err(refused) => refused.into_response(),
    }
}

fn check(service: &Service, path: &str, params: &RawPathParams, request: &Request) -> Result<Caller, hub::Unfound> {
    let method = request.method().as_str();
    let entry = ROUTES.iter().find(|(known, route, _)| *known == method && *route == path);
    let Some((_, _, needed)) = entry else {
        let refused = Refused::invalid("this route has no such method");
        return Err(refused.with_status(StatusCode::METHOD_NOT_ALLOWED).into());
    };
    let Some(needed) = needed else {
        // Health is for load balancers, which have no tokens; a list shows only what its caller may see.
        let open = matches!(path, "/healthz" | "/readyz");
        return if open { Ok(Caller::Anyone) } else { Ok(caller(service, request)?) };
    };
    let caller = caller(service, request)?;
    let param = |wanted| params.iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value);
    let project: ProjectName = param("project").parse().map_err(|error| match hub::is_route(path) {
        // What is asked of every hub there is, as libraries ask for models of the public one.
        true => hub::no_repo(param("project"), param("name")),
        false => Refused::new(Fault::new(FaultCode::Invalid, &error)).into(),
    })?;
    // The same answer whether the project is there or not.
    match caller.access(&project) {
        Some(access) if access >= *needed => Ok(caller),
        _ => Err(Refused::new(Fault {
            hint: Some(format!("ask for a token with {needed:?} on project {project}")),
            ..Fault::of(FaultCode::Denied, format!("this token has no {needed:?} access to project {project}"))
        })
        .into()),
    }
}

fn caller(service: &Service, request: &Request) -> Result<Caller, Refused> {
    let header = request.headers().get(header::AUTHORIZATION);
    let text = header.and_then(|value| value.to_str().ok());
    Ok(service.gate.caller(text)?)
}

/// Refuses a request whose `Host` is no name of this machine, where nobody needs a token: a page whose own name was
/// made to mean 127.0.0.1 would have a browser send what it likes. Browsers always send `Host`.
fn misdirected(service: &Service, request: &Request) -> Option<Refused> {
    let listen = service.only_host?;
    let host = request.headers().get(header::HOST)?;
    if host.to_str().is_ok_and(|host| is_here(host, listen)) {
        return None;
    }
    let refused = Refused::new(Fault {
        hint: Some("ask for localhost or 127.0.0.1; other names need a service with --tokens".to_owned()),
        ..Fault::of(FaultCode::Denied, "this service is for this machine only, and was asked for by another name")
    });
    Some(refused.with_status(StatusCode::MISDIRECTED_REQUEST))
}

/// Tells whether a `Host` means this machine alone, or the address that is listened to.
fn is_here(host: &str, listen: IpAddr) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let number = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_ours = |ip: IpAddr| ip.is_loopback() || ip == listen;
    name == "localhost" || name.ends_with(".localhost") || number.parse().is_ok_and(is_ours)
}

/// Gives each request an id, writes the body of a refusal, logs and counts.
async fn account(State(service): State<Shared>, request: Request, next: Next) -> Response<Body> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let started = service.ambient.monotonic();
    let unique = service.ambient.random() ^ NEXT.fetch_add(1, Ordering::Relaxed);
    let id = hex(&unique.to_be_bytes());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let matched = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let mut response = if let Some(refused) = misdirected(&service, &request) {
        refused.into_response()
    } else if request.headers().contains_key(header::TRANSFER_ENCODING) {
        in_chunks()
    } else {
        next.run(request).await
    };
    if let Some(fault) = response.extensions_mut().remove::<Fault>() {
        let fault = Fault { request_id: Some(id.clone()), ..fault };
        service.metrics.fault(&fault);
        tracing::warn!(request = id, code = ?fault.code, message = fault.message, "refused");
        if matched.as_deref().is_some_and(hub::is_route) {
            hub::translate(&mut response, &fault);
        }
        let body = serde_json::to_vec(&fault).unwrap_or_default();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        *response.body_mut() = if method == Method::HEAD { Body::empty() } else { Body::from(body) };
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    let took = service.ambient.monotonic().saturating_sub(started);
    let status = response.status().as_u16();
    let known = ROUTES.iter().find(|(_, route, _)| Some(*route) == matched.as_deref());
    let verb = ROUTES.iter().map(|(verb, ..)| *verb).find(|verb| *verb == method.as_str()).unwrap_or("other");
    service.metrics.request(known.map_or("none", |(_, route, _)| route), verb, status, took);
    let token = response.extensions().get::<Caller>().map_or("-", Caller::id);
    tracing::info!(request = id, token, %method, path, status, ms = took.as_millis() as u64, "request");
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_this_machine_and_others() {
        let listen = IpAddr::from([127, 0, 0, 1]);
        for here in
            ["localhost", "LOCALHOST:7070", "localhost.", "a.localhost:1", "127.0.0.1:7070", "127.9.9.9", "[::1]"]
        {
            assert!(is_here(here, listen), "{here}");
        }
        assert!(is_here("[::1]:80", listen));
        for there in [
            "",
            "evil.example",
            "localhost.evil.example:7070",
            "notlocalhost",
            "10.0.0.1",
            "127.0.0.1.nip.io",
            "[::2]:1",
        ] {
            assert!(!is_here(there, listen), "{there}");
        }
        assert!(is_here("10.0.0.1:7070", IpAddr::from([10, 0, 0, 1])));
    }
}
