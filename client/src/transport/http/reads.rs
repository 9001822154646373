//! Ranges of objects: as straight to where they belong as the way allows, from where a break left off. Over plain HTTP
//! that is without a copy of ours; over TLS or through a proxy bytes come to a buffer first.
//!
//! Must never take an answer of other bytes than asked for.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::stream::StreamExt;
use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::{Fault, FaultCode};
use reqwest::{Response, StatusCode, Url, header};

use super::pace::Pace;
use super::pause::{Failed, Pause};
use super::remote::{Call, IDLE, Remote, broken, network, slow, stalled};
use super::socket::{Get, Patience};
use crate::transport::{Held, Taker};

/// Bytes of a try that was too slow which count as progress all the same: a link that brings them is there.
const USEFUL_BYTES: u64 = 16 << 10;

impl Remote {
    /// Passes the bytes of an object that `taker` wants to it: from a plain socket to where they belong, as far as that
    /// goes, and what is left then through memory.
    pub(super) async fn pass(&self, path: &str, taker: Arc<dyn Taker>, afresh: bool) -> Result<(), Fault> {
        if let Some(get) = self.plain_get(path, taker.rest(), afresh) {
            let patience = Patience { stall: self.deadlines.stall, idle: IDLE };
            let (before, at) = (taker.rest(), self.endpoint().0);
            self.sockets.pass(get, Arc::clone(&taker), &*self.ambient, patience).await;
            if taker.rest() == before {
                self.leave(at);
            }
        }
        let rest = taker.rest();
        if rest.is_empty() {
            self.earn();
            return Ok(());
        }
        let bytes = self.range(path, rest, afresh).await?;
        self.ambient.computed(move || taker.take(&mut Held::new(rest.start(), [bytes]))).await
    }

    /// Passes what `taker` wants to it from a signed URL of another server, which gets no token of ours. One try: what
    /// does not come is left.
    pub(super) async fn pass_signed(&self, url: &str, taker: &Arc<dyn Taker>) {
        let (Ok(url), rest) = (Url::parse(url), taker.rest()) else { return };
        if rest.is_empty() {
            return;
        }
        if url.scheme() == "http" && self.plain {
            let get = Get { url, token: None, range: rest, afresh: false };
            let patience = Patience { stall: self.deadlines.stall, idle: IDLE };
            return self.sockets.pass(get, Arc::clone(taker), &*self.ambient, patience).await;
        }
        let range = format!("bytes={}-{}", rest.start(), rest.end() - 1);
        let Ok(mut buffer) = self.buffers.take(rest.len() as usize) else { return };
        let mut filled = 0;
        let asked = self.client.get(url).header(header::RANGE, range).send();
        let Ok(Ok(response)) = tokio::time::timeout(self.deadlines.stall, asked).await else { return };
        if self.fill(response, rest, buffer.as_mut(), &mut filled).await.is_ok() {
            let (bytes, taker) = (buffer.freeze(), Arc::clone(taker));
            // What these bytes do not give, the service is asked for.
            let _ = self.ambient.computed(move || taker.take(&mut Held::new(rest.start(), [bytes]))).await;
        }
    }

    /// Returns the request for a range that needs no HTTP library, where the endpoint is reached without TLS or proxy.
    fn plain_get(&self, path: &str, range: ByteRange, afresh: bool) -> Option<Get> {
        if range.is_empty() {
            return None;
        }
        let url = self.endpoint().1.join(path).ok().filter(|url| self.plain && url.scheme() == "http")?;
        Some(Get { url, token: self.token.clone(), range, afresh })
    }

    /// Reads exactly `range` of an object. What came before a break is kept, and only the rest is asked for again.
    pub(super) async fn range(&self, path: &str, range: ByteRange, afresh: bool) -> Result<Bytes, Fault> {
        let no_memory = |error| Fault::new(FaultCode::Unavailable, &error);
        let mut buffer = self.buffers.take(range.len() as usize).map_err(no_memory)?;
        let mut pause = Pause::new(self);
        let mut filled = 0;
        loop {
            let start = range.start() + filled;
            let rest = ByteRange::new(start, range.end()).map_err(|error| Fault::new(FaultCode::Invalid, &error))?;
            if rest.is_empty() {
                return Ok(buffer.freeze());
            }
            let (before, at) = (filled, self.endpoint().0);
            let call = Call { range: Some(rest), afresh, ..Call::get(path) };
            let into = &mut buffer.as_mut()[filled as usize..];
            let failed = match self.send(&call).await {
                Ok(response) => match self.fill(response, rest, into, &mut filled).await {
                    Ok(()) => {
                        self.earn();
                        continue;
                    }
                    Err(failed) => failed,
                },
                Err(failed) => failed,
            };
            let least = if failed.slow { USEFUL_BYTES } else { 1 };
            let moved = (filled - before >= least).then(|| self.ambient.monotonic());
            if failed.retry {
                self.leave(at);
            }
            pause.after(Failed { moved: moved.or(failed.moved), ..failed }).await?;
        }
    }

    async fn fill(
        &self,
        response: Response,
        rest: ByteRange,
        mut into: &mut [u8],
        filled: &mut u64,
    ) -> Result<(), Failed> {
        let expected = format!("bytes {}-{}/", rest.start(), rest.end() - 1);
        let actual = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        if response.status() != StatusCode::PARTIAL_CONTENT || !actual.is_some_and(|text| text.starts_with(&expected)) {
            return Err(shorter(rest, response.status(), actual));
        }
        let (mut pieces, stall) = (response.bytes_stream(), self.deadlines.stall);
        let mut pace = Pace::new(stall);
        while !into.is_empty() {
            let began = Instant::now();
            let next = tokio::time::timeout(stall, pieces.next()).await.map_err(|_| stalled(stall))?;
            let piece = next.ok_or_else(|| broken("the answer ended early"))?;
            let piece = piece.map_err(|error| Failed::passing(network(&error)))?;
            let take = piece.len().min(into.len());
            let (now, later) = into.split_at_mut(take);
            now.copy_from_slice(&piece[..take]);
            into = later;
            *filled += take as u64;
            let holds = pace.holds(take, began.elapsed());
            if !into.is_empty() && !holds {
                return Err(slow(stall));
            }
        }
        Ok(())
    }
}

/// An answer of other bytes than asked for: the object ends before them, or this is no Gigastore service.
fn shorter(rest: ByteRange, status: StatusCode, actual: Option<&str>) -> Failed {
    let text = format!("asked for {rest}, the service answered {status} with {}", actual.unwrap_or("no range"));
    Failed::final_with(Fault::of(FaultCode::Integrity, text))
}
