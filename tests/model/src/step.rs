//! What can happen next: a process takes a step, the store does what it was asked for, a process dies.
//!
//! Each step reads the store or the log once, or changes it once; a look at the tail of the log is one step, because
//! the log only grows. Must never let a process know what it has not read.

use stateright::{Model, Property};

use crate::invariant;
use crate::log::{Act, Entry, Folded, GROUP, Keys, Record, below, expired, key, usable};
use crate::scenario::{Mutation, Scenario, Work};
use crate::state::{OpState, Phase, Reader, State};

/// One step. Numbers are those of operations, writers, collectors, creations on their way, and keys (as bits).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// An operation reads the log, and its object's places where it is a save: it ends, or chooses keys and sends what
    /// is missing.
    Look(u8),
    /// A save finds everything in the store.
    Found(u8),
    /// A writer reads the log and sends a record of one of its operations, or of two of them.
    Propose(u8, u8, Option<u8>),
    /// A writer finds its slot filled and reads on from there.
    Resolve(u8),
    /// A writer takes a doubtful answer for success, or for failure. Only with a broken rule.
    Believe(u8),
    /// A writer dies and begins anew: all that it remembered is gone.
    Restart(u8),
    /// A creation lands in the next slot of the log.
    Land(u8),
    /// An object that was sent lands.
    Arrive(Keys),
    /// A collector asks for a deletion.
    Delete(Keys),
    /// A deletion happens.
    Vanish(Keys),
    /// A collector reads the log and sends a fence.
    Fence(u8),
    /// A reader reads the log and takes the commit of a transaction.
    Bind(u8),
    /// It reads one of the commit's objects.
    Get(Keys),
    /// An object was missing: it reads the log again.
    ReadAgain,
}

