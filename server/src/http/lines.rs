//! Answers that come line by line while work goes on: how far it is, then the report or a fault. An answer that is
//! under way for an hour is not cut off as idle.
//!
//! Must never send a line after the last.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use futures::channel::mpsc;
use futures::stream::{BoxStream, StreamExt};
use gigastore_formats::wire::{Fault, ScrubLine, VerifyLine, VerifyProgress};
use serde::Serialize;

use super::router::Shared;
use crate::admission::Admitted;

/// Lines that wait for a slow reader.
const LINES_WAITING: usize = 16;

/// Pause between two lines where there is no progress: well below the time that a client waits.
const BEAT_EVERY: Duration = Duration::from_secs(5);

/// Pause between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// A line of such an answer.
pub(super) trait Line: Serialize + Send + 'static {
    fn progress(now: VerifyProgress) -> Self;
    fn fault(fault: Fault) -> Self;
    fn is_last(&self) -> bool;
}

impl Line for VerifyLine {
    fn progress(now: VerifyProgress) -> Self {
        Self::Progress(now)
    }

    fn fault(fault: Fault) -> Self {
        Self::Fault(fault)
    }

    fn is_last(&self) -> bool {
        !matches!(self, Self::Progress(_))
    }
}

impl Line for ScrubLine {
    fn progress(now: VerifyProgress) -> Self {
        Self::Progress(now)
    }

    fn fault(fault: Fault) -> Self {
        Self::Fault(fault)
    }

    fn is_last(&self) -> bool {
        !matches!(self, Self::Progress(_))
    }
}

/// Takes progress as it comes.
pub(super) type Tell = Arc<dyn Fn(VerifyProgress) + Send + Sync>;

/// When a line was last sent, and how far the work is.
type Told = Arc<Mutex<(Option<Duration>, VerifyProgress)>>;

/// Answers with the lines of `work`, whose last one it returns. It is polled with the answer, and ends with it when the
/// client goes away; `admitted` is held as long.
pub(super) fn answer<L: Line, W: Future<Output = Result<L, Fault>> + Send + 'static>(
    shared: &Shared,
    admitted: Admitted,
    work: impl FnOnce(Tell) -> W,
) -> Response<Body> {
    let (lines, given) = mpsc::channel::<L>(LINES_WAITING);
    let told = Told::default();
    let tell: Tell = {
        let (told, lines, shared) = (Arc::clone(&told), Mutex::new(lines.clone()), Arc::clone(shared));
        Arc::new(move |now| {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            let moment = shared.ambient.monotonic();
            told.1 = now;
            if told.0.is_none_or(|last| moment.saturating_sub(last) >= PROGRESS_EVERY) {
                told.0 = Some(moment);
                // A reader that is behind misses a line of progress, not the report.
                let _ = lines.lock().unwrap_or_else(PoisonError::into_inner).try_send(L::progress(now));
            }
        })
    };
    let beats = beats::<L>(Arc::clone(shared), Arc::clone(&told));
    let work = work(tell);
    let work = async move {
        let _admitted = admitted;
        let last = work.await.unwrap_or_else(L::fault);
        let done = told.lock().unwrap_or_else(PoisonError::into_inner).1;
        let mut lines = lines;
        for line in [L::progress(done), last] {
            // A reader that is gone needs no report.
            let _ = futures::SinkExt::send(&mut lines, line).await;
        }
    };
    let done = futures::stream::once(work).filter_map(|()| std::future::ready(None::<L>));
    let lines = futures::stream::select(futures::stream::select(given, done).boxed(), beats);
    let lines = futures::stream::unfold((lines, false), |(mut lines, ended)| async move {
        let line = if ended { None } else { lines.next().await }?;
        let last = line.is_last();
        Some((line, (lines, last)))
    });
    let lines = lines.map(|line| {
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        Ok::<_, serde_json::Error>(bytes)
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

/// Says again and again how far the work is, so that a client knows that it goes on where nothing changes: the log and
/// the manifests are read before the first object is.
fn beats<L: Line>(shared: Shared, told: Told) -> BoxStream<'static, L> {
    let beats = futures::stream::unfold((shared, told), |(shared, told)| async move {
        shared.ambient.sleep(BEAT_EVERY).await;
        let now = told.lock().unwrap_or_else(PoisonError::into_inner).1;
        Some((L::progress(now), (shared, told)))
    });
    beats.boxed()
}
