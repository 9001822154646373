//! Planned reads: stored groups, coalesced per pack, verified and decoded on all cores, into the callers' sinks.
//!
//! Each stored byte is fetched once, however many wanted boxes need it, and only the groups that some box needs. Must
//! never take a group's value from anywhere but its row of the manifest, or the pack's header, which is proven by the
//! pack's name.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt, TryStreamExt};
use gigastore_formats::digest::Digest;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::pack::{PackEntry, PackError, PackFault, PackHeader};
use gigastore_formats::range::{ByteRange, coalesce};
use gigastore_formats::tensor::boxes::CopyPlan;
use gigastore_formats::tensor::slice::{Place, SliceRow};
use gigastore_formats::wire::Fault;

use super::delivery::{Delivery, Group, OpenPack, OpenSlice};
use super::progress::Progress;
use super::sink::Sink;
use super::window::Window;
use crate::store::Store;

/// Longest read: 8 MiB, long enough that a request's latency is small beside its transfer.
const READ_BYTES: u64 = 8 << 20;

/// Unwanted bytes that are read rather than asked around: a round trip of 1 ms at 64 MB/s a connection.
const GAP_BYTES: u64 = 64 << 10;

/// Packs whose headers are read ahead of the reads of their groups.
const PACKS_AHEAD: usize = 8;

/// Why bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Stored bytes are not what was committed.
    #[error("integrity failure: tensor {slice} in object {object} at {range}: {fault}")]
    Damaged {
        /// The slice, as name and box.
        slice: String,
        /// The object's key below its project.
        object: String,
        /// The bytes of the object.
        range: ByteRange,
        /// What is wrong with them.
        fault: PackFault,
    },
    /// A pack's header is not that of its name.
    #[error(
        "integrity failure: the header of object {object}, bytes 0..{header_len}, which {slices} slices need \
         (first {first}): {source}"
    )]
    Header {
        /// The object's key below its project.
        object: String,
        /// Bytes of the header.
        header_len: u64,
        /// How many slices need it.
        slices: usize,
        /// The first of them.
        first: String,
        /// What is wrong with it.
        source: PackError,
    },
    /// A pack's header is that of its name, and of a form that this program does not know.
    #[error(
        "the header of object {object}, which {slices} slices need (first {first}): {source}: a newer version of \
         gigastore wrote it and can read it"
    )]
    Newer {
        /// The object's key below its project.
        object: String,
        /// How many slices need it.
        slices: usize,
        /// The first of them.
        first: String,
        /// What was found.
        source: PackError,
    },
    /// A pack is sound and does not have what the manifest says.
    #[error(
        "integrity failure: object {object} has no slice with BLAKE3 {blake3} at byte {offset}, where its manifest \
         has {slice}"
    )]
    Absent {
        /// The slice.
        slice: String,
        /// The object's key below its project.
        object: String,
        /// Where it should lie.
        offset: u64,
        /// Its digest.
        blake3: Digest,
    },
    /// The destination took no bytes.
    #[error("{slice} can't be written to its destination")]
    Sink {
        /// The slice.
        slice: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Fault),
}

/// One slice that is read, and every place its bytes go to.
pub(crate) struct SliceRead {
    pub(crate) row: SliceRow<Place<Stored>>,
    pub(crate) copies: Vec<Copy>,
}

/// What goes from one slice to one sink.
#[derive(Clone)]
pub(crate) struct Copy {
    pub(crate) plan: CopyPlan,
    pub(crate) sink: Arc<dyn Sink>,
}

/// Groups of a pack that are read at once.
struct PackRead {
    id: Stored,
    pack: Arc<OpenPack>,
    range: ByteRange,
    groups: Vec<Group>,
}

/// Reads all slices into their sinks.
pub(crate) async fn read_slices(
    store: &Store,
    project: &ProjectName,
    slices: Vec<SliceRead>,
    progress: &Progress,
) -> Result<(), FetchError> {
    let mut packs: BTreeMap<Stored, Vec<SliceRead>> = BTreeMap::new();
    for slice in slices {
        packs.entry(slice.row.place.pack).or_default().push(slice);
    }
    let opened = futures::stream::iter(packs)
        .map(|(pack, slices)| async move {
            let opened = open(store, project, pack, slices).await?;
            Ok::<_, FetchError>(futures::stream::iter(
                reads(pack, Arc::new(opened)).into_iter().map(Ok::<_, FetchError>),
            ))
        })
        .buffered(PACKS_AHEAD)
        .try_flatten();
    let mut waiting = std::pin::pin!(opened.fuse());
    let (mut window, mut running) =
        (Window::new(store.url().starts_with("file:"), store.ambient.monotonic()), FuturesUnordered::new());
    loop {
        let room = running.len() < window.size() && !waiting.is_done();
        tokio::select! {
            // In this order and not in one drawn by chance: the window is filled first.
            biased;
            next = waiting.next(), if room => {
                if let Some(read) = next.transpose()? {
                    running.push(deliver(store, project, read, progress));
                }
            }
            Some(done) = running.next() => window.done(done?, store.ambient.monotonic()),
            else => return Ok(()),
        }
    }
}

