//! Where a service lets its clients read past it: places of objects, asked for once each, for as long as they are good.
//!
//! Must never ask a service again that has said it tells none, nor wait for each read anew at a place that gives
//! nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gigastore_formats::ambient::Ambient;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::wire::{DirectPlace, Fault, PlacesAnswer};
use tokio::sync::OnceCell;

/// Places that are kept: 10,000 of some 500 bytes, packs of 640 GB.
const KEPT: usize = 10_000;

/// How long places are passed over after one that gave nothing: as long as a call is patient.
const CLOSED: Duration = Duration::from_secs(60);

type Object = (ProjectName, ObjectKind, Stored);

/// What is known of places.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// The service tells none.
    none: AtomicBool,
    /// Until when places are passed over, in milliseconds of the ambient's clock.
    closed_until_ms: AtomicU64,
    kept: Mutex<HashMap<Object, Kept>>,
}

#[derive(Clone, Debug)]
struct Kept {
    asked: Duration,
    place: Arc<OnceCell<(Option<DirectPlace>, Duration)>>,
}

impl Places {
    /// Returns the place of an object; `ask` asks the service for it.
    pub(super) async fn of<F>(
        &self,
        object: Object,
        ambient: &dyn Ambient,
        ask: impl FnOnce() -> F,
    ) -> Option<DirectPlace>
    where
        F: Future<Output = Result<PlacesAnswer, Fault>>,
    {
        let now = ambient.monotonic();
        let closed = (now.as_millis() as u64) < self.closed_until_ms.load(Ordering::Relaxed);
        if closed || self.none.load(Ordering::Relaxed) {
            return None;
        }
        let kept = self.entry(object, now);
        let asked = kept.place.get_or_init(|| async {
            // A service that can't tell (an older one has no such route) is read from in the ordinary way.
            let answer = ask().await.unwrap_or_default();
            if !answer.direct {
                self.none.store(true, Ordering::Relaxed);
            }
            let valid = Duration::from_millis(answer.valid_ms);
            (answer.places.into_iter().next().flatten(), valid)
        });
        asked.await.0.clone()
    }

    /// Passes places over for a while: one gave nothing, and the service has the same bytes at once.
    pub(super) fn close(&self, now: Duration) {
        self.closed_until_ms.store((now + CLOSED).as_millis() as u64, Ordering::Relaxed);
    }

    /// Finds what is known of an object. What was asked for half of its time ago is asked for again: a read takes time.
    fn entry(&self, object: Object, now: Duration) -> Kept {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let old = |one: &Kept| one.place.get().is_some_and(|(_, valid)| now.saturating_sub(one.asked) > *valid / 2);
        if let Some(one) = kept.get(&object).filter(|one| !old(one)) {
            return one.clone();
        }
        if kept.len() >= KEPT {
            kept.clear();
        }
        let one = Kept { asked: now, place: Arc::default() };
        kept.insert(object, one.clone());
        one
    }
}
