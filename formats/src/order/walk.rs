//! A walk through one dataset, epoch after epoch: which sample comes next.
//!
//! Goes round the lanes, one sample of each in turn; a lane that is exhausted drops out and the others go on. Must
//! never fetch: where it needs the lengths of a window's documents, it asks.

use std::sync::{Arc, Mutex, PoisonError};

use super::epoch::{Epoch, LanePlace};
use super::mix::Unit;
use super::pack::ItemSize;
use super::spec::{GroupTable, OrderSpec, Packing, SpecError};

/// Epochs that are kept: the one that is read, the one that is read ahead, and one that somebody looks back at.
const KEPT_EPOCHS: usize = 3;

/// One dataset in one order: its epochs, made when they are asked for.
#[derive(Debug)]
pub struct SourceOrder {
    table: GroupTable,
    spec: OrderSpec,
    /// Rows of all row groups.
    rows: u64,
    /// Planned tokens of all row groups.
    tokens: u64,
    kept: Mutex<Vec<Arc<Epoch>>>,
}

/// A window of a lane.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WindowKey {
    /// The source.
    pub source: u32,
    /// The epoch of the source.
    pub epoch: u64,
    /// The lane.
    pub lane: u32,
    /// The window.
    pub window: u32,
}

/// A sample.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Its window.
    pub window: WindowKey,
    /// Its number in the window.
    pub item: u32,
    /// What it counts, in the unit of the walk.
    pub count: u32,
}

/// What a walk answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// The next sample.
    Sample(Sample),
    /// The sizes of the samples of this window are needed first.
    Need(WindowKey),
    /// The epoch is over.
    Over,
}

/// Why places are not where a walk can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Astray {
    /// There are more lanes or fewer.
    Lanes,
    /// The place of this lane is not one.
    Lane(u32),
    /// All are places, but not at the same time.
    Rounds,
}

/// Where in an epoch a walk is, and what it knows of the windows it is in.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    source: u32,
    order: Arc<SourceOrder>,
    epoch: Arc<Epoch>,
    places: Vec<LanePlace>,
    /// Sizes of the samples of the window that a lane is in, where they were needed.
    sizes: Vec<Option<Arc<[ItemSize]>>>,
    /// Lanes that are not exhausted, ascending.
    active: Vec<u32>,
    /// The next one of them.
    at: usize,
    unit: Unit,
}

impl SourceOrder {
    /// Puts the files of a dataset in order.
    pub fn new(table: GroupTable, spec: OrderSpec) -> Result<Arc<Self>, SpecError> {
        spec.check(&table)?;
        // No overflow: what was checked is that each is below 2^32, and there are fewer than 2^32.
        let (rows, tokens) = (table.rows.iter().sum(), table.tokens.iter().sum());
        Ok(Arc::new(Self { table, spec, rows, tokens, kept: Mutex::new(Vec::new()) }))
    }

    /// Returns the row groups.
    pub fn table(&self) -> &GroupTable {
        &self.table
    }

    /// Returns the specification.
    pub fn spec(&self) -> &OrderSpec {
        &self.spec
    }

    /// Returns an epoch; made at its first use, some 100 ns a row group.
    pub fn epoch(&self, number: u64) -> Arc<Epoch> {
        let find = |kept: &Vec<Arc<Epoch>>| kept.iter().find(|epoch| epoch.number() == number).map(Arc::clone);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(epoch) = find(&kept) {
            return epoch;
        }
        let epoch = Arc::new(Epoch::new(&self.table, &self.spec, number));
        if kept.len() == KEPT_EPOCHS {
            kept.remove(0);
        }
        kept.push(Arc::clone(&epoch));
        epoch
    }

    /// Tells whether there is no sample in any epoch.
    pub(super) fn is_empty(&self) -> bool {
        self.fewest() == 0
    }