/// Reads the groups of one read into their sinks; returns how many bytes it read.
async fn deliver(store: &Store, project: &ProjectName, read: PackRead, progress: &Progress) -> Result<u64, FetchError> {
    let PackRead { id, pack, range, groups } = read;
    let _taken = store.budget.take(range.len()).await;
    let delivery = Delivery::new(pack, groups, progress.clone());
    let mut afresh = false;
    loop {
        let taker = Arc::<Delivery>::clone(&delivery);
        store.pass_object(project, (ObjectKind::Pack, &id), taker, afresh).await?;
        match delivery.failure() {
            // What was damaged on its way here, or by whatever keeps bytes on that way, is right when it comes anew.
            Some(FetchError::Damaged { .. }) if !afresh => {
                afresh = true;
                store.count_refetch();
            }
            Some(error) => return Err(error),
            None => break,
        }
    }
    progress.moved(range.len());
    Ok(range.len())
}

/// Learns the group values of slices: from their rows where these say all, else from the pack's header.
async fn open(
    store: &Store,
    project: &ProjectName,
    pack: Stored,
    slices: Vec<SliceRead>,
) -> Result<OpenPack, FetchError> {
    let object = pack.key(ObjectKind::Pack);
    let of_row = |slice: &SliceRead| PackEntry::of_row(&slice.row).map(Arc::new);
    let mut entries: Vec<Option<Arc<PackEntry>>> = slices.iter().map(of_row).collect();
    if entries.contains(&None) {
        let header = header(store, project, pack, &object, &slices).await?;
        let places: HashMap<(u64, Digest), &Arc<PackEntry>> =
            header.entries().iter().map(|entry| ((entry.stored.start(), entry.slice.tree.root()), entry)).collect();
        for (entry, SliceRead { row, .. }) in entries.iter_mut().zip(&slices) {
            let found = places.get(&(row.place.offset, row.blake3));
            *entry = found.filter(|found| found.slice.tree.len() == row.slice.bytes()).map(|found| Arc::clone(found));
        }
    }
    let mut opened: Vec<OpenSlice> = Vec::with_capacity(slices.len());
    // Slices of equal content lie in one place, which is read once.
    let mut at: HashMap<(u64, Digest), usize> = HashMap::new();
    for (entry, SliceRead { row, copies }) in entries.into_iter().zip(slices) {
        let (offset, blake3) = (row.place.offset, row.blake3);
        let absent = || FetchError::Absent { slice: row.slice.to_string(), object: object.clone(), offset, blake3 };
        let entry = entry.ok_or_else(absent)?;
        match at.get(&(offset, blake3)) {
            Some(same) => opened[*same].copies.extend(copies),
            None => {
                at.insert((offset, blake3), opened.len());
                opened.push(OpenSlice { entry, name: row.slice.to_string(), copies });
            }
        }
    }
    Ok(OpenPack { object, slices: opened })
}

/// Reads and proves a pack's header.
async fn header(
    store: &Store,
    project: &ProjectName,
    pack: Stored,
    object: &str,
    slices: &[SliceRead],
) -> Result<PackHeader, FetchError> {
    let header_len = slices.iter().map(|slice| slice.row.place.header_len).max().unwrap_or_default();
    let range = ByteRange::new(0, header_len).expect("0 is the smallest number");
    let _taken = store.budget.take(header_len).await;
    let parse = move |bytes: Bytes| PackHeader::parse(pack.digest, &bytes);
    let parsed = store.read_checked(project, ObjectKind::Pack, &pack, range, parse).await?;
    parsed.map_err(|source| {
        let (object, first) = (object.to_owned(), slices.first());
        let first = first.map(|slice| slice.row.slice.to_string()).unwrap_or_default();
        match source.is_newer() {
            true => FetchError::Newer { object, slices: slices.len(), first, source },
            false => FetchError::Header { object, header_len, slices: slices.len(), first, source },
        }
    })
}

/// Cuts what is wanted of a pack into reads.
fn reads(id: Stored, pack: Arc<OpenPack>) -> Vec<PackRead> {
    let mut groups = Vec::new();
    for (slice, OpenSlice { entry, copies, .. }) in pack.slices.iter().enumerate() {
        let tree = &entry.slice.tree;
        for index in 0..tree.groups() {
            let logical = tree.group_range(index);
            if copies.iter().any(|copy| copy.plan.touches(logical)) {
                groups.push(Group { slice, index, stored: entry.stored_groups(index..index + 1) });
            }
        }
    }
    let ranges: Vec<ByteRange> = groups.iter().map(|group| group.stored).collect();
    let reads = coalesce(&ranges, GAP_BYTES, READ_BYTES).into_iter().map(|read| {
        let groups = read.wanted.iter().map(|i| groups[*i]).collect();
        PackRead { id, pack: Arc::clone(&pack), range: read.range, groups }
    });
    reads.collect()
}
