//! A proxy between a client and a service that misbehaves as it is told: it stalls, breaks off, lies, damages.
//!
//! Must never misbehave of its own: what it is not told to spoil passes as it is.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gigastore_formats::digest::Digest;
use gigastore_formats::wire::{DirectPlace, ExistsRequest, PlacesAnswer, SEAL_HEADER};
use gigastore_tests::raw::{Answer, Wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What is done to an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Misdeed {
    /// The connection is reset after so many bytes of the body.
    Reset(usize),
    /// It is closed in good order after so many bytes of the body.
    Close(usize),
    /// Nothing comes after so many bytes of the body, and the connection stays.
    Stall(usize),
    /// Not even a head comes.
    Silence,
    /// The body comes 64 KiB at a time, with a pause after each.
    Slow(Duration),
    /// The body comes a byte at a time, with a pause after each.
    Drip(Duration),
    /// `Content-Range` names the bytes after those that were asked for.
    OtherRange,
    /// There is no `Content-Range`, and the status says that this is all.
    NoRange,
    /// `Content-Length` is so many bytes more than the body has; then the connection is closed.
    Longer(usize),
    /// `Content-Length` is so many bytes less than asked for, and so is the body.
    Shorter(usize),
    /// The lowest bit of this byte of the body is flipped.
    Flip(usize),
    /// The answer says that the objects asked for can be read at this address, with a signature.
    Places(SocketAddr),
}

/// A request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Returns how many bytes of an object it wants.
    pub(crate) fn wants(&self) -> u64 {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        range.map_or(0, |(start, end)| end.parse::<u64>().unwrap() + 1 - start.parse::<u64>().unwrap())
    }
}

/// Decides what is done to the answer to a request.
type Plan = Box<dyn FnMut(&Asked, &Answer) -> Option<Misdeed> + Send>;

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    plan: Mutex<Plan>,
    /// Requests with a body of which one bit is flipped on its way up.
    flips: AtomicUsize,
    asked: Mutex<Vec<Asked>>,
}

/// Answers of at least these bytes are data of a pack, not its header.
pub(crate) const DATA: usize = 64 << 10;

impl Proxy {
    /// Starts one before `upstream` that spoils nothing.
    pub(crate) async fn before(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream,
            plan: Mutex::new(Box::new(|_, _| None)),
            flips: AtomicUsize::new(0),
            asked: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                // What ends a connection is its client, or what was planned.
                tokio::spawn(async move { drop(pass(stream, &shared).await) });
            }
        });
        Self { address, shared }
    }

    /// Spoils the next `times` answers with data of packs.
    pub(crate) fn spoil(&self, times: usize, misdeed: Misdeed) {
        let data = |asked: &Asked, answer: &Answer| {
            asked.method == "GET" && asked.target.contains("/packs/") && answer.body.len() >= DATA
        };
        self.spoil_those(data, times, misdeed);
    }

    /// Spoils the next `times` answers of those that are meant.
    pub(crate) fn spoil_those(
        &self,
        meant: impl Fn(&Asked, &Answer) -> bool + Send + 'static,
        times: usize,
        misdeed: Misdeed,
    ) {
        let mut left = times;
        *self.shared.plan.lock().unwrap() = Box::new(move |asked, answer| {
            if left == 0 || !meant(asked, answer) {
                return None;
            }
            left -= 1;
            Some(misdeed)
        });
    }

    /// Flips a bit of each of the next `times` documents that are sent up.
    pub(crate) fn flip_requests(&self, times: usize) {
        self.shared.flips.store(times, Ordering::Relaxed);
    }

    /// Tells how many of these are still to come.
    pub(crate) fn flips_left(&self) -> usize {
        self.shared.flips.load(Ordering::Relaxed)
    }

    /// Tells who asks where packs of project p lie that another server has them.
    pub(crate) fn tell_of(&self, other: SocketAddr) {
        let asked_for_places = |asked: &Asked| asked.target.ends_with("/places");
        *self.shared.plan.lock().unwrap() =
            Box::new(move |asked, _| asked_for_places(asked).then_some(Misdeed::Places(other)));
    }

    /// Returns the requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }
}

