//! Calls to a service: sent again with growing pauses where it did not answer, to the next endpoint where there are
//! several, given up when nothing has moved for a minute.
//!
//! Every call of the store's protocol may be repeated, so any try whose answer was lost is made again. Retries live
//! here and nowhere else. Must never try again what the service has refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt};
use gigastore_formats::ambient::Ambient;
use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::{Fault, FaultCode, SEAL_HEADER, check_seal};
use reqwest::{Client, Method, Response, StatusCode, Url, header};

use super::pace::{PACE_BYTES, Pace};
use super::pause::{Deadlines, Failed, Pause};
use super::sent::{Fate, Sent};
use super::socket::Sockets;
use crate::transfer::buffer::BufferPool;

/// How long a connection is kept for the next call: less than services keep it, so that none is used as it closes.
pub(super) const IDLE: Duration = Duration::from_secs(20);

/// The longest wait that a service may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Tries beyond the first that all calls of a process may make before they slow down to the longest pause: a service
/// that struggles is not buried under retries. Each answer earns a tenth of one back.
const RETRY_BUDGET: u64 = 64;
const TENTHS: u64 = 10;

/// Bytes of a refusal.
const MAX_FAULT_BYTES: usize = 1 << 20;

/// The environment's names for a proxy that plain HTTP goes through.
const PROXIES: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];

/// What is asked of the service.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) sent: Sent,
    pub(super) range: Option<ByteRange>,
    /// Past everything that keeps bytes on the way.
    pub(super) afresh: bool,
}

impl Call {
    pub(super) fn new(method: Method, path: impl Into<String>, sent: Sent) -> Self {
        Self { method, path: path.into(), sent, range: None, afresh: false }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path, Sent::Nothing)
    }
}

/// A service's endpoints.
pub(super) struct Remote {
    pub(super) endpoints: Vec<Url>,
    pub(super) client: Client,
    /// No proxy is in the way.
    pub(super) plain: bool,
    pub(super) sockets: Sockets,
    pub(super) buffers: BufferPool,
    pub(super) token: Option<String>,
    pub(super) ambient: Arc<dyn Ambient>,
    pub(super) deadlines: Deadlines,
    /// The endpoint that answered last.
    pub(super) good: AtomicUsize,
    /// Retries left, in tenths.
    pub(super) budget: AtomicU64,
    /// Requests sent again.
    retries: AtomicU64,
}

impl Remote {
    pub(super) fn new(endpoints: &str, token: Option<String>, ambient: Arc<dyn Ambient>) -> Result<Self, Fault> {
        let invalid = |text: String| Fault::of(FaultCode::Invalid, text);
        let mut parsed = Vec::new();
        for text in endpoints.split(',').map(str::trim) {
            let url: Url = text.parse().map_err(|error| invalid(format!("{text:?} is not a URL: {error}")))?;
            let plain = matches!(url.scheme(), "http" | "https") && matches!(url.path(), "" | "/");
            if !plain || !url.has_host() || url.query().is_some() {
                return Err(invalid(format!("{text:?} is not the URL of a service: expected http(s)://HOST[:PORT]")));
            }
            parsed.push(url);
        }
        // No redirects: a token must go nowhere but where it was meant for.
        let client = Client::builder()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .tcp_nodelay(true)
            .pool_idle_timeout(IDLE)
            .user_agent(concat!("gigastore/", env!("CARGO_PKG_VERSION")));
        // A proxy that the environment names is for the world outside.
        let here = parsed.iter().all(|url| url.host_str().is_some_and(is_loopback));
        let client = if here { client.no_proxy() } else { client };
        let plain = here || PROXIES.iter().all(|name| std::env::var_os(name).is_none());
        let client = client.build().map_err(|error| invalid(format!("the HTTP client can't be set up: {error}")))?;
        if token.as_ref().is_some_and(|token| header::HeaderValue::from_str(token).is_err()) {
            return Err(invalid("the token has characters that no token has".to_owned()));
        }
        let budget = AtomicU64::new(RETRY_BUDGET * TENTHS);
        // Processes start at different endpoints, so that each has its share of them.
        let good = AtomicUsize::new(ambient.random() as usize);
        let deadlines = Deadlines::default();
        let (sockets, buffers) = Default::default();
        let retries = AtomicU64::new(0);
        Ok(Self {
            endpoints: parsed,
            client,
            plain,
            sockets,
            buffers,
            token,
            ambient,
            deadlines,
            good,
            budget,
            retries,
        })
    }

    /// Returns how many requests were sent again.
    pub(super) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Counts a request that is sent again.
    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes a call and reads its answer, of at most `limit` bytes.
    pub(super) async fn answered(&self, call: Call, limit: usize) -> Result<Bytes, Fault> {
        self.persist(|| async {
            let at = self.endpoint().0;
            let tried = self.try_once(&call, limit).await;
            if tried.as_ref().is_err_and(|failed| failed.retry) {
                self.leave(at);
            }
            tried
        })
        .await
    }

