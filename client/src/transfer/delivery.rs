//! The groups of one read, from whatever gives their bytes to the sinks: filled where they belong, checked while they
//! are warm.
//!
//! Must never leave a byte in a sink that did not match its tree: what does not is cleared before anybody sees it.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gigastore_formats::pack::{PackEntry, PackFault};
use gigastore_formats::range::ByteRange;
use gigastore_formats::tensor::boxes::Run;
use gigastore_formats::tensor::slice::Codec;
use gigastore_formats::wire::Fault;

use super::copy::copy;
use super::progress::Progress;
use super::read::{Copy, FetchError};
use super::sink::Lent;
use crate::transport::{Source, Taker, absent};

/// Bytes that are hashed while they are warm: a small part of a core's own cache.
const WARM_BYTES: usize = 256 << 10;

thread_local! {
    /// Where a group lies that can't be filled in place: kept, because fresh memory costs more than the copy into it.
    /// As long as the longest group of this thread so far, about 1 MiB.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A pack and what is wanted of it.
#[derive(Debug)]
pub(super) struct OpenPack {
    /// Its key below the project.
    pub(super) object: String,
    pub(super) slices: Vec<OpenSlice>,
}

/// A slice with what is known of its groups.
pub(super) struct OpenSlice {
    pub(super) entry: PackEntry,
    pub(super) name: String,
    pub(super) copies: Vec<Copy>,
}

impl std::fmt::Debug for OpenSlice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenSlice").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A group of a slice, to be fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// Position in [`OpenPack::slices`].
    pub(super) slice: usize,
    pub(super) index: u64,
    pub(super) stored: ByteRange,
}

/// What is to be delivered of one read.
#[derive(Debug)]
pub(super) struct Delivery {
    pack: Arc<OpenPack>,
    /// By their stored bytes, which do not overlap.
    groups: Vec<Group>,
    progress: Progress,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Groups delivered.
    next: usize,
    failed: Option<FetchError>,
}

/// Why a group was not delivered.
enum Undelivered {
    /// Its bytes did not come.
    Source(Fault),
    Failed(FetchError),
}

impl Delivery {
    pub(super) fn new(pack: Arc<OpenPack>, groups: Vec<Group>, progress: Progress) -> Arc<Self> {
        Arc::new(Self { pack, groups, progress, state: Mutex::default() })
    }

    /// Returns what was wrong with a group, and is ready to take that group again.
    pub(super) fn failure(&self) -> Option<FetchError> {
        self.lock().failed.take()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, group: Group, source: &mut dyn Source) -> Result<(), Undelivered> {
        let slice = &self.pack.slices[group.slice];
        let Some(mut place) = in_place(slice, group) else {
            return SCRATCH.with_borrow_mut(|scratch| self.deliver_by_copy(group, source, scratch));
        };
        let checked = match source.lend(group.stored) {
            Some(stored) => {
                // To copy a piece brings it into the caches; what was copied goes past them.
                let pieces = stored.chunks(WARM_BYTES).zip(place.chunks_mut(WARM_BYTES)).map(|(from, into)| {
                    copy(from, into);
                    from
                });
                let checked = slice.entry.check_raw_group(group.index, pieces);
                match source.stayed() {
                    // What was copied is what was checked.
                    true => checked.map_err(|fault| self.damaged(group, fault)),
                    false => Err(Undelivered::Source(absent(group.stored.start()))),
                }
            }
            None => source.fill_at(group.stored.start(), &mut place).map_err(Undelivered::Source).and_then(|()| {
                let whole = std::iter::once(&place[..]);
                slice.entry.check_raw_group(group.index, whole).map_err(|fault| self.damaged(group, fault))
            }),
        };
        match checked {
            Ok(()) => self.progress.done(place.len() as u64),
            Err(_) => place.fill(0),
        }
        checked
    }

    fn deliver_by_copy(&self, group: Group, source: &mut dyn Source, scratch: &mut Vec<u8>) -> Result<(), Undelivered> {
        let OpenSlice { entry, name, copies } = &self.pack.slices[group.slice];
        let len = group.stored.len() as usize;
        if scratch.len() < len {
            scratch.resize(len, 0);
        }
        let stored = &mut scratch[..len];
        source.fill_at(group.stored.start(), stored).map_err(Undelivered::Source)?;
        let logical = entry.open_group(group.index, stored).map_err(|fault| self.damaged(group, fault))?;
        let window = entry.slice.tree.group_range(group.index);
        for copy in copies {
            for run in copy.plan.within(window) {
                let start = (run.from - window.start()) as usize;
                let sunk = copy.sink.write_at(run.to, &logical[start..start + run.len as usize]);
                let failed = |source| Undelivered::Failed(FetchError::Sink { slice: name.clone(), source });
                sunk.map_err(failed)?;
                self.progress.done(run.len);
            }
        }
        Ok(())
    }

    fn damaged(&self, group: Group, fault: PackFault) -> Undelivered {
        let (slice, object) = (self.pack.slices[group.slice].name.clone(), self.pack.object.clone());
        Undelivered::Failed(FetchError::Damaged { slice, object, range: group.stored, fault })
    }
}

/// Returns the memory that a group belongs to, where all of it belongs to one place and lies there as it is stored.
fn in_place(slice: &OpenSlice, group: Group) -> Option<Lent<'_>> {
    let [copy] = &slice.copies[..] else { return None };
    let window = slice.entry.slice.tree.group_range(group.index);
    if slice.entry.slice.coding.codec() != Codec::Raw {
        return None;
    }
    let Run { from, to, len } = copy.plan.within(window).next()?;
    if (from, len) != (window.start(), window.len()) {
        return None;
    }
    copy.sink.lend(to, len)
}

impl Taker for Delivery {
    fn rest(&self) -> ByteRange {
        let state = self.lock();
        let left = if state.failed.is_some() { &[] } else { &self.groups[state.next..] };
        let start = left.first().map_or(0, |group| group.stored.start());
        let end = left.iter().map(|group| group.stored.end()).max().unwrap_or(start);
        ByteRange::new(start, end).expect("a group ends after it starts")
    }

    fn take(&self, source: &mut dyn Source) -> Result<(), Fault> {
        // One at a time; nobody else takes meanwhile.
        let first = self.lock().next;
        for (i, group) in self.groups.iter().enumerate().skip(first) {
            match self.deliver(*group, source) {
                Ok(()) => self.lock().next = i + 1,
                Err(Undelivered::Source(fault)) => return Err(fault),
                Err(Undelivered::Failed(error)) => {
                    self.lock().failed = Some(error);
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
