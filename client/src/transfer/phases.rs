//! What the phases of one rank's save take, written down as they pass: for the timeline that its part tells.
//!
//! Must never slow the work: two looks at a clock and one lock for a pack, not for a slice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gigastore_formats::ambient::Ambient;
use gigastore_formats::timeline::{Phase, RankTimeline, Span};

/// The phases of one rank. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Phases {
    ambient: Arc<dyn Ambient>,
    began_ms: u64,
    began: Duration,
    spans: Arc<Mutex<BTreeMap<Phase, Span>>>,
}

impl Phases {
    /// Begins: times are counted from now on.
    pub(crate) fn begin(ambient: &Arc<dyn Ambient>) -> Self {
        let (began_ms, began) = (ambient.wall_ms(), ambient.monotonic());
        Self { ambient: Arc::clone(ambient), began_ms, began, spans: Arc::default() }
    }

    /// Does a piece of `work` on `bytes`, and writes down when.
    pub(crate) async fn timed<T>(&self, phase: Phase, bytes: u64, work: impl Future<Output = T>) -> T {
        let begin = self.ambient.monotonic();
        let done = work.await;
        self.took(phase, bytes, begin);
        done
    }

    /// Writes down a piece of work on `bytes` that began at `begin` of the ambient's clock and ended now.
    pub(crate) fn took(&self, phase: Phase, bytes: u64, begin: Duration) {
        let (begin, end) = (micros(begin.saturating_sub(self.began)), self.elapsed_us());
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = Span { phase, begin_us: begin, wall_us: 0, busy_us: 0, bytes: 0, count: 0, retries: None };
        let span = spans.entry(phase).or_insert(empty);
        let last = span.end_us().max(end);
        span.begin_us = span.begin_us.min(begin);
        span.wall_us = last - span.begin_us;
        span.busy_us += end.saturating_sub(begin);
        span.bytes += bytes;
        span.count += 1;
    }

    /// Ends: returns what was written down, and the total of `bytes`. `retries` are those of the whole process since
    /// this began, where they are known.
    pub(crate) fn end(&self, bytes: u64, retries: Option<u64>) -> RankTimeline {
        let all = self.elapsed_us();
        let total = Span { phase: Phase::Total, begin_us: 0, wall_us: all, busy_us: all, bytes, count: 1, retries };
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        RankTimeline { began_ms: self.began_ms, spans: std::iter::once(total).chain(spans.values().copied()).collect() }
    }

    fn elapsed_us(&self) -> u64 {
        micros(self.ambient.monotonic().saturating_sub(self.began))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ambient::SystemAmbient;

    #[tokio::test]
    async fn work_at_the_same_time_is_one_span_and_more_than_it_busy() {
        let ambient = SystemAmbient::shared();
        let phases = Phases::begin(&ambient);
        let piece = || phases.timed(Phase::Upload, 10, ambient.sleep(Duration::from_millis(50)));
        tokio::join!(piece(), piece(), piece());
        phases.took(Phase::Stage, 7, Duration::ZERO);
        let RankTimeline { spans, .. } = phases.end(37, Some(2));
        let [total, stage, upload] = spans[..] else { panic!("{spans:?}") };
        assert_eq!((total.phase, total.bytes, total.retries), (Phase::Total, 37, Some(2)));
        assert_eq!((stage.phase, stage.begin_us, stage.bytes), (Phase::Stage, 0, 7), "no time is before the beginning");
        assert_eq!((upload.phase, upload.bytes, upload.count), (Phase::Upload, 30, 3));
        assert!(upload.wall_us >= 50_000 && upload.busy_us >= 150_000, "{upload:?}");
        assert!(upload.busy_us > upload.wall_us && total.wall_us >= upload.end_us(), "{spans:?}");
    }
}
