//! A connection whose client must read: what is sent goes out at a pace, or the connection ends.
//!
//! Must never hold time against a client in which there was nothing to send.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Bytes that a client reads in the time it is given: the pace that bodies come in at, 35 kB/s by default.
const PACE_BYTES: usize = 1 << 20;

/// A stream that fails once its peer has let writes wait for `time` without having taken [`PACE_BYTES`] meanwhile. A
/// byte now and then does not give it more time: who trickles would hold the memory of an answer for as long as it
/// likes.
#[derive(Debug)]
pub(crate) struct Paced<S> {
    stream: Pin<Box<S>>,
    time: Duration,
    /// What is left of the time, and of the bytes.
    left: Duration,
    bytes: usize,
    /// Since when a write waits, and when it is given up.
    waits: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, time: Duration) -> Self {
        Self { stream: Box::pin(stream), time, left: time, bytes: PACE_BYTES, waits: None }
    }

    /// Counts what a write came to.
    fn wrote(&mut self, wrote: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Poll::Ready(wrote) = wrote else {
            let left = self.left;
            let (_, end) = self.waits.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
            ready!(end.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        };
        if let Some((since, _)) = self.waits.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        self.bytes = self.bytes.saturating_sub(*wrote.as_ref().unwrap_or(&0));
        if self.bytes == 0 {
            (self.left, self.bytes) = (self.time, PACE_BYTES);
        }
        Poll::Ready(wrote)
    }
}

impl<S: AsyncWrite> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = self.stream.as_mut().poll_write(context, bytes);
        self.wrote(wrote, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = self.stream.as_mut().poll_write_vectored(context, bytes);
        self.wrote(wrote, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.stream.as_mut().poll_flush(context);
        self.wrote(flushed.map_ok(|()| 0), context).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = self.stream.as_mut().poll_shutdown(context);
        self.wrote(shut.map_ok(|()| 0), context).map_ok(|_| ())
    }
}

impl<S: AsyncRead> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(context, bytes)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const TIME: Duration = Duration::from_millis(400);

    #[tokio::test]
    async fn who_trickles_is_cut_off_and_who_keeps_the_pace_is_not() {
        for (each, whole) in [(1, false), (64 << 10, true)] {
            let (here, mut there) = tokio::io::duplex(16 << 10);
            let sending = tokio::spawn(async move {
                let mut paced = Paced::new(here, TIME);
                paced.write_all(&vec![7; 4 << 20]).await
            });
            let mut bytes = vec![0; each];
            while !sending.is_finished() && there.read(&mut bytes).await.unwrap() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let sent = sending.await.unwrap();
            assert_eq!(sent.is_ok(), whole, "{each} bytes at a time: {sent:?}");
        }
    }

    #[tokio::test]
    async fn time_in_which_nothing_is_sent_does_not_count() {
        let (here, mut there) = tokio::io::duplex(16 << 10);
        let mut paced = Paced::new(here, TIME);
        for _ in 0..3 {
            paced.write_all(&[7; 1000]).await.unwrap();
            tokio::time::sleep(TIME).await;
        }
        let mut bytes = [0; 3000];
        there.read_exact(&mut bytes).await.unwrap();
        paced.write_all(&[7; 16 << 10]).await.unwrap();
        let late = tokio::time::timeout(2 * TIME, paced.write_all(&[7])).await;
        assert_eq!(late.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
