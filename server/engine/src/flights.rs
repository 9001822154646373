//! Operations that many ask for and one does: it runs by itself, so that it goes on when who asked goes away, and
//! whoever asks again meanwhile gets the same answer.
//!
//! Must never keep an answer after it was given: who asks later finds it in the log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures::channel::oneshot;
use futures::future::{FutureExt, Shared};
use gigastore_formats::ambient::Ambient;
use gigastore_formats::record::TxnId;

type Flight<T> = Shared<oneshot::Receiver<T>>;

/// Operations under way, by what names them. Clones share them.
#[derive(Clone)]
pub(crate) struct Flights<T> {
    under_way: Arc<Mutex<BTreeMap<TxnId, Flight<T>>>>,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self { under_way: Arc::default() }
    }
}

impl<T> fmt::Debug for Flights<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flights")
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// Returns what the operation `key` comes to; starts `work` where it is not under way.
    ///
    /// # Panics
    /// Where `work` panics: the panic is the caller's then.
    pub(crate) async fn join(
        &self,
        ambient: &dyn Ambient,
        key: TxnId,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let flight = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            match under_way.get(&key) {
                Some(flight) => flight.clone(),
                None => {
                    let (sender, receiver) = oneshot::channel();
                    let flight = receiver.shared();
                    under_way.insert(key, flight.clone());
                    let landing = Landing { flights: self.clone(), key };
                    ambient.spawn(Box::pin(async move {
                        let done = work.await;
                        drop(landing);
                        // Nobody waits for it any more: what it did is in the log.
                        let _ = sender.send(done);
                    }));
                    flight
                }
            }
        };
        flight.await.expect("an operation panicked; its message stands above")
    }
}

/// Takes an operation off the list when it ends, in whatever way.
struct Landing<T> {
    flights: Flights<T>,
    key: TxnId,
}

impl<T> Drop for Landing<T> {
    fn drop(&mut self) {
        self.flights.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use gigastore_formats::ambient::{Job, Task};

    use super::*;

    #[derive(Debug)]
    struct Tokio;

    impl Ambient for Tokio {
        fn wall_ms(&self) -> u64 {
            0
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }

        fn random(&self) -> u64 {
            0
        }

        fn sleep(&self, time: Duration) -> Task<()> {
            Box::pin(tokio::time::sleep(time))
        }

        fn spawn(&self, task: Task<()>) {
            tokio::spawn(task);
        }

        fn compute(&self, job: Job) {
            job();
        }
    }

    #[tokio::test]
    async fn one_does_what_many_ask_for_and_goes_on_without_them() {
        let (flights, done) = (Flights::<u64>::default(), Arc::new(AtomicU64::new(0)));
        let key = TxnId::derive(&[b"key"]);
        let ask = || {
            let done = Arc::clone(&done);
            flights.join(&Tokio, key, async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                done.fetch_add(1, Ordering::SeqCst) + 1
            })
        };
        let gave_up = tokio::time::timeout(Duration::from_millis(5), ask()).await;
        assert!(gave_up.is_err());
        let answers = futures::future::join_all((0..20).map(|_| ask())).await;
        assert_eq!(answers, [1; 20], "those who came later joined what was under way");
        assert_eq!(ask().await, 2, "what has ended is not kept");
        assert!(flights.under_way.lock().unwrap().is_empty());
    }
}