impl Model for Scenario {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State { folds: self.folds_logs(), ..State::default() }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let log = state.folded(self);
        for op in 0..self.ops.len() as u8 {
            steps.extend(self.step_of(state, &log, op));
        }
        (0..self.writers).for_each(|writer| self.steps_of_writer(state, &log, writer, steps));
        steps.extend((0..state.comings).map(Step::Land));
        steps.extend(each(state.arriving & !state.present).map(Step::Arrive));
        // What is condemned stays so: it is deleted, or it will be. Only what a broken rule lets be deleted for a while
        // must be remembered where it was asked for.
        let passing = self.deletable(state, &log) & !log.condemned;
        steps.extend(each(passing & state.present & !state.deleting).map(Step::Delete));
        steps.extend(each((state.deleting | log.condemned) & state.present).map(Step::Vanish));
        for collector in 0..self.collectors {
            let record = fence(collector, &log);
            if log.epoch < self.last_epoch && !state.coming().contains(&record) && state.can_send(self, &record) {
                steps.push(Step::Fence(collector));
            }
        }
        if self.reader {
            match state.reader {
                Reader::Idle => steps.extend(log.live().iter().map(|live| Step::Bind(live.txn))),
                Reader::Bound(txn) => steps.extend(each(keys_of(state, txn)).map(Step::Get)),
                Reader::Missed(_) => steps.push(Step::ReadAgain),
                Reader::Alarmed => {}
            }
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut state = *before;
        match step {
            Step::Look(op) => self.look(&mut state, op),
            Step::Found(op) => state.ops[usize::from(op)].phase = Phase::Ready,
            Step::Propose(writer, first, second) => self.propose(&mut state, writer, first, second),
            Step::Resolve(writer) => self.resolve(&mut state, writer),
            Step::Believe(writer) => self.believe(&mut state, writer),
            Step::Restart(writer) => self.restart(&mut state, writer),
            Step::Land(which) => state.land(which),
            Step::Arrive(key) => state.present |= key,
            Step::Delete(key) => state.deleting |= key,
            Step::Vanish(key) => state.present &= !key,
            Step::Fence(collector) => self.send_fence(&mut state, collector),
            Step::Bind(txn) => state.reader = Reader::Bound(txn),
            Step::Get(key) => {
                let Reader::Bound(txn) = state.reader else { return None };
                state.reader = if state.present & key == 0 { Reader::Missed(txn) } else { Reader::Idle };
            }
            Step::ReadAgain => {
                let Reader::Missed(txn) = state.reader else { return None };
                let live = state.folded(self).live().iter().any(|live| live.txn == txn);
                state.reader = if live { Reader::Alarmed } else { Reader::Idle };
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        invariant::properties(self)
    }
}

impl Scenario {
    /// Returns the transaction of an operation: the same after a restart.
    pub(crate) fn txn(&self, state: &State, op: u8) -> u8 {
        let fresh = self.breaks(Mutation::FreshTransaction) && state.ops[usize::from(op)].flag != 0;
        op | u8::from(fresh) << 3
    }

    /// Returns the step that an operation takes by itself.
    pub(crate) fn step_of(&self, state: &State, log: &Folded, op: u8) -> Option<Step> {
        let at = state.ops[usize::from(op)];
        match (self.ops[usize::from(op)].work, at.phase) {
            (Work::Save { .. }, Phase::New) => Some(Step::Look(op)),
            (Work::Save { .. }, Phase::Sending) => {
                let there = at.keys & !state.present == 0 || self.breaks(Mutation::NoExistenceCheck);
                there.then_some(Step::Found(op))
            }
            (Work::Save { name, .. }, Phase::Ready) if !self.stands(state, log, op) => {
                let waits = self.breaks(Mutation::NeverAnew) && !log.is_live(name);
                (!waits).then_some(Step::Look(op))
            }
            (Work::Save { .. }, Phase::Unchecked) if !self.stands(state, log, op) => Some(Step::Look(op)),
            // What was never live is not asked for yet.
            (Work::Pin(name) | Work::Drop(name), Phase::New) if log.named >> name & 1 == 1 => {
                (!self.stands(state, log, op)).then_some(Step::Look(op))
            }
            _ => None,
        }
    }

    /// Tells whether an operation is ready to be proposed and its preconditions hold after `log`.
    pub(crate) fn stands(&self, state: &State, log: &Folded, op: u8) -> bool {
        let at = state.ops[usize::from(op)];
        if log.has(self.txn(state, op)) && !self.breaks(Mutation::NoSearch) {
            return false;
        }
        match (self.ops[usize::from(op)].work, at.phase) {
            (Work::Save { name, .. }, Phase::Ready) => {
                let free = !log.is_live(name) || self.breaks(Mutation::NameTakenTwice);
                // By when it was sent instead of by its name.
                let sent = self.breaks(Mutation::SameKeyAgain) && at.flag >= log.epoch;
                free && (log.is_usable(at.keys) || sent)
            }
            (Work::Save { name, .. }, Phase::Unchecked) => !log.is_live(name),
            (Work::Pin(name), Phase::New) => log.is_live(name),
            (Work::Drop(name), Phase::New) => log.is_live(name) && log.pins >> name & 1 == 0,
            _ => false,
        }
    }

    fn steps_of_writer(&self, state: &State, log: &Folded, writer: u8, steps: &mut Vec<Step>) {
        let mine = || (0..self.ops.len() as u8).filter(move |op| self.ops[usize::from(*op)].process == writer);
        let slot = state.slots[usize::from(writer)];
        if slot == 0 {
            for first in mine().filter(|op| self.stands(state, log, *op)) {
                let others = mine().filter(|op| *op != first && self.stands(state, log, *op)).map(Some);
                let groups = others.chain([None]).map(|second| (second, self.record(state, first, second)));
                let groups = groups.filter(|(_, record)| self.may_share(record) && state.can_send(self, record));
                steps.extend(groups.map(|(second, _)| Step::Propose(writer, first, second)));
            }
        } else {
            if slot <= state.len {
                steps.push(Step::Resolve(writer));
            }
            let gives_up = self.breaks(Mutation::GivesUpInDoubt) && slot > state.len;
            if gives_up || self.breaks(Mutation::NoReadBack) {
                steps.push(Step::Believe(writer));
            }
        }
        let under_way = |op: u8| !matches!(state.ops[usize::from(op)].phase, Phase::New | Phase::Done | Phase::Refused);
        if mine().any(under_way) {
            steps.push(Step::Restart(writer));
        }
    }

    /// Reads the log for an operation that can't be proposed as it is.
    fn look(&self, state: &mut State, op: u8) {
        let (log, txn) = (state.folded(self), self.txn(state, op));
        let searched = !self.breaks(Mutation::NoSearch);
        let refused = |state: &mut State| state.ops[usize::from(op)].phase = Phase::Refused;
        if searched && log.has(txn) {
            self.end(state, &log, op);
            return;
        }
        match self.ops[usize::from(op)].work {
            Work::Save { name, .. } if log.is_live(name) && !self.breaks(Mutation::NameTakenTwice) => refused(state),
            Work::Save { data, manifest, .. } => {
                let data = self.place(state, &log, data);
                // The manifest says where the data lies: it is written anew with every choice.
                let keys = data | self.new_key(&log, manifest);
                state.arriving |= keys & !state.present;
                let at = &mut state.ops[usize::from(op)];
                (at.phase, at.keys) = (Phase::Sending, keys);
                if self.breaks(Mutation::SameKeyAgain) {
                    at.flag = log.epoch + 1;
                }
            }
            Work::Pin(_) | Work::Drop(_) => refused(state),
        }
    }

    /// Chooses the key of a content: one that a live commit keeps or that is usable, and is there, or a new one.
    fn place(&self, state: &State, log: &Folded, content: u8) -> Keys {
        let all = (0..4).fold(0, |keys, epoch| keys | key(content, epoch));
        let there = all & state.present;
        let kept = there & log.kept();
        let candidates = if kept == 0 { there & usable(log.epoch) } else { kept };
        match candidates {
            0 => self.new_key(log, content),
            // The newest.
            some => 1 << (Keys::BITS - 1 - some.leading_zeros()),
        }
    }

    fn new_key(&self, log: &Folded, content: u8) -> Keys {
        key(content, if self.breaks(Mutation::SameKeyAgain) { 0 } else { log.epoch })
    }

    fn entry(&self, state: &State, op: u8) -> Entry {
        let act = match self.ops[usize::from(op)].work {
            Work::Save { name, .. } => Act::Commit { name, keys: state.ops[usize::from(op)].keys },
            Work::Pin(name) => Act::Pin { name },
            Work::Drop(name) => Act::Drop { name },
        };
        Entry::new(self.txn(state, op), act)
    }

    fn record(&self, state: &State, first: u8, second: Option<u8>) -> Record {
        [self.entry(state, first), second.map(|second| self.entry(state, second)).unwrap_or_default()]
    }

    /// Tells whether two entries may share a record, each proposed for the state before it: a commit's keys may be kept
    /// by what a drop takes away.
    fn may_share(&self, record: &Record) -> bool {
        let is = |of: fn(Act) -> bool| record.iter().filter_map(|entry| entry.act()).any(of);
        let both = is(|act| matches!(act, Act::Commit { .. })) && is(|act| matches!(act, Act::Drop { .. }));
        !both || self.breaks(Mutation::CommitBesideDrop)
    }

    fn propose(&self, state: &mut State, writer: u8, first: u8, second: Option<u8>) {
        let record = self.record(state, first, second);
        state.slots[usize::from(writer)] = state.send(record);
        for op in [Some(first), second].into_iter().flatten() {
            state.ops[usize::from(op)].phase = Phase::Proposed;
        }
    }

    /// Ends an operation whose transaction stands in the log.
    fn end(&self, state: &mut State, log: &Folded, op: u8) {
        let took = log.took >> self.txn(state, op) & 1 == 1;
        let acknowledged = took || self.breaks(Mutation::VoidAcknowledged);
        let phase = if acknowledged { Phase::Done } else { Phase::Refused };
        state.ops[usize::from(op)] = OpState { phase, keys: 0, ..state.ops[usize::from(op)] };
        if let (true, Work::Drop(name), true) =
            (took, self.ops[usize::from(op)].work, self.breaks(Mutation::DropDeletes))
        {
            for entry in state.log().iter().flatten().map(|entry| entry.act()).collect::<Vec<_>>() {
                match entry {
                    Some(Act::Commit { name: of, keys }) if of == name => state.deleting |= keys,
                    _ => {}
                }
            }
        }
    }

    /// A slot is filled: each of the writer's transactions is looked for, and what is not there is ready again.
    fn resolve(&self, state: &mut State, writer: u8) {
        let slot = std::mem::take(&mut state.slots[usize::from(writer)]);
        let log = state.folded(self);
        let proposed: Vec<u8> = self.proposed(state, writer).collect();
        let there = state.log[usize::from(slot) - 1];
        let mine: Vec<Entry> = proposed.iter().map(|op| self.entry(state, *op)).collect();
        // Without a search a record is one's own as a whole, or not at all.
        let whole = there.iter().filter(|entry| entry.act().is_some()).count() == mine.len()
            && mine.iter().all(|entry| there.contains(entry));
        for op in proposed {
            let searched = whole || !self.breaks(Mutation::NoSearch);
            if searched && log.has(self.txn(state, op)) {
                self.end(state, &log, op);
                continue;
            }
            state.ops[usize::from(op)].phase = match self.ops[usize::from(op)].work {
                Work::Save { .. } if self.breaks(Mutation::NoUsabilityCheck) => Phase::Unchecked,
                Work::Save { .. } => Phase::Ready,
                Work::Pin(_) | Work::Drop(_) => Phase::New,
            };
        }
    }

    fn believe(&self, state: &mut State, writer: u8) {
        state.slots[usize::from(writer)] = 0;
        let phase = if self.breaks(Mutation::NoReadBack) { Phase::Done } else { Phase::Refused };
        for op in self.proposed(state, writer).collect::<Vec<_>>() {
            state.ops[usize::from(op)] = OpState { phase, keys: 0, ..state.ops[usize::from(op)] };
        }
    }

    fn proposed<'s>(&'s self, state: &State, writer: u8) -> impl Iterator<Item = u8> + use<'s> {
        let ops = state.ops;
        (0..self.ops.len() as u8).filter(move |op| {
            self.ops[usize::from(*op)].process == writer && ops[usize::from(*op)].phase == Phase::Proposed
        })
    }

