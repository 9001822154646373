//! Bodies of objects straight from sockets to where they belong: no buffer of an HTTP library between the two, and
//! each group checked by the thread that read it, while it is warm.
//!
//! Plain HTTP/1.1 to a service, for the one answer that this is about: exactly the range that was asked for. Whatever
//! else comes back (a refusal, another length, a body in chunks) is left to the general client, which asks again and
//! knows what to do. Must never take a byte of an answer whose head does not promise exactly what was asked for.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gigastore_formats::ambient::Ambient;
use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::{Fault, FaultCode};
use url::{Position, Url};

use super::pace::Pace;
use crate::transport::{Source, Taker};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// Bytes of an answer's head. What comes with it of the body is copied once more: little is read at first.
const HEAD_BYTES: usize = 4 << 10;

/// Header fields of an answer.
const HEADERS: usize = 32;

/// Connections that are kept for the next read: as many as there may be reads.
const KEPT: usize = 128;

/// Bytes between two wanted groups that are read to be thrown away, at once.
const SKIP_BYTES: usize = 16 << 10;

/// Connections to the endpoints of a service.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    socket: Arc<TcpStream>,
    endpoint: String,
    since: Duration,
}

/// One GET of a range.
#[derive(Clone, Debug)]
pub(super) struct Get {
    pub(super) url: Url,
    pub(super) token: Option<String>,
    pub(super) range: ByteRange,
    pub(super) afresh: bool,
}

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Without a byte, before a read is given up.
    pub(super) stall: Duration,
    /// Without use, before a connection is closed.
    pub(super) idle: Duration,
}

impl Sockets {
    /// Passes the body to `taker`. Whatever that still wants afterwards has to be asked for in another way.
    pub(super) async fn pass(&self, get: Get, taker: Arc<dyn Taker>, ambient: &dyn Ambient, patience: Patience) {
        let (Some(endpoint), now) = (endpoint(&get.url), ambient.monotonic()) else { return };
        // A kept connection may have been closed by the other side meanwhile: then a new one is made.
        for kept in [true, false] {
            let socket = match kept {
                true => self.kept(&endpoint, now, patience.idle),
                false => connect(&endpoint, patience.stall).await.ok().map(Arc::new),
            };
            let Some(socket) = socket else { continue };
            let cut = CutOnDrop(Some(Arc::clone(&socket)));
            let (get, taker) = (get.clone(), Arc::clone(&taker));
            let (asked, socket) = ambient.waited(move || (ask(&socket, &get, &*taker, patience.stall), socket)).await;
            cut.disarm();
            match asked {
                Ok(true) => return self.keep(Idle { socket, endpoint, since: now }),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Ok(false) | Err(_) => return,
            }
        }
    }

    fn kept(&self, endpoint: &str, now: Duration, idle: Duration) -> Option<Arc<TcpStream>> {
        let mut kept = self.lock();
        kept.retain(|one| now.saturating_sub(one.since) < idle);
        let at = kept.iter().rposition(|one| one.endpoint == endpoint)?;
        Some(kept.swap_remove(at).socket)
    }