/// Passes requests and answers on until the connection ends.
async fn pass(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut read = Vec::new();
    loop {
        let Some((asked, mut body)) = request(&mut stream, &mut read).await? else { return Ok(()) };
        let less = |left: usize| left.checked_sub(1);
        if asked.header(SEAL_HEADER).is_some()
            && shared.flips.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
        {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        shared.asked.lock().unwrap().push(asked.clone());
        let mut upstream = Wire::connect(shared.upstream).await?;
        let kept = |name: &str| !["connection", "content-length"].contains(&name.to_lowercase().as_str());
        let headers = asked.headers.iter().filter(|(name, _)| kept(name));
        let headers: Vec<(&str, &str)> = headers.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        upstream.request(&asked.method, &asked.target, &headers, &body).await?;
        let Some(mut answer) = upstream.answer(&asked.method).await? else { return Ok(()) };
        let misdeed = (shared.plan.lock().unwrap())(&asked, &answer);
        if let Some(Misdeed::Places(other)) = misdeed {
            answer.body = places(other, &body);
            let seal = Digest::of(&answer.body).to_string();
            answer.headers.iter_mut().filter(|(name, _)| name == SEAL_HEADER).for_each(|(_, was)| seal.clone_into(was));
        }
        if !reply(&mut stream, answer, misdeed, asked.method == "HEAD").await? {
            return Ok(());
        }
    }
}

/// What a service answers that lets its clients read at `other`.
fn places(other: SocketAddr, asked: &[u8]) -> Vec<u8> {
    let asked: ExistsRequest = serde_json::from_slice(asked).unwrap();
    let url = |object| DirectPlace::Url(format!("http://{other}/v1/projects/p/packs/{object}?signature=x"));
    let places = asked.objects.iter().map(|object| Some(url(object))).collect();
    serde_json::to_vec(&PlacesAnswer { direct: true, places, valid_ms: 60_000 }).unwrap()
}

/// Reads a request; nothing where the connection ended.
async fn request(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Option<(Asked, Vec<u8>)>> {
    let end = loop {
        if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8(read.drain(..end).collect()).map_err(io::Error::other)?;
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let mut word = || first.next().unwrap_or_default().to_owned();
    let (method, target) = (word(), word());
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
    let asked = Asked { method, target, headers };
    let len = asked.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0usize);
    while read.len() < len {
        if stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some((asked, read.drain(..len).collect())))
}

/// Sends an answer, spoiled or not; tells whether the connection goes on.
async fn reply(stream: &mut TcpStream, mut answer: Answer, misdeed: Option<Misdeed>, bare: bool) -> io::Result<bool> {
    let mut length = answer.body.len();
    let mut sent = length;
    match misdeed {
        Some(Misdeed::Reset(at) | Misdeed::Close(at) | Misdeed::Stall(at)) => sent = at.min(length),
        Some(Misdeed::Longer(by)) => length += by,
        Some(Misdeed::Shorter(by)) => (length, sent) = (length - by, length - by),
        Some(Misdeed::Flip(at)) => answer.body[at.min(sent - 1)] ^= 1,
        Some(Misdeed::OtherRange) => replace(&mut answer, |range| {
            let (start, rest) = range.strip_prefix("bytes ")?.split_once('-')?;
            let (end, len) = rest.split_once('/')?;
            let next = |text: &str| Some(text.parse::<u64>().ok()? + 1);
            Some(format!("bytes {}-{}/{len}", next(start)?, next(end)?))
        }),
        Some(Misdeed::NoRange) => {
            answer.status = 200;
            replace(&mut answer, |_| None);
        }
        Some(Misdeed::Silence) => {
            std::future::pending::<()>().await;
        }
        Some(Misdeed::Slow(_) | Misdeed::Drip(_) | Misdeed::Places(_)) | None => {}
    }
    let mut head = format!("HTTP/1.1 {} Spoiled\r\n", answer.status);
    let framing = ["content-length", "transfer-encoding", "connection"];
    for (name, value) in answer.headers.iter().filter(|(name, _)| bare || !framing.contains(&name.as_str())) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !bare {
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    if bare {
        return Ok(true);
    }
    let piece_bytes = if let Some(Misdeed::Drip(_)) = misdeed { 1 } else { DATA };
    for piece in answer.body[..sent].chunks(piece_bytes) {
        stream.write_all(piece).await?;
        if let Some(Misdeed::Slow(pause) | Misdeed::Drip(pause)) = misdeed {
            tokio::time::sleep(pause).await;
        }
    }
    match misdeed {
        Some(Misdeed::Stall(_)) => std::future::pending().await,
        Some(Misdeed::Reset(_)) => {
            // What was sent arrives first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream.set_zero_linger()?;
            Ok(false)
        }
        Some(Misdeed::Close(_) | Misdeed::Longer(_)) => Ok(false),
        _ => Ok(true),
    }
}

/// Changes `Content-Range`, or takes it away.
fn replace(answer: &mut Answer, change: impl Fn(&str) -> Option<String>) {
    answer.headers = std::mem::take(&mut answer.headers)
        .into_iter()
        .filter_map(|(name, value)| match name.as_str() {
            "content-range" => Some((name, change(&value)?)),
            _ => Some((name, value)),
        })
        .collect();
}
