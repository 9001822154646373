//! Decoded manifests that are kept: a rank that wants a row of each of 2,000 tensors need not read a manifest of a
//! million.
//!
//! Must never keep a manifest that was not checked against its commit record, nor hold a lock while one is read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gigastore_formats::limits::MAX_USER_METADATA_BYTES;
use gigastore_formats::manifest::checkpoint::CheckpointRow;
use gigastore_formats::manifest::dataset::{Dataset, FileRow};
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::Stored;
use gigastore_formats::plan::Planner;
use gigastore_formats::record::Commit;
use gigastore_formats::wire::{Fault, FaultCode};
use tokio::sync::OnceCell;

use crate::http::Service;

/// What a heap allocation costs beside its bytes.
const ALLOCATION_BYTES: usize = 16;

/// What any manifest takes that is kept.
const ENTRY_BYTES: u64 = 1 << 10;

/// A manifest that is being read may take this part of the memory for bodies: it counts, and uploads go on.
const READING_SHARE: u64 = 4;

type Key = (ProjectName, Stored);

/// A decoded manifest.
#[derive(Clone, Debug)]
enum Decoded {
    Checkpoint(Arc<Planner>),
    Dataset(Arc<Dataset>),
}

/// Decoded manifests, within a number of bytes.
#[derive(Debug)]
pub(crate) struct Manifests {
    capacity: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<Key, Entry>,
    uses: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Entry {
    cell: Arc<OnceCell<Decoded>>,
    /// Counted once it has been read.
    bytes: u64,
    used: u64,
}

impl Manifests {
    pub(crate) fn new(capacity: u64) -> Self {
        Self { capacity, kept: Mutex::default() }
    }

    /// Returns the decoded manifest of a checkpoint, ready for plans.
    pub(crate) async fn checkpoint(
        &self,
        service: &Service,
        project: &ProjectName,
        commit: &Commit,
    ) -> Result<Arc<Planner>, Fault> {
        let read = || async {
            let (_admitted, base) = (admitted(service, commit).await?, base_bytes(commit));
            let read = service.engine.checkpoint(project, commit).await.map_err(|error| Fault::from(&error))?;
            let planner = move || {
                let planner = Planner::new(read);
                (base + checkpoint_bytes(&planner), Decoded::Checkpoint(Arc::new(planner)))
            };
            Ok(service.ambient.computed(planner).await)
        };
        match self.get(service, (project.clone(), commit.manifest.object), read).await? {
            Decoded::Checkpoint(checkpoint) => Ok(checkpoint),
            Decoded::Dataset(_) => Err(other_sort(commit)),
        }
    }

    /// Returns the decoded manifest of a dataset.
    pub(crate) async fn dataset(
        &self,
        service: &Service,
        project: &ProjectName,
        commit: &Commit,
    ) -> Result<Arc<Dataset>, Fault> {
        let read = || async {
            let (_admitted, base) = (admitted(service, commit).await?, base_bytes(commit));
            let read = service.engine.dataset(project, commit).await.map_err(|error| Fault::from(&error))?;
            Ok(service.ambient.computed(move || (base + dataset_bytes(&read), Decoded::Dataset(Arc::new(read)))).await)
        };
        match self.get(service, (project.clone(), commit.manifest.object), read).await? {
            Decoded::Dataset(dataset) => Ok(dataset),
            Decoded::Checkpoint(_) => Err(other_sort(commit)),
        }
    }

    async fn get<F>(&self, service: &Service, key: Key, read: impl FnOnce() -> F) -> Result<Decoded, Fault>
    where
        F: Future<Output = Result<(u64, Decoded), Fault>>,
    {
        let (decoded, read_here) = self.once(key, read).await?;
        let counter = if read_here { &service.metrics.manifests_read } else { &service.metrics.manifests_kept };
        counter.inc();
        Ok(decoded)
    }

    /// Returns what is kept, is being read by somebody else, or is read now; tells which.
    async fn once<F>(&self, key: Key, read: impl FnOnce() -> F) -> Result<(Decoded, bool), Fault>
    where
        F: Future<Output = Result<(u64, Decoded), Fault>>,
    {
        let cell = self.lock().cell(&key);
        let asking = Asking { manifests: self, key, cell };
        let mut bytes = None;
        let init = || async {
            let (size, decoded) = read().await?;
            bytes = Some(size);
            Ok::<_, Fault>(decoded)
        };
        let decoded = asking.cell.get_or_try_init(init).await?.clone();
        if let Some(bytes) = bytes {
            self.lock().complete(&asking.key, &asking.cell, bytes, self.capacity);
        }
        Ok((decoded, bytes.is_some()))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for a manifest. The last one to go takes away what was never read: reading failed, or all who
/// waited were cut off.
struct Asking<'a> {
    manifests: &'a Manifests,
    key: Key,
    cell: Arc<OnceCell<Decoded>>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut kept = self.manifests.lock();
        let unread = |entry: &Entry| Arc::ptr_eq(&entry.cell, &self.cell) && entry.cell.get().is_none();
        // Cells are handed out under the lock: two owners are the map and this one.
        if Arc::strong_count(&self.cell) == 2 && kept.entries.get(&self.key).is_some_and(unread) {
            kept.entries.remove(&self.key);
        }
    }
}

impl Kept {
    /// Finds the cell of a manifest, or makes an empty one.
    fn cell(&mut self, key: &Key) -> Arc<OnceCell<Decoded>> {
        self.uses += 1;
        let new = || Entry { cell: Arc::default(), bytes: 0, used: 0 };
        let entry = self.entries.entry(key.clone()).or_insert_with(new);
        entry.used = self.uses;
        Arc::clone(&entry.cell)
    }

