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
use gigastore_formats::wire::{Fault, Line};
use serde::Serialize;

use super::router::Shared;
use crate::admission::Admitted;

/// Lines that wait for a slow reader.
const LINES_WAITING: usize = 16;

/// Pause between two lines where there is no progress: well below the time that a client waits.
const BEAT_EVERY: Duration = Duration::from_secs(5);

/// Pause between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Takes progress as it comes.
pub(super) type Tell<P> = Arc<dyn Fn(P) + Send + Sync>;

/// When a line was last sent, and how far the work is.
type Told<P> = Arc<Mutex<(Option<Duration>, P)>>;

/// Answers with the lines of `work`, which returns what the last one reports. It is polled with the answer, and ends
/// with it when the client goes away; `admitted` is held as long.
pub(super) fn answer<R, P, W>(shared: &Shared, admitted: Admitted, work: impl FnOnce(Tell<P>) -> W) -> Response<Body>
where
    R: Serialize + Send + 'static,
    P: Serialize + Copy + Default + Send + 'static,
    W: Future<Output = Result<R, Fault>> + Send + 'static,
{
    let (lines, given) = mpsc::channel::<Line<R, P>>(LINES_WAITING);
    let told = Told::default();
    let tell: Tell<P> = {
        let (told, lines, shared) = (Arc::clone(&told), Mutex::new(lines.clone()), Arc::clone(shared));
        Arc::new(move |now| {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            let moment = shared.ambient.monotonic();
            told.1 = now;
            if told.0.is_none_or(|last| moment.saturating_sub(last) >= PROGRESS_EVERY) {
                told.0 = Some(moment);
                // A reader that is behind misses a line of progress, not the report.
                let _ = lines.lock().unwrap_or_else(PoisonError::into_inner).try_send(Line::Progress(now));
            }
        })
    };
    let beats = beats(Arc::clone(shared), Arc::clone(&told));
    let work = work(tell);
    let work = async move {
        let _admitted = admitted;
        let last = work.await.map_or_else(Line::Fault, Line::Report);
        let done = told.lock().unwrap_or_else(PoisonError::into_inner).1;
        let mut lines = lines;
        for line in [Line::Progress(done), last] {
            // A reader that is gone needs no report.
            let _ = futures::SinkExt::send(&mut lines, line).await;
        }
    };
    let done = futures::stream::once(work).filter_map(|()| std::future::ready(None));
    let lines = futures::stream::select(futures::stream::select(given, done).boxed(), beats);
    let lines = futures::stream::unfold((lines, false), |(mut lines, ended)| async move {
        let line = if ended { None } else { lines.next().await }?;
        let last = !matches!(line, Line::Progress(_));
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
fn beats<R, P>(shared: Shared, told: Told<P>) -> BoxStream<'static, Line<R, P>>
where
    R: Send + 'static,
    P: Copy + Send + 'static,
{
    let beats = futures::stream::unfold((shared, told), |(shared, told)| async move {
        shared.ambient.sleep(BEAT_EVERY).await;
        let now = told.lock().unwrap_or_else(PoisonError::into_inner).1;
        Some((Line::Progress(now), (shared, told)))
    });
    beats.boxed()
}
