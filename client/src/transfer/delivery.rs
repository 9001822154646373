//! The groups of one read, from whatever gives their bytes to the sinks: filled where they belong, checked while they
//! are warm.
//!
//! Must never leave a byte in a sink that did not match its tree: what does not is cleared before anybody sees it.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gigastore_formats::pack::{PackEntry, PackFault};
use gigastore_formats::range::ByteRange;
use gigastore_formats::tensor::slice::Codec;
use gigastore_formats::wire::Fault;

use super::order::copied;
use super::progress::Progress;
use super::read::{Copy, FetchError};
use super::sink::Lent;
use crate::transport::{Source, Taker, absent};

thread_local! {
    /// Where a group lies that can't be filled in place: kept, because fresh memory costs more than the copy into it.
    /// As long as the longest group of this thread so far, 1 MiB at most.
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
    pub(super) entry: Arc<PackEntry>,
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
        let by_copy = |source| SCRATCH.with_borrow_mut(|scratch| self.deliver_by_copy(group, source, scratch));
        let Some((at, mut place)) = in_place(slice, group) else { return by_copy(source) };
        let checked = match source.lend(group.stored) {
            Some(stored) => {
                let checked = slice.entry.check_raw_group(group.index, copied(stored, at, &mut place));
                match source.stayed() {
                    // What was copied is what was checked.
                    true => checked.map_err(|fault| self.damaged(group, fault)),
                    false => Err(Undelivered::Source(absent(group.stored.start()))),
                }
            }
            None if (place.len() as u64) < group.stored.len() => {
                // The copy claims it again.
                drop(place);
                return by_copy(source);
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

/// Returns the memory that a group belongs to, or a part of it from so many bytes on, where what is wanted of it
/// belongs to one place and lies there as it is stored.
fn in_place(slice: &OpenSlice, group: Group) -> Option<(usize, Lent<'_>)> {
    let [copy] = &slice.copies[..] else { return None };
    let window = slice.entry.slice.tree.group_range(group.index);
    if slice.entry.slice.coding.codec() != Codec::Raw {
        return None;
    }
    let mut runs = copy.plan.within(window);
    let (Some(run), None) = (runs.next(), runs.next()) else { return None };
    Some(((run.from - window.start()) as usize, copy.sink.lend(run.to, run.len)?))
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

#[cfg(test)]
mod tests {
    use gigastore_formats::pack::{Coding, PackHeader, PackSlice};
    use gigastore_formats::tensor::boxes::{CopyPlan, TensorBox};
    use gigastore_formats::tensor::dtype::Dtype;
    use gigastore_formats::tensor::slice::SliceId;
    use gigastore_formats::verified::GroupTree;

    use super::*;
    use crate::transfer::sink::BufferSink;

    const BYTES: u64 = (3 << 20) + 5;

    /// An object in memory, which may be lent.
    struct Lending {
        object: Vec<u8>,
        lends: bool,
        stays: bool,
    }

    impl Source for Lending {
        fn fill_at(&mut self, position: u64, into: &mut [u8]) -> Result<(), Fault> {
            into.copy_from_slice(&self.object[position as usize..][..into.len()]);
            Ok(())
        }

        fn lend(&mut self, range: ByteRange) -> Option<&[u8]> {
            self.object.get(range.start() as usize..range.end() as usize).filter(|_| self.lends)
        }

        fn stayed(&self) -> bool {
            self.stays
        }
    }

    type Memory = Arc<BufferSink<Vec<u8>>>;

    /// What a slice of [`BYTES`] is, the delivery of a part of it into memory full of sevens, and the object it is in.
    fn wanted(start: u64, len: u64) -> (Vec<u8>, Arc<Delivery>, Memory, Lending) {
        let data: Vec<u8> = (0..BYTES).map(|i| (i * 31 + i / 255) as u8).collect();
        let whole = TensorBox::whole(&[BYTES]).unwrap();
        let slice = SliceId::tensor("w", Dtype::U8, &[BYTES], whole.clone()).unwrap();
        let tree = GroupTree::of(&data);
        let (header, head) = PackHeader::build(vec![PackSlice { slice, tree, coding: Coding::Raw }]).unwrap();
        let entry = header.entries()[0].clone();
        let mut object = head.to_vec();
        object.resize(entry.stored.start() as usize, 0);
        object.extend(&data);
        let area = TensorBox::new(vec![start], vec![len]).unwrap();
        let plan = CopyPlan::new(Dtype::U8, &whole, &area).unwrap().unwrap();
        let touched = (0..entry.slice.tree.groups()).filter(|index| plan.touches(entry.slice.tree.group_range(*index)));
        let group = |index| Group { slice: 0, index, stored: entry.stored_groups(index..index + 1) };
        let groups = touched.map(group).collect();
        let sink = BufferSink::new(vec![7; len as usize]);
        let copies = vec![Copy { plan, sink: sink.clone() }];
        let pack = OpenPack { object: "p".into(), slices: vec![OpenSlice { entry, name: "w".into(), copies }] };
        let delivery = Delivery::new(Arc::new(pack), groups, Progress::default());
        (data, delivery, sink, Lending { object, lends: true, stays: true })
    }

    /// Parts of whole groups, of parts of groups, and of both.
    const PARTS: [(u64, u64); 4] = [(0, BYTES), (1 << 20, 1 << 20), (1000, 3000), (1 << 19, 2 << 20)];

    /// Each part, lent and not.
    fn each_part() -> impl Iterator<Item = (u64, u64, bool)> {
        PARTS.into_iter().flat_map(|(start, len)| [true, false].map(|lends| (start, len, lends)))
    }

    #[test]
    fn what_is_wanted_is_delivered_and_counted_once() {
        for (start, len, lends) in each_part() {
            let (data, delivery, sink, mut source) = wanted(start, len);
            source.lends = lends;
            delivery.take(&mut source).unwrap();
            assert!(delivery.failure().is_none() && delivery.rest().is_empty());
            assert_eq!(delivery.progress.snapshot().done, len);
            drop(delivery);
            assert!(sink.into_inner().unwrap() == data[start as usize..][..len as usize], "{len} bytes at {start}");
        }
    }

    #[test]
    fn what_did_not_stay_is_cleared_and_still_wanted() {
        for (start, len) in PARTS {
            let (_, delivery, sink, mut source) = wanted(start, len);
            source.stays = false;
            let wanted = delivery.rest();
            delivery.take(&mut source).unwrap_err();
            assert!(delivery.failure().is_none() && delivery.rest() == wanted);
            assert_eq!(delivery.progress.snapshot().done, 0);
            drop(delivery);
            let memory = sink.into_inner().unwrap();
            let copied = memory.iter().position(|byte| *byte == 7).unwrap_or(memory.len());
            assert!(copied > 0 && memory[..copied].iter().all(|byte| *byte == 0), "{len} bytes at {start}");
            assert!(memory[copied..].iter().all(|byte| *byte == 7), "nothing of a later group was written");
        }
    }

    #[test]
    fn what_is_damaged_is_not_seen() {
        for (start, len, lends) in each_part() {
            let (_, delivery, sink, mut source) = wanted(start, len);
            source.lends = lends;
            let at = delivery.rest().start() as usize + 77;
            source.object[at] ^= 1;
            delivery.take(&mut source).unwrap();
            assert!(matches!(delivery.failure(), Some(FetchError::Damaged { .. })));
            assert_eq!(delivery.progress.snapshot().done, 0);
            drop(delivery);
            assert!(sink.into_inner().unwrap().iter().all(|byte| [0, 7].contains(byte)), "{len} bytes at {start}");
        }
    }
}
