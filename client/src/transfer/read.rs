//! Planned reads: stored groups, coalesced per pack, verified and decoded on all cores, into the callers' sinks.
//!
//! Each stored byte is fetched once, however many wanted boxes need it, and only the groups that some box needs. Must
//! never write a byte into a sink that did not match the pack's header, which is proven by the pack's name.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::digest::Digest;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::pack::{PackEntry, PackError, PackFault, PackHeader};
use gigastore_formats::range::{ByteRange, coalesce};
use gigastore_formats::tensor::boxes::CopyPlan;
use gigastore_formats::tensor::slice::{Place, SliceRow};
use gigastore_formats::wire::Fault;

use super::progress::Progress;
use super::sink::Sink;
use crate::store::Store;

/// Longest read: 8 MiB, long enough that a request's latency is small beside its transfer.
const READ_BYTES: u64 = 8 << 20;

/// Unwanted bytes that are read rather than asked around: a round trip of 1 ms at 64 MB/s a connection.
const GAP_BYTES: u64 = 64 << 10;

/// Packs and reads in flight at most; the budget bounds their bytes.
const PACKS_IN_FLIGHT: usize = 8;
const READS_IN_FLIGHT: usize = 8;

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

/// A group of a slice to be fetched.
struct Group {
    slice: usize,
    index: u64,
    stored: ByteRange,
}

/// A slice with what the pack's header says of it.
struct Opened {
    entry: PackEntry,
    name: String,
    copies: Vec<Copy>,
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
    futures::stream::iter(packs)
        .map(|(pack, slices)| read_pack(store, project, pack, slices, progress))
        .buffer_unordered(PACKS_IN_FLIGHT)
        .try_collect()
        .await
}

async fn read_pack(
    store: &Store,
    project: &ProjectName,
    pack: Stored,
    slices: Vec<SliceRead>,
    progress: &Progress,
) -> Result<(), FetchError> {
    let object = pack.key(ObjectKind::Pack);
    let opened = Arc::new(open(store, project, pack, &object, slices).await?);
    let groups = needed_groups(&opened);
    let ranges: Vec<ByteRange> = groups.iter().map(|group| group.stored).collect();
    let groups = &groups;
    let opened = &opened;
    let object = &object;
    futures::stream::iter(coalesce(&ranges, GAP_BYTES, READ_BYTES))
        .map(|read| async move {
            let _taken = store.budget.take(read.range.len()).await;
            let bytes = store.transport.read(project, ObjectKind::Pack, &pack, read.range).await?;
            progress.moved(read.range.len());
            let pieces: Vec<(usize, u64, ByteRange, Bytes)> = read
                .wanted
                .iter()
                .map(|i| {
                    let Group { slice, index, stored } = &groups[*i];
                    let start = (stored.start() - read.range.start()) as usize;
                    (*slice, *index, *stored, bytes.slice(start..start + stored.len() as usize))
                })
                .collect();
            let (opened, object, progress) = (Arc::clone(opened), object.clone(), progress.clone());
            store.ambient.computed(move || deliver(&opened, &object, pieces, &progress)).await
        })
        .buffer_unordered(READS_IN_FLIGHT)
        .try_collect()
        .await
}

/// Reads and proves a pack's header, and finds each slice in it.
async fn open(
    store: &Store,
    project: &ProjectName,
    pack: Stored,
    object: &str,
    slices: Vec<SliceRead>,
) -> Result<Vec<Opened>, FetchError> {
    let header_len = slices.iter().map(|slice| slice.row.place.header_len).max().unwrap_or_default();
    let range = ByteRange::new(0, header_len).expect("0 is the smallest number");
    let _taken = store.budget.take(header_len).await;
    let bytes = store.transport.read(project, ObjectKind::Pack, &pack, range).await?;
    let parsed = store.ambient.computed(move || PackHeader::parse(pack.digest, &bytes)).await;
    let header = parsed.map_err(|source| FetchError::Header {
        object: object.to_owned(),
        header_len,
        slices: slices.len(),
        first: slices.first().map(|slice| slice.row.slice.to_string()).unwrap_or_default(),
        source,
    })?;
    let places: HashMap<(u64, Digest), &PackEntry> =
        header.entries().iter().map(|entry| ((entry.stored.start(), entry.slice.tree.root()), entry)).collect();
    let found = slices.into_iter().map(|SliceRead { row, copies }| {
        let (offset, blake3) = (row.place.offset, row.blake3);
        let entry = places.get(&(offset, blake3)).filter(|entry| entry.slice.tree.len() == row.slice.bytes());
        let absent = || FetchError::Absent { slice: row.slice.to_string(), object: object.to_owned(), offset, blake3 };
        let entry = PackEntry::clone(entry.ok_or_else(absent)?);
        Ok(Opened { entry, name: row.slice.to_string(), copies })
    });
    found.collect()
}

/// Lists the groups that any copy needs.
fn needed_groups(opened: &[Opened]) -> Vec<Group> {
    let mut groups = Vec::new();
    for (slice, Opened { entry, copies, .. }) in opened.iter().enumerate() {
        let tree = &entry.slice.tree;
        for index in 0..tree.groups() {
            let logical = tree.group_range(index);
            if copies.iter().any(|copy| copy.plan.touches(logical)) {
                groups.push(Group { slice, index, stored: entry.stored_groups(index..index + 1) });
            }
        }
    }
    groups
}

/// Verifies groups and copies what is wanted of them.
fn deliver(
    opened: &[Opened],
    object: &str,
    pieces: Vec<(usize, u64, ByteRange, Bytes)>,
    progress: &Progress,
) -> Result<(), FetchError> {
    for (slice, index, range, stored) in pieces {
        let Opened { entry, name, copies } = &opened[slice];
        let damaged = |fault| FetchError::Damaged { slice: name.clone(), object: object.to_owned(), range, fault };
        let logical = entry.open_group(index, &stored).map_err(damaged)?;
        let window = entry.slice.tree.group_range(index);
        for copy in copies {
            for run in copy.plan.within(window) {
                let start = (run.from - window.start()) as usize;
                let sunk = copy.sink.write_at(run.to, &logical[start..start + run.len as usize]);
                sunk.map_err(|source| FetchError::Sink { slice: name.clone(), source })?;
                progress.done(run.len);
            }
        }
    }
    Ok(())
}
