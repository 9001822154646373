//! One state of the world.
//!
//! Small, because millions are kept: everything is a number of few bits. Must never hold what does not decide what can
//! happen next or whether an invariant holds: it would only make the states more.

use std::hash::{Hash, Hasher};

use crate::log::{Folded, Keys, MAX_OPS, Record};
use crate::scenario::Scenario;

/// Records of a log at most: one for each operation of the largest scenario, and its fences; broken rules may need one
/// or two more.
pub const MAX_LOG: usize = 10;

/// Creations on their way to one slot at most, in any scenario.
pub const MAX_IN_FLIGHT: usize = 5;

/// Writers at most.
pub const MAX_WRITERS: usize = 3;

/// Collectors at most.
pub const MAX_COLLECTORS: usize = 2;

/// How far an operation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    /// Nothing is remembered of it.
    #[default]
    New,
    /// Its objects are on their way.
    Sending,
    /// Its objects were seen in the store.
    Ready,
    /// The same, and its last proposal lost its slot to another record. Only where usability is not tried again.
    Unchecked,
    /// A record with it was sent.
    Proposed,
    /// It is acknowledged.
    Done,
    /// Its caller knows that it has no effect.
    Refused,
}

/// What a process remembers of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpState {
    /// How far it is.
    pub phase: Phase,
    /// Only with a broken rule: whether its process was restarted, or one more than the epoch in which it sent its
    /// objects.
    pub flag: u8,
    /// The keys that it chose.
    pub keys: Keys,
}

/// What a reader is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reader {
    /// Nothing.
    #[default]
    Idle,
    /// It has read the log and is bound to the commit of this transaction.
    Bound(u8),
    /// An object of that commit was not there.
    Missed(u8),
    /// And the commit was live still: bytes are lost.
    Alarmed,
}

/// The world.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// Whether this state is told from others by what its log adds up to, not by its records.
    pub(crate) folds: bool,
    pub(crate) log: [Record; MAX_LOG],
    pub(crate) len: u8,
    /// Creations on their way to the next slot, sorted; once it is filled none of them can do anything.
    pub(crate) coming: [Record; MAX_IN_FLIGHT],
    pub(crate) comings: u8,
    /// Keys in the store.
    pub present: Keys,
    /// Keys that were sent, and may land.
    pub arriving: Keys,
    /// Keys whose deletion was asked for, and may happen, though it may not be asked for now. What may be deleted now
    /// may be deleted at any later time too, whether or not it was asked for already.
    pub deleting: Keys,
    pub(crate) ops: [OpState; MAX_OPS],
    /// The slot that each writer's record was sent to; 0 for none.
    pub(crate) slots: [u8; MAX_WRITERS],
    /// One more than the records that each collector had seen when it began. Only where it relies on that: else a
    /// collector needs no memory, for whether its fence stands is in the log.
    pub(crate) began: [u8; MAX_COLLECTORS],
    pub(crate) reader: Reader,
}

impl State {
    /// Returns the records of the log.
    pub fn log(&self) -> &[Record] {
        &self.log[..usize::from(self.len)]
    }

    /// Returns the creations on their way to the next slot.
    pub fn coming(&self) -> &[Record] {
        &self.coming[..usize::from(self.comings)]
    }

    /// Folds the log by the rules of a scenario.
    pub fn folded(&self, scenario: &Scenario) -> Folded {
        Folded::of(self.log(), scenario.broken)
    }

    /// Tells whether a record can be sent to the next slot within the bounds of a scenario.
    pub(crate) fn can_send(&self, scenario: &Scenario, record: &Record) -> bool {
        usize::from(self.len) < MAX_LOG && (self.comings < scenario.in_flight || self.coming().contains(record))
    }

    /// Sends a record to the next slot; returns the slot.
    pub(crate) fn send(&mut self, record: Record) -> u8 {
        if !self.coming().contains(&record) {
            self.coming[usize::from(self.comings)] = record;
            self.comings += 1;
            self.coming[..usize::from(self.comings)].sort_unstable();
        }
        self.len + 1
    }

    /// A creation lands.
    pub(crate) fn land(&mut self, which: u8) {
        self.log[usize::from(self.len)] = self.coming[usize::from(which)];
        self.len += 1;
        self.coming = Default::default();
        self.comings = 0;
    }
}

impl Hash for State {
    /// What is not hashed makes no difference to what can happen next: searches tell states apart by this alone.
    fn hash<H: Hasher>(&self, to: &mut H) {
        let record = |record: &Record| u64::from(record[0].0) | u64::from(record[1].0) << 32;
        let mut slots = self.slots;
        if self.folds {
            Folded::of(self.log(), None).hash(to);
            // What matters of a slot is whether it is filled.
            slots.iter_mut().filter(|slot| **slot != 0).for_each(|slot| *slot = 1 + u8::from(*slot > self.len));
        } else {
            self.log().iter().for_each(|one| to.write_u64(record(one)));
        }
        self.coming().iter().for_each(|one| to.write_u64(record(one)));
        let keys = u64::from(self.present) | u64::from(self.arriving) << 16 | u64::from(self.deleting) << 32;
        let len = if self.folds { 0 } else { self.len };
        to.write_u64(keys | u64::from(len) << 48 | u64::from(self.comings) << 56);
        let op = |op: &OpState| u64::from(op.keys) | (op.phase as u64) << 16 | u64::from(op.flag) << 24;
        self.ops.chunks_exact(2).for_each(|two| to.write_u64(op(&two[0]) | op(&two[1]) << 32));
        let reader = match self.reader {
            Reader::Idle => 0,
            Reader::Bound(txn) => 0x40 | txn,
            Reader::Missed(txn) => 0x80 | txn,
            Reader::Alarmed => 0xc0,
        };
        let ([a, b, c], [first, second]) = (slots, self.began);
        to.write_u64(u64::from_le_bytes([a, b, c, first, second, reader, 0, 0]));
    }
}