    fn restart(&self, state: &mut State, writer: u8) {
        state.slots[usize::from(writer)] = 0;
        for (op, at) in self.ops.iter().zip(&mut state.ops) {
            if op.process == writer && !matches!(at.phase, Phase::Done | Phase::Refused) {
                *at = OpState { flag: u8::from(self.breaks(Mutation::FreshTransaction)), ..OpState::default() };
            }
        }
    }

    fn send_fence(&self, state: &mut State, collector: u8) {
        let log = state.folded(self);
        state.send(fence(collector, &log));
        if self.breaks(Mutation::TwoPrefixes) {
            let began = &mut state.began[usize::from(collector)];
            let view = began.checked_sub(1).map(|seen| Folded::of(&state.log[..usize::from(seen)], self.broken));
            // A fence that lost its slot to another record is sent again; what the collector saw stays as old as it is.
            if view.is_none_or(|view| view.epoch != log.epoch) {
                *began = state.len + 1;
            }
        }
    }

    /// Returns the keys that collectors may delete now.
    pub(crate) fn deletable(&self, state: &State, log: &Folded) -> Keys {
        match self.broken {
            Some(Mutation::CondemnedLate) => expired(log.epoch.saturating_sub(1)) & !log.kept_at_fence,
            Some(Mutation::DeleteBeforeFence) => {
                let is_fence = |entry: &Entry| matches!(entry.act(), Some(Act::Fence { .. }));
                let sent = state.coming().iter().flatten().any(is_fence);
                log.condemned | if sent { expired(log.epoch + 1) & !log.kept() } else { 0 }
            }
            Some(Mutation::TwoPrefixes) => {
                let views = state.began.iter().filter_map(|began| began.checked_sub(1));
                let views = views.map(|seen| Folded::of(&state.log[..usize::from(seen)], self.broken));
                let stale = views.filter(|view| view.epoch < log.epoch);
                stale.fold(log.condemned, |keys, view| keys | below(log.epoch - 1) & !view.kept())
            }
            _ => log.condemned,
        }
    }
}

fn fence(collector: u8, log: &Folded) -> Record {
    let mut record = [Entry::default(); GROUP];
    record[0] = Entry::new(0x20 | collector << 3 | (log.epoch + 1), Act::Fence { epoch: log.epoch + 1 });
    record
}

/// Returns each of a set of keys.
fn each(keys: Keys) -> impl Iterator<Item = Keys> {
    (0..Keys::BITS).map(|bit| 1 << bit).filter(move |key| keys & key != 0)
}

/// Returns the keys that the commit of a transaction refers to.
fn keys_of(state: &State, txn: u8) -> Keys {
    let entries = state.log().iter().flatten().filter(|entry| entry.txn() == txn);
    entries.fold(0, |keys, entry| match entry.act() {
        Some(Act::Commit { keys: more, .. }) => keys | more,
        _ => keys,
    })
}
