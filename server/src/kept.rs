//! Values that are kept within a number of bytes: each read once, however many ask for it at the same time.
//!
//! Must never hold a lock while a value is read, nor keep one that could not be read.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gigastore_formats::wire::Fault;
use tokio::sync::OnceCell;

/// Values by their keys, those that were used last.
#[derive(Debug)]
pub(crate) struct Kept<K: Key, V: Clone> {
    capacity: u64,
    entries: Mutex<Entries<K, V>>,
}

/// What names a value.
pub(crate) trait Key: Clone + Eq + Hash {}

impl<K: Clone + Eq + Hash> Key for K {}

#[derive(Debug)]
struct Entries<K, V> {
    entries: HashMap<K, Entry<V>>,
    uses: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Entry<V> {
    cell: Arc<OnceCell<V>>,
    /// Counted once it has been read.
    bytes: u64,
    used: u64,
    /// How many wait for it, or have just got it.
    asking: usize,
}

impl<K: Key, V: Clone> Kept<K, V> {
    pub(crate) fn new(capacity: u64) -> Self {
        Self { capacity, entries: Mutex::new(Entries { entries: HashMap::new(), uses: 0, bytes: 0 }) }
    }

    /// Returns what is kept, is being read by somebody else, or is read now, with the bytes that it takes; tells
    /// whether it was read now.
    pub(crate) async fn get<F>(&self, key: K, read: impl FnOnce() -> F) -> Result<(V, bool), Fault>
    where
        F: Future<Output = Result<(u64, V), Fault>>,
    {
        let cell = self.lock().cell(&key);
        let asking = Asking { kept: self, key, cell };
        let mut bytes = None;
        let init = || async {
            let (size, value) = read().await?;
            bytes = Some(size);
            Ok::<_, Fault>(value)
        };
        let value = asking.cell.get_or_try_init(init).await?.clone();
        if let Some(bytes) = bytes {
            self.lock().complete(&asking.key, &asking.cell, bytes, self.capacity);
        }
        Ok((value, bytes.is_some()))
    }

    fn lock(&self) -> MutexGuard<'_, Entries<K, V>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for a value. The last one to go takes away what was never read: reading failed, or all who waited
/// were cut off.
struct Asking<'a, K: Key, V: Clone> {
    kept: &'a Kept<K, V>,
    key: K,
    cell: Arc<OnceCell<V>>,
}

impl<K: Key, V: Clone> Drop for Asking<'_, K, V> {
    fn drop(&mut self) {
        let mut kept = self.kept.lock();
        let Some(entry) = kept.entries.get_mut(&self.key).filter(|entry| Arc::ptr_eq(&entry.cell, &self.cell)) else {
            return;
        };
        entry.asking -= 1;
        if entry.asking == 0 && entry.cell.get().is_none() {
            kept.entries.remove(&self.key);
        }
    }
}

impl<K: Key, V> Entries<K, V> {
    /// Finds the cell of a value, or makes an empty one, for one more who asks.
    fn cell(&mut self, key: &K) -> Arc<OnceCell<V>> {
        self.uses += 1;
        let new = || Entry { cell: Arc::default(), bytes: 0, used: 0, asking: 0 };
        let entry = self.entries.entry(key.clone()).or_insert_with(new);
        entry.used = self.uses;
        entry.asking += 1;
        Arc::clone(&entry.cell)
    }

    /// Counts a value that has been read, and lets the longest unused go until all fit. One that does not fit by itself
    /// goes alone.
    fn complete(&mut self, key: &K, cell: &Arc<OnceCell<V>>, bytes: u64, capacity: u64) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| Arc::ptr_eq(&entry.cell, cell)) else { return };
        if bytes > capacity {
            self.entries.remove(key);
            return;
        }
        entry.bytes = bytes;
        self.bytes += bytes;
        while self.bytes > capacity {
            let others = self.entries.iter().filter(|(other, entry)| *other != key && entry.bytes > 0);
            let Some(oldest) = others.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone()) else { return };
            self.bytes -= self.entries.remove(&oldest).map_or(0, |entry| entry.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use gigastore_formats::wire::FaultCode;

    use super::*;

    async fn get(kept: &Kept<String, u8>, text: &str, bytes: u64) -> bool {
        kept.get(text.to_owned(), || async { Ok((bytes, 7)) }).await.unwrap().1
    }

    #[tokio::test]
    async fn a_value_is_read_once_and_the_longest_unused_goes_first() {
        let kept = Kept::new(100);
        let reads = AtomicU64::new(0);
        let read = || async {
            reads.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok((40, 7))
        };
        futures::future::try_join_all((0..20).map(|_| kept.get("a".to_owned(), read))).await.unwrap();
        assert_eq!(reads.into_inner(), 1);
        assert!(get(&kept, "b", 40).await);
        assert!(!get(&kept, "a", 40).await);
        assert!(get(&kept, "huge", 101).await, "too large to be kept");
        assert!(!get(&kept, "a", 40).await && !get(&kept, "b", 40).await, "it took no place of others");
        assert!(!get(&kept, "a", 40).await);
        assert!(get(&kept, "c", 60).await);
        assert!(!get(&kept, "a", 40).await, "b was the longest unused");
        assert!(get(&kept, "b", 40).await);
        assert!(kept.lock().bytes <= 100);
    }

    #[tokio::test]
    async fn what_could_not_be_read_leaves_nothing() {
        let kept = Kept::new(100);
        let fail = || async { Err(Fault::of(FaultCode::Unavailable, "no")) };
        kept.get("a".to_owned(), fail).await.unwrap_err();
        let cut = kept.get("b".to_owned(), std::future::pending);
        tokio::time::timeout(std::time::Duration::from_millis(10), cut).await.unwrap_err();
        assert!(kept.lock().entries.is_empty());
        assert!(get(&kept, "b", 40).await);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_that_fail_at_once_leave_nothing() {
        let kept = Arc::new(Kept::<String, u8>::new(100));
        for _ in 0..2000 {
            let ask = || {
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    let fail = || async { Err(Fault::of(FaultCode::Unavailable, "no")) };
                    kept.get("a".to_owned(), fail).await.unwrap_err();
                })
            };
            for asked in [ask(), ask(), ask(), ask()] {
                asked.await.unwrap();
            }
            assert!(kept.lock().entries.is_empty());
        }
    }
}
