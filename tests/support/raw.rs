//! HTTP by hand: requests of any shape, well formed or not, and what came back, to the byte.
//!
//! Must never correct what a test wants to send: no escaping, no header that was not given.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than any answer may take that a test waits for; a service that hangs fails the test.
const PATIENCE: Duration = Duration::from_secs(40);

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers; names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body, out of its chunks.
    pub body: Vec<u8>,
    /// The body came to its end.
    pub whole: bool,
}

impl Answer {
    /// Returns a header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Returns the body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Returns the code of a refusal.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// A connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::new() })
    }

    /// Takes a connection that was made with options of its own.
    pub fn over(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        within(PATIENCE, self.stream.write_all(bytes)).await
    }

    /// Sends a request with the headers given, and a `Content-Length` where there is a body and no other.
    pub async fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        self.send(&head(method, target, headers, body.len())).await?;
        self.send(body).await
    }

    /// Reads an answer; `None` where the service closed the connection instead.
    pub async fn answer(&mut self, to: &str) -> io::Result<Option<Answer>> {
        within(PATIENCE, self.read_answer(to)).await
    }

    /// Reads until the service closes; returns what came. An error where it does not within `time`.
    pub async fn closed_within(&mut self, time: Duration) -> io::Result<Vec<u8>> {
        let reading = async {
            loop {
                match self.more().await {
                    Ok(0) => return Ok(std::mem::take(&mut self.read)),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                        return Ok(std::mem::take(&mut self.read));
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        within(time, reading).await
    }

    async fn more(&mut self) -> io::Result<usize> {
        self.stream.read_buf(&mut self.read).await
    }

    async fn read_answer(&mut self, to: &str) -> io::Result<Option<Answer>> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if self.more().await? == 0 {
                return if self.read.is_empty() { Ok(None) } else { Err(broken("the head broke off")) };
            }
        };
        let head: Vec<u8> = self.read.drain(..end).collect();
        let mut answer = parse(&head).ok_or_else(|| broken("not an answer"))?;
        let bodyless = to == "HEAD" || answer.status < 200 || matches!(answer.status, 204 | 304);
        if bodyless {
            return Ok(Some(answer));
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.whole = self.chunks(&mut answer.body).await?;
        } else if let Some(length) = answer.header("content-length").and_then(|text| text.parse::<usize>().ok()) {
            answer.whole = self.until(length).await?;
            let length = length.min(self.read.len());
            answer.body = self.read.drain(..length).collect();
        } else {
            while self.more().await? > 0 {}
            answer.body = std::mem::take(&mut self.read);
        }
        Ok(Some(answer))
    }

    /// Reads until there are `length` bytes; tells whether they came.
    async fn until(&mut self, length: usize) -> io::Result<bool> {
        while self.read.len() < length {
            if self.more().await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let end = loop {
                if let Some(at) = self.read.windows(2).position(|window| window == b"\r\n") {
                    break at;
                }
                if self.more().await? == 0 {
                    return Ok(false);
                }
            };
            let size =
                std::str::from_utf8(&self.read[..end]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
            let size = size.ok_or_else(|| broken("not a chunk"))?;
            if !self.until(end + 2 + size + 2).await? {
                return Ok(false);
            }
            let chunk: Vec<u8> = self.read.drain(..end + 2 + size + 2).collect();
            body.extend_from_slice(&chunk[end + 2..end + 2 + size]);
            if size == 0 {
                return Ok(true);
            }
        }
    }
}

/// Makes one request on a connection of its own, which the service closes after it.
pub async fn ask(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    let mut wire = Wire::connect(address).await?;
    let all: Vec<(&str, &str)> = headers.iter().copied().chain([("Connection", "close")]).collect();
    // What was refused before it was read may break the sending; the answer is what counts.
    let sent = wire.request(method, target, &all, body).await;
    match wire.answer(method).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(sent.err().unwrap_or_else(|| broken("closed without an answer"))),
        Err(error) => Err(error),
    }
}

/// Returns the head of a request.
pub fn head(method: &str, target: &str, headers: &[(&str, &str)], body: usize) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let length = |name: &str| ["content-length", "transfer-encoding"].contains(&name.to_lowercase().as_str());
    if (body > 0 || matches!(method, "PUT" | "POST")) && !headers.iter().any(|(name, _)| length(name)) {
        text.push_str(&format!("Content-Length: {body}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

fn parse(head: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
    Some(Answer { status, headers, body: Vec::new(), whole: true })
}

async fn within<T>(time: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(time, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, what.to_owned())
}