    /// Counts a manifest that has been read, and lets the longest unused go until all fit. One that does not fit by
    /// itself goes alone.
    fn complete(&mut self, key: &Key, cell: &Arc<OnceCell<Decoded>>, bytes: u64, capacity: u64) {
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

/// Waits for memory to read a manifest.
async fn admitted(service: &Service, commit: &Commit) -> Result<crate::admission::Admitted, Fault> {
    service.admission.memory(commit.manifest.len.min(service.admission.all() / READING_SHARE)).await
}

fn other_sort(commit: &Commit) -> Fault {
    let text = format!("{}@{} is not what its manifest says", commit.name, commit.number);
    Fault { object: Some(commit.manifest.object.to_string()), ..Fault::of(FaultCode::Integrity, text) }
}

/// Returns the memory of a manifest beside its rows: the user's metadata, of which it has no more than its own bytes.
fn base_bytes(commit: &Commit) -> u64 {
    commit.manifest.len.min(MAX_USER_METADATA_BYTES as u64) + ENTRY_BYTES
}

/// Returns the memory of the rows of a checkpoint, and of what finds them.
fn checkpoint_bytes(planner: &Planner) -> u64 {
    let row = |row: &CheckpointRow| {
        // The shape, and the offsets and sizes of the box.
        let numbers = 3 * size_of_val(row.slice.global_shape());
        size_of::<CheckpointRow>() + row.slice.name().len() + numbers + 4 * ALLOCATION_BYTES
    };
    (planner.checkpoint().rows.iter().map(row).sum::<usize>() + planner.index_bytes()) as u64
}

/// Returns the memory of the rows of a dataset.
fn dataset_bytes(dataset: &Dataset) -> u64 {
    let row = |row: &FileRow| {
        let (groups, values) = (size_of_val(row.row_groups.as_slice()), size_of_val(row.tree.values()));
        size_of::<FileRow>() + row.path.len() + groups + values + 3 * ALLOCATION_BYTES
    };
    dataset.rows.iter().map(row).sum::<usize>() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use gigastore_formats::digest::Digest;
    use gigastore_formats::manifest::checkpoint::{Checkpoint, CheckpointMeta};
    use gigastore_formats::manifest::dataset::DatasetMeta;
    use gigastore_formats::tensor::boxes::TensorBox;
    use gigastore_formats::tensor::dtype::Dtype;
    use gigastore_formats::tensor::slice::{Codec, Place, SliceId, SliceRow};

    use super::*;
    use crate::run::Limits;

    fn key(text: &str) -> Key {
        ("p".parse().unwrap(), Stored { digest: Digest::of(text.as_bytes()), epoch: 0 })
    }

    fn decoded() -> Decoded {
        let meta = DatasetMeta { name: "d".parse().unwrap(), version: 1, parent: None, metadata: Default::default() };
        Decoded::Dataset(Arc::new(Dataset { meta, content: Digest::of(b""), rows: Vec::new() }))
    }

    async fn get(manifests: &Manifests, text: &str, bytes: u64) -> bool {
        manifests.once(key(text), || async { Ok((bytes, decoded())) }).await.unwrap().1
    }

    #[tokio::test]
    async fn a_manifest_is_read_once_and_the_longest_unused_goes_first() {
        let manifests = Manifests::new(100);
        let reads = AtomicU64::new(0);
        let read = || async {
            reads.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok((40, decoded()))
        };
        futures::future::try_join_all((0..20).map(|_| manifests.once(key("a"), read))).await.unwrap();
        assert_eq!(reads.into_inner(), 1);
        assert!(get(&manifests, "b", 40).await);
        assert!(!get(&manifests, "a", 40).await);
        assert!(get(&manifests, "huge", 101).await, "too large to be kept");
        assert!(!get(&manifests, "a", 40).await && !get(&manifests, "b", 40).await, "it took no place of others");
        assert!(!get(&manifests, "a", 40).await);
        assert!(get(&manifests, "c", 60).await);
        assert!(!get(&manifests, "a", 40).await, "b was the longest unused");
        assert!(get(&manifests, "b", 40).await);
        assert!(manifests.lock().bytes <= 100);
    }

    #[tokio::test]
    async fn what_could_not_be_read_leaves_nothing() {
        let manifests = Manifests::new(100);
        let fail = || async { Err(Fault::of(FaultCode::Unavailable, "no")) };
        manifests.once(key("a"), fail).await.unwrap_err();
        let cut = manifests.once(key("b"), std::future::pending);
        tokio::time::timeout(std::time::Duration::from_millis(10), cut).await.unwrap_err();
        assert!(manifests.lock().entries.is_empty());
        assert!(get(&manifests, "b", 40).await);
    }

    #[test]
    fn a_million_rows_fit() {
        // Three dimensions, and a name as long as those of public models.
        let row = |i: u64| {
            let whole = TensorBox::whole(&[8, 8, 8]).unwrap();
            let slice = SliceId::tensor(&format!("{i:060}"), Dtype::BF16, &[8, 8, 8], whole).unwrap();
            let pack = Stored { digest: Digest::of(b"pack"), epoch: 0 };
            let place = Place { pack, header_len: 0, offset: 0, stored_len: slice.bytes(), codec: Codec::Raw };
            SliceRow { slice, blake3: Digest::of(b"slice"), place }
        };
        let (run, metadata) = ("run".parse().unwrap(), Default::default());
        let meta = CheckpointMeta { run, step: 1, world_size: 1, parent: None, metadata };
        let rows = (0..1000).map(row).collect();
        let planner = Planner::new(Checkpoint { meta, content: Digest::of(b"content"), rows });
        let all = checkpoint_bytes(&planner) * 1000 + ENTRY_BYTES + MAX_USER_METADATA_BYTES as u64;
        assert!(all <= Limits::default().manifests, "{all} bytes");
    }
}