    /// Returns how many samples an epoch has at least; 0 only where it has none.
    pub(super) fn fewest(&self) -> u64 {
        match self.spec.packing {
            Packing::Documents => self.rows,
            Packing::Concat { seq_len } => self.tokens.div_ceil(u64::from(seq_len)),
            Packing::FirstFit { .. } => self.tokens.min(1),
        }
    }
}

impl Walk {
    /// Starts at the beginning of an epoch.
    pub(super) fn start(source: u32, order: &Arc<SourceOrder>, epoch: u64, unit: Unit) -> Self {
        let epoch = order.epoch(epoch);
        let places = vec![LanePlace { window: 0, item: 0 }; epoch.lanes() as usize];
        Self::at(source, order, epoch, unit, places, 0).expect("a beginning is a place")
    }

    /// Goes on where every lane is at its place, and `next` comes next, or the lane after it that is not exhausted.
    pub(super) fn at(
        source: u32,
        order: &Arc<SourceOrder>,
        epoch: Arc<Epoch>,
        unit: Unit,
        places: Vec<LanePlace>,
        next: u32,
    ) -> Result<Self, Astray> {
        if places.len() != epoch.lanes() as usize {
            return Err(Astray::Lanes);
        }
        let lanes = places.len();
        let order = Arc::clone(order);
        let (sizes, active) = (vec![None; lanes], Vec::new());
        let mut walk = Self { source, order, epoch, places, sizes, active, at: 0, unit };
        for lane in 0..lanes as u32 {
            let place = walk.places[lane as usize];
            let windows = walk.epoch.windows(lane);
            if place.window > windows || place.item > 0 && u64::from(place.item) >= walk.most(lane, place.window) {
                return Err(Astray::Lane(lane));
            }
            walk.pass_empty(lane);
            if walk.places[lane as usize].window < windows {
                walk.active.push(lane);
            }
        }
        walk.at = walk.active.partition_point(|lane| *lane < next);
        if walk.at == walk.active.len() {
            walk.at = 0;
        }
        Ok(walk)
    }

    /// Goes on where a walk was: at the very places that [`places`](Self::places) returned. Where the manifest tells
    /// the lengths of lanes, places that no walk is at are found out; elsewhere [`give`](Self::give) finds some.
    pub(super) fn resume(
        source: u32,
        order: &Arc<SourceOrder>,
        epoch: u64,
        unit: Unit,
        places: &[LanePlace],
        next: u32,
    ) -> Result<Self, Astray> {
        let epoch = order.epoch(epoch);
        let walk = Self::at(source, order, Arc::clone(&epoch), unit, places.to_vec(), next)?;
        if let Some(lane) = walk.places.iter().zip(places).position(|(at, place)| at != place) {
            return Err(Astray::Lane(lane as u32));
        }
        let led = epoch.samples_before(places).and_then(|samples| epoch.places_after(samples));
        if walk.places().1 != next || led.is_some_and(|(led, then)| led != places || then != next) {
            return Err(Astray::Rounds);
        }
        Ok(walk)
    }

    /// Returns the epoch.
    pub(super) fn epoch(&self) -> &Arc<Epoch> {
        &self.epoch
    }

    /// Returns the places of all lanes, and the lane that comes next.
    pub(super) fn places(&self) -> (&[LanePlace], u32) {
        (&self.places, self.active.get(self.at).copied().unwrap_or(0))
    }

    /// Returns what was counted of the source up to here, which is after `samples` samples of it, where the manifest
    /// tells: every epoch has the same tokens.
    pub(super) fn counted_before(&self, samples: u64) -> Option<u64> {
        match (self.unit, self.epoch.packing()) {
            (Unit::Samples, _) | (Unit::Documents, Packing::Documents) => Some(samples),
            (Unit::Tokens, Packing::Concat { seq_len }) => {
                let table = self.order.table();
                let whole = self.epoch.number().saturating_mul(self.order.tokens);
                let lane = |lane: u32| {
                    let LanePlace { window, item } = self.places[lane as usize];
                    let before: u64 = (0..window).map(|window| self.epoch.tokens(table, lane, window)).sum();
                    before + u64::from(item) * u64::from(seq_len)
                };
                Some(whole.saturating_add((0..self.epoch.lanes()).map(lane).sum::<u64>()))
            }
            _ => None,
        }
    }