    async fn try_once(&self, call: &Call, limit: usize) -> Result<Bytes, Failed> {
        let response = self.send(call).await?;
        let seal = response.headers().get(SEAL_HEADER).cloned();
        let bytes = self.gather(response, limit).await?;
        check_seal(seal.as_ref().map(header::HeaderValue::as_bytes), &bytes).map_err(Failed::passing)?;
        Ok(bytes)
    }

    /// Makes a call whose answer has nothing to read.
    pub(super) async fn done(&self, call: Call) -> Result<(), Fault> {
        self.answered(call, MAX_FAULT_BYTES).await.map(|_| ())
    }

    /// Makes a call whose answer is read as it comes; a break in it is an error.
    pub(super) async fn streamed(&self, call: Call) -> Result<BoxStream<'static, Result<Bytes, Fault>>, Fault> {
        let response = self.persist(|| self.send(&call)).await?;
        let stall = self.deadlines.stall;
        let pieces = futures::stream::try_unfold(response, move |mut response| async move {
            let next = tokio::time::timeout(stall, response.chunk()).await.map_err(|_| stalled(stall).fault)?;
            Ok(next.map_err(|error| network(&error))?.map(|piece| (piece, response)))
        });
        Ok(pieces.boxed())
    }

    /// Returns the endpoint that is good, or next in line.
    pub(super) fn endpoint(&self) -> (usize, &Url) {
        let at = self.good.load(Ordering::Relaxed);
        (at, &self.endpoints[at % self.endpoints.len()])
    }

    /// Has whoever comes next try the endpoint after `at`, unless somebody saw to that already: many calls that fail
    /// together at one move on by one.
    pub(super) fn leave(&self, at: usize) {
        let _ = self.good.compare_exchange(at, at.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Makes tries until one has an answer, or none is worth another.
    async fn persist<T, F: Future<Output = Result<T, Failed>>>(&self, attempt: impl Fn() -> F) -> Result<T, Fault> {
        let mut pause = Pause::new(self);
        loop {
            match attempt().await {
                Ok(answer) => {
                    self.earn();
                    return Ok(answer);
                }
                Err(failed) => pause.after(failed).await?,
            }
        }
    }

    /// Makes one try at the endpoint that is good, or next in line.
    pub(super) async fn send(&self, call: &Call) -> Result<Response, Failed> {
        let (at, endpoint) = self.endpoint();
        let refuse = |text: String| Failed::final_with(Fault::of(FaultCode::Invalid, text));
        let url = endpoint.join(&call.path).map_err(|error| refuse(format!("{}: {error}", call.path)))?;
        let mut request = self.client.request(call.method.clone(), url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(range) = call.range {
            request = request.header(header::RANGE, format!("bytes={}-{}", range.start(), range.end() - 1));
        }
        if call.afresh {
            request = request.header(header::CACHE_CONTROL, "no-cache");
        }
        if let Sent::Sealed(_, digest) = &call.sent {
            request = request.header(SEAL_HEADER, digest.to_string());
        }
        let (body, fate) = call.sent.body(&self.ambient);
        if let Some(len) = call.sent.len() {
            request = request.header(header::CONTENT_LENGTH, len).body(body);
        }
        let answered = self.watched(request.send(), &fate).await;
        if let Some(text) = fate.failed() {
            let fault = Fault::of(FaultCode::BadUpload, format!("the bytes to be sent did not come: {text}"));
            return Err(Failed::final_with(fault));
        }
        let response = match answered {
            Ok(response) => response,
            Err(failed) => {
                self.leave(at);
                return Err(Failed { moved: fate.progress(), ..failed });
            }
        };
        // Accepted is not done: what goes on is said in the same words as a refusal.
        if response.status().is_success() && response.status() != StatusCode::ACCEPTED {
            return Ok(response);
        }
        Err(self.refusal(response, at).await)
    }

    /// Waits for an answer for as long as the body moves.
    async fn watched(
        &self,
        send: impl Future<Output = reqwest::Result<Response>>,
        fate: &Fate,
    ) -> Result<Response, Failed> {
        let (mut send, stall) = (std::pin::pin!(send), self.deadlines.stall);
        loop {
            tokio::select! {
                answered = &mut send => {
                    return answered.map_err(|error| unanswered(&error));
                }
                () = self.ambient.sleep(stall / 4) => {
                    let idle = self.ambient.monotonic().as_millis() as u64 - fate.moved_ms();
                    if idle > stall.as_millis() as u64 {
                        return Err(stalled(stall));
                    }
                }
            }
        }
    }

    /// Reads a refusal: the service's own words where it has any.
    async fn refusal(&self, response: Response, at: usize) -> Failed {
        let status = response.status();
        let after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let after = after.map(|seconds| Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER));
        let body = match self.gather(response, MAX_FAULT_BYTES).await {
            Ok(body) => body,
            Err(failed) => return failed,
        };
        let busy = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        if busy {
            self.leave(at);
        }
        let fault = serde_json::from_slice(&body).unwrap_or_else(|_| {
            let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            let code = if busy { FaultCode::Unavailable } else { FaultCode::Invalid };
            Fault::of(code, format!("the service answered {status}, not as Gigastore does: {text}"))
        });
        // Only ranges of objects are asked for, by what was committed of them: one that ends before is damaged.
        let short = status == StatusCode::RANGE_NOT_SATISFIABLE;
        let fault = if short { Fault { code: FaultCode::Integrity, ..fault } } else { fault };
        // What we sent did not arrive as it was.
        let damaged = status == StatusCode::UNPROCESSABLE_ENTITY && fault.code == FaultCode::Integrity;
        Failed { after, retry: busy || damaged, busy, ..Failed::final_with(fault) }
    }

    async fn gather(&self, mut response: Response, limit: usize) -> Result<Bytes, Failed> {
        let (mut gathered, stall) = (BytesMut::new(), self.deadlines.stall);
        let (mut pace, mut holds) = (Pace::new(stall), true);
        loop {
            let began = Instant::now();
            let next = tokio::time::timeout(stall, response.chunk()).await.map_err(|_| stalled(stall))?;
            let piece = next.map_err(|error| Failed::passing(network(&error)))?;
            let Some(piece) = piece else { return Ok(gathered.freeze()) };
            if !holds {
                return Err(slow(stall));
            }
            if gathered.len() + piece.len() > limit {
                let fault = Fault::of(FaultCode::Invalid, format!("the service's answer is over {limit} bytes"));
                return Err(Failed::final_with(fault));
            }
            gathered.extend_from_slice(&piece);
            holds = pace.holds(piece.len(), began.elapsed());
        }
    }

    pub(super) fn earn(&self) {
        let more = |tenths: u64| (tenths < RETRY_BUDGET * TENTHS).then_some(tenths + 1);
        // Nothing to earn where the budget is full.
        let _ = self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Pays for one more try; tells whether the budget had that much.
    pub(super) fn spend(&self) -> bool {
        let less = |tenths: u64| tenths.checked_sub(TENTHS);
        self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A try that broke off: made again, unless whoever answers is not who they should be.
fn unanswered(error: &reqwest::Error) -> Failed {
    match untrusted(error) {
        // The first bytes of an answer in clear are no head of TLS.
        Some(text) if text.contains("InvalidContentType") => {
            let text = format!("the service does not speak TLS: {text}");
            let hint = Some("is its URL http://…?".to_owned());
            Failed::final_with(Fault { hint, ..Fault::of(FaultCode::Denied, text) })
        }
        Some(text) => {
            let hint = "let SSL_CERT_FILE name the certificate that vouches for the service (PEM); one that signed \
                        itself must not be marked as an authority (CA:FALSE)"
                .to_owned();
            let text = format!("the service's certificate is not trusted: {text}");
            Failed::final_with(Fault { hint: Some(hint), ..Fault::of(FaultCode::Denied, text) })
        }
        None => Failed::passing(network(error)),
    }
}

/// Returns what TLS said, where it was TLS that refused.
fn untrusted(error: &reqwest::Error) -> Option<String> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if let Some(io) = io.filter(|io| io.kind() == std::io::ErrorKind::InvalidData) {
            return Some(io.to_string());
        }
        // An error of the system that wraps another passes over it when asked for its source.
        let inner = io.and_then(std::io::Error::get_ref).map(|inner| inner as &(dyn std::error::Error + 'static));
        cause = inner.or_else(|| error.source());
    }
    None
}

pub(super) fn network(error: &reqwest::Error) -> Fault {
    let mut fault = Fault::new(FaultCode::Unavailable, error);
    fault.message = format!("the service did not answer: {}", fault.message);
    fault.hint = Some("is it running, and is the URL right? `gigastore doctor` looks".to_owned());
    fault
}

pub(super) fn broken(what: &str) -> Failed {
    Failed::passing(Fault::of(FaultCode::Unavailable, what))
}

/// An answer that comes slower than any link.
pub(super) fn slow(stall: Duration) -> Failed {
    let (bytes, seconds) = (PACE_BYTES, stall.as_secs_f64());
    let text = format!("the service's answer came too slowly: fewer than {bytes} bytes in {seconds} s");
    Failed { slow: true, ..broken(&text) }
}

pub(super) fn stalled(stall: Duration) -> Failed {
    broken(&format!("the service made no progress for {} s", stall.as_secs_f64()))
}