    fn keep(&self, idle: Idle) {
        let mut kept = self.lock();
        if kept.len() < KEPT {
            kept.push(idle);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a blocked read when whoever waits for it is gone.
struct CutOnDrop(Option<Arc<TcpStream>>);

impl CutOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            // One that is closed already has nothing to end.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn endpoint(url: &Url) -> Option<String> {
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

async fn connect(endpoint: &str, stall: Duration) -> io::Result<TcpStream> {
    let connected = tokio::time::timeout(CONNECT, tokio::net::TcpStream::connect(endpoint)).await;
    let socket = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??.into_std()?;
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(stall))?;
    socket.set_write_timeout(Some(stall))?;
    Ok(socket)
}

/// Asks for the range and passes the answer on; tells whether the connection can be used again. `ConnectionAborted`
/// stands for one that ended without a byte of an answer.
fn ask(mut socket: &TcpStream, get: &Get, taker: &dyn Taker, stall: Duration) -> io::Result<bool> {
    let stale = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
    socket.write_all(request(get).as_bytes()).map_err(stale)?;
    let mut buffer = [0; HEAD_BYTES];
    let (mut filled, mut pace) = (0, Pace::new(stall));
    let head = loop {
        let (read, holds) = match received(socket, &mut buffer[filled..], &mut pace) {
            Ok((0, _)) if filled == 0 => return Err(io::ErrorKind::ConnectionAborted.into()),
            Err(error) if filled == 0 && error.kind() == io::ErrorKind::ConnectionReset => return Err(stale(error)),
            received => received?,
        };
        match read {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if !holds => return Err(io::ErrorKind::TimedOut.into()),
            _ => filled += read,
        }
        if let Some(head) = head(&buffer[..filled], get.range)? {
            break head;
        }
    };
    let early = &buffer[head.len..filled];
    let mut body = Body { socket, early, position: get.range.start(), end: get.range.end(), pace };
    taker.take(&mut body).map_err(|fault| io::Error::other(fault.message))?;
    Ok(head.keep && body.position == body.end)
}

/// Reads what comes next, none where the connection ended; tells whether the peer is fast enough.
fn received(mut socket: &TcpStream, into: &mut [u8], pace: &mut Pace) -> io::Result<(usize, bool)> {
    loop {
        let began = Instant::now();
        match socket.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read.map(|read| (read, pace.holds(read, began.elapsed()))),
        }
    }
}

fn request(get: &Get) -> String {
    use std::fmt::Write as _;
    let (url, range) = (&get.url, get.range);
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let mut text = format!(
        "GET {} HTTP/1.1\r\nhost: {host}{port}\r\nuser-agent: gigastore/{}\r\nrange: bytes={}-{}\r\n",
        &url[Position::BeforePath..Position::AfterQuery],
        env!("CARGO_PKG_VERSION"),
        range.start(),
        range.end() - 1
    );
    // Writing to a string can't fail.
    if let Some(token) = &get.token {
        let _ = write!(text, "authorization: Bearer {token}\r\n");
    }
    if get.afresh {
        text.push_str("cache-control: no-cache\r\n");
    }
    text.push_str("\r\n");
    text
}

/// The head of an answer.
struct Head {
    len: usize,
    keep: bool,
}

/// Reads the head of an answer; `None` where it is not all there yet, an error where it promises anything but `range`.
fn head(bytes: &[u8], range: ByteRange) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let httparse::Status::Complete(len) = parsed else {
        return if bytes.len() < HEAD_BYTES { Ok(None) } else { Err(io::ErrorKind::InvalidData.into()) };
    };
    let values = |name: &str| {
        let named = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| std::str::from_utf8(header.value).unwrap_or_default().trim()).collect::<Vec<_>>()
    };
    let (content_len, range_text) = (range.len().to_string(), format!("bytes {}-{}/", range.start(), range.end() - 1));
    let promised = response.code == Some(206)
        && values("content-length") == [content_len.as_str()]
        && matches!(values("content-range")[..], [text] if text.starts_with(&range_text))
        && values("transfer-encoding").is_empty()
        && values("content-encoding").is_empty();
    if !promised {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not the answer that is read here"));
    }
    let keep = response.version == Some(1) && values("connection").iter().all(|value| !value.contains("close"));
    Ok(Some(Head { len, keep }))
}

/// A body on its way.
struct Body<'a> {
    socket: &'a TcpStream,
    /// What came with the head.
    early: &'a [u8],
    position: u64,
    end: u64,
    pace: Pace,
}

impl Body<'_> {
    fn read(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        let early = self.early.len().min(into.len());
        let (copied, rest) = self.early.split_at(early);
        into[..early].copy_from_slice(copied);
        self.early = rest;
        into = &mut into[early..];
        self.position += early as u64;
        self.position += into.len() as u64;
        while !into.is_empty() {
            let (read, holds) = received(self.socket, into, &mut self.pace)?;
            into = &mut into[read..];
            match read {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                // What is complete is taken, however it came.
                _ if !holds && !into.is_empty() => return Err(io::ErrorKind::TimedOut.into()),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Source for Body<'_> {
    fn fill_at(&mut self, position: u64, into: &mut [u8]) -> Result<(), Fault> {
        if position < self.position || position + into.len() as u64 > self.end {
            return Err(Fault::of(FaultCode::Unavailable, "these bytes are not in the rest of this body"));
        }
        let broken = |error| Fault::new(FaultCode::Unavailable, &error);
        let mut skipped = [0; SKIP_BYTES];
        while self.position < position {
            let skip = (position - self.position).min(SKIP_BYTES as u64) as usize;
            self.read(&mut skipped[..skip]).map_err(broken)?;
        }
        self.read(into).map_err(broken)
    }
}