    /// Returns the next sample, and stays where it is.
    pub(super) fn peek(&self) -> Next {
        let Some(&lane) = self.active.get(self.at) else { return Next::Over };
        let LanePlace { window, item } = self.places[lane as usize];
        let key = WindowKey { source: self.source, epoch: self.epoch.number(), lane, window };
        match self.count(lane, item) {
            Some(count) => Next::Sample(Sample { window: key, item, count }),
            None => Next::Need(key),
        }
    }

    /// Goes past the sample that was peeked at.
    pub(super) fn pass(&mut self) {
        let Some(&lane) = self.active.get(self.at) else { return };
        let place = &mut self.places[lane as usize];
        let items = match &self.sizes[lane as usize] {
            Some(sizes) => sizes.len() as u32,
            None => self.epoch.items(lane, place.window).unwrap_or(0),
        };
        place.item += 1;
        if place.item >= items {
            *place = LanePlace { window: place.window + 1, item: 0 };
            self.sizes[lane as usize] = None;
            self.pass_empty(lane);
        }
        if self.places[lane as usize].window == self.epoch.windows(lane) {
            self.active.remove(self.at);
        } else {
            self.at += 1;
        }
        if self.at >= self.active.len() {
            self.at = 0;
        }
    }

    /// Takes the sizes of a window's samples. Returns whether the lane's place is one of them, and there are as many as
    /// the manifest says, where it does.
    pub(super) fn give(&mut self, key: WindowKey, sizes: Arc<[ItemSize]>) -> bool {
        let place = self.places[key.lane as usize];
        if place.window == key.window && key.epoch == self.epoch.number() {
            let items = self.epoch.items(key.lane, key.window);
            if place.item as usize >= sizes.len() || items.is_some_and(|items| items as usize != sizes.len()) {
                return false;
            }
            self.sizes[key.lane as usize] = Some(sizes);
        }
        true
    }

    /// Returns the most samples that a window has: as many as the manifest says, or as many as it has tokens.
    fn most(&self, lane: u32, window: u32) -> u64 {
        let known = self.epoch.items(lane, window).map(u64::from);
        known.unwrap_or_else(|| self.epoch.tokens(self.order.table(), lane, window))
    }

    /// Passes windows without samples.
    fn pass_empty(&mut self, lane: u32) {
        let windows = self.epoch.windows(lane);
        let mut window = self.places[lane as usize].window;
        if window == windows || self.most(lane, window) > 0 {
            return;
        }
        while window < windows && self.most(lane, window) == 0 {
            window += 1;
        }
        self.places[lane as usize] = LanePlace { window, item: 0 };
    }

    /// Returns what a sample of the window that a lane is in counts, unless sizes are needed for that or for the number
    /// of the samples.
    fn count(&self, lane: u32, item: u32) -> Option<u32> {
        if let Some(sizes) = &self.sizes[lane as usize] {
            let size = sizes.get(item as usize)?;
            return Some(match self.unit {
                Unit::Samples => 1,
                Unit::Tokens => size.tokens,
                Unit::Documents => size.documents,
            });
        }
        let window = self.places[lane as usize].window;
        let items = self.epoch.items(lane, window)?;
        match (self.unit, self.epoch.packing()) {
            (Unit::Samples, _) | (Unit::Documents, Packing::Documents) => Some(1),
            (Unit::Tokens, Packing::Concat { seq_len }) if item + 1 < items => Some(seq_len),
            (Unit::Tokens, Packing::Concat { seq_len }) => {
                let tokens = self.epoch.tokens(self.order.table(), lane, window);
                Some((tokens - u64::from(items - 1) * u64::from(seq_len)) as u32)
            }
            _ => None,
        }
    }
}
