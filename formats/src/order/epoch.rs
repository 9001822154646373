//! One epoch of one dataset: row groups dealt into lanes, lanes cut into windows, and how many samples each has.
//!
//! Takes a few bytes a row group. Must never look at a token.

use std::cmp::Reverse;

use super::draws::{Draws, Purpose};
use super::spec::{GroupTable, OrderSpec, Packing};

/// Row groups whose rows and tokens are looked up together before they are dealt: 1,024, so that a processor waits for
/// many far places of the table at once, and 24 KiB of them stay near.
const DEAL_BLOCK: usize = 1024;

/// The order of one epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Epoch {
    number: u64,
    spec: OrderSpec,
    lanes: Vec<Lane>,
    /// Where lanes end, in whole rounds. Empty where only the documents' lengths tell how many samples there are.
    ends: Vec<End>,
}

/// One lane.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Lane {
    /// Its number when row groups were dealt.
    dealt: u32,
    groups: Vec<u32>,
    tokens: u64,
    /// Samples up to the end of each window, where they are known from the manifest.
    items: Vec<u64>,
}

/// A number of rounds after which lanes end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct End {
    rounds: u64,
    /// Samples of all lanes in these rounds.
    items: u64,
    /// Lanes that take part in the rounds before the end.
    lanes: u64,
}

/// A place in a lane.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LanePlace {
    /// The window; as many as there are where the lane is exhausted.
    pub window: u32,
    /// The sample within it.
    pub item: u32,
}

impl Epoch {
    /// Puts the row groups of a dataset in order. The specification was checked against the table.
    pub(super) fn new(table: &GroupTable, spec: &OrderSpec, number: u64) -> Self {
        let groups = table.rows.len() as u32;
        let order = match spec.seed {
            Some(seed) => Draws::new(&table.id, seed, number, Purpose::Groups).permutation(groups),
            None => (0..groups).collect(),
        };
        let mut lanes = deal(table, spec, &order);
        lanes.sort_by_key(|lane| (Reverse(lane.items.last().copied().unwrap_or(lane.tokens)), lane.dealt));
        let ends = if spec.packing.items(0, 0).is_some() { ends_of(&lanes) } else { Vec::new() };
        Self { number, spec: spec.clone(), lanes, ends }
    }

    /// Returns the number of the epoch.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns what a sample is.
    pub fn packing(&self) -> Packing {
        self.spec.packing
    }

    /// Returns the number of lanes.
    pub fn lanes(&self) -> u32 {
        self.lanes.len() as u32
    }

    /// Returns the number of windows of a lane.
    pub fn windows(&self, lane: u32) -> u32 {
        let lane = &self.lanes[lane as usize];
        let first = lane.first_window(self.spec.window);
        let groups = lane.groups.len() as u32;
        if groups <= first { groups.min(1) } else { 1 + (groups - first).div_ceil(self.spec.window) }
    }

    /// Returns the row groups of a window, by their numbers in the table.
    pub fn groups(&self, lane: u32, window: u32) -> &[u32] {
        self.lanes[lane as usize].window(self.spec.window, window)
    }

    /// Returns the order in which the documents of a window come: their numbers, counted through its row groups.
    pub fn documents(&self, table: &GroupTable, lane: u32, window: u32) -> Vec<u32> {
        let rows: u64 = self.groups(lane, window).iter().map(|group| table.rows(*group)).sum();
        let rows = u32::try_from(rows).expect("the specification was checked");
        match self.spec.seed {
            Some(seed) => {
                let purpose = Purpose::Documents { lane: self.lanes[lane as usize].dealt, window };
                Draws::new(&table.id, seed, self.number, purpose).permutation(rows)
            }
            None => (0..rows).collect(),
        }
    }

    /// Returns the samples of a window, where they are known from the manifest.
    pub(super) fn items(&self, lane: u32, window: u32) -> Option<u32> {
        let lane = &self.lanes[lane as usize];
        let end = *lane.items.get(window as usize)?;
        Some((end - lane.before(window)) as u32)
    }

    /// Returns the planned tokens of a window.
    pub(super) fn tokens(&self, table: &GroupTable, lane: u32, window: u32) -> u64 {
        self.groups(lane, window).iter().map(|group| table.tokens(*group)).sum()
    }

    /// Returns the samples of the epoch, where they are known from the manifest.
    pub fn samples(&self) -> Option<u64> {
        self.ends.last().map(|end| end.items)
    }

    /// Returns how many samples of the epoch come before these places, of which there is one for each lane, where that
    /// is known from the manifest.
    pub(super) fn samples_before(&self, places: &[LanePlace]) -> Option<u64> {
        self.samples()?;
        Some(self.lanes.iter().zip(places).map(|(lane, place)| lane.before(place.window) + u64::from(place.item)).sum())
    }

    /// Returns where all lanes are after the first `samples` samples, and which lane comes next. None where that is not
    /// known from the manifest, or the epoch has not as many samples.
    ///
    /// The number of whole rounds is found by halving over the ends of lanes, and each lane's window by halving over
    /// its windows.
    pub fn places_after(&self, samples: u64) -> Option<(Vec<LanePlace>, u32)> {
        if samples > self.samples()? {
            return None;
        }
        let next = self.ends.partition_point(|end| end.items <= samples);
        let before = next.checked_sub(1).map_or((0, 0), |i| (self.ends[i].rounds, self.ends[i].items));
        let lanes = self.ends.get(next).map_or(1, |end| end.lanes);
        let (rounds, rest) = ((samples - before.1) / lanes + before.0, (samples - before.1) % lanes);
        let place = |(number, lane): (usize, &Lane)| lane.place(rounds + u64::from((number as u64) < rest));
        Some((self.lanes.iter().enumerate().map(place).collect(), rest as u32))
    }
}

/// Deals row groups, in order, each to the lane with the least so far. A lane's load counts a token and a document
/// alike, so that empty documents are dealt too; equal loads go to the lower number. Empty row groups are left out.
fn deal(table: &GroupTable, spec: &OrderSpec, order: &[u32]) -> Vec<Lane> {
    let room = order.len() / spec.lanes as usize + 1;
    let mut lanes: Vec<Lane> = (0..spec.lanes).map(|dealt| Lane::new(dealt, room)).collect();
    let mut windows: Vec<Filling> = lanes.iter().map(|lane| Filling::new(lane.first_window(spec.window))).collect();
    let mut loads = Loads::new(spec.lanes);
    let sizes = |block: &[u32]| block.iter().map(|group| (*group, table.rows(*group), table.tokens(*group))).collect();
    for (group, rows, tokens) in order.chunks(DEAL_BLOCK).flat_map(|block| -> Vec<_> { sizes(block) }) {
        if rows == 0 {
            continue;
        }
        let number = loads.add_to_least(rows, tokens) as usize;
        let (lane, window) = (&mut lanes[number], &mut windows[number]);
        lane.groups.push(group);
        lane.tokens += tokens;
        *window = Filling { left: window.left - 1, rows: window.rows + rows, tokens: window.tokens + tokens };
        if window.left == 0 {
            lane.close(window, spec.packing);
            *window = Filling::new(spec.window);
        }
    }
    for (lane, window) in lanes.iter_mut().zip(&windows).filter(|(_, window)| window.rows > 0) {
        lane.close(window, spec.packing);
    }
    lanes
}

/// A window that is being filled.
#[derive(Clone, Copy)]
struct Filling {
    /// Row groups that are still missing.
    left: u32,
    rows: u64,
    tokens: u64,
}

impl Filling {
    fn new(groups: u32) -> Self {
        Self { left: groups, rows: 0, tokens: 0 }
    }
}

/// What lanes have so far, in a tree whose nodes know the least below them: no branch depends on loads, which no
/// processor could foresee.
struct Loads {
    /// A complete binary tree, root at 1: loads, each followed by 32 bits with the lane's number, so that the lowest
    /// number of equals is the least. Leaves that are no lanes are never the least.
    least: Vec<u128>,
}

impl Loads {
    fn new(lanes: u32) -> Self {
        let leaves = lanes.next_power_of_two() as usize;
        let mut least = vec![u128::MAX; 2 * leaves];
        (0..lanes).for_each(|lane| least[leaves + lane as usize] = u128::from(lane));
        for node in (1..leaves).rev() {
            least[node] = least[2 * node].min(least[2 * node + 1]);
        }
        Self { least }
    }

    /// Adds to the lane with the least, and returns its number.
    fn add_to_least(&mut self, rows: u64, tokens: u64) -> u32 {
        let least = self.least[1];
        let lane = least as u32;
        let mut node = self.least.len() / 2 + lane as usize;
        self.least[node] = least + ((u128::from(rows) + u128::from(tokens)) << 32);
        while node > 1 {
            node /= 2;
            self.least[node] = self.least[2 * node].min(self.least[2 * node + 1]);
        }
        lane
    }
}

/// Finds where lanes end; they are sorted by their samples, most first.
fn ends_of(lanes: &[Lane]) -> Vec<End> {
    let mut ends: Vec<End> = vec![End { rounds: 0, items: 0, lanes: lanes.len() as u64 }];
    for (number, lane) in lanes.iter().enumerate().rev() {
        let rounds = lane.items.last().copied().unwrap_or(0);
        let last = ends[ends.len() - 1];
        if rounds > last.rounds {
            let lanes = number as u64 + 1;
            ends.push(End { rounds, items: last.items + (rounds - last.rounds) * lanes, lanes });
        }
    }
    ends
}

impl Lane {
    fn new(dealt: u32, room: usize) -> Self {
        Self { dealt, groups: Vec::with_capacity(room), tokens: 0, items: Vec::new() }
    }

    /// Row groups of the first window: from 1 to `window`, other ones in neighbouring lanes, so that not all lanes come
    /// to the end of a window at the same time.
    fn first_window(&self, window: u32) -> u32 {
        self.dealt % window + 1
    }

    fn window(&self, size: u32, window: u32) -> &[u32] {
        let first = self.first_window(size) as usize;
        let start = (window as usize).checked_sub(1).map_or(0, |before| first + before * size as usize);
        let end = first + window as usize * size as usize;
        let groups = self.groups.len();
        &self.groups[start.min(groups)..end.min(groups)]
    }

    /// Notes how many samples there are up to the end of a window, where rows and tokens tell.
    fn close(&mut self, window: &Filling, packing: Packing) {
        let before = self.items.last().copied().unwrap_or(0);
        self.items.extend(packing.items(window.rows, window.tokens).map(|items| before + items));
    }

    /// Returns the place of a sample of the lane: windows without samples are passed.
    fn place(&self, item: u64) -> LanePlace {
        let window = self.items.partition_point(|end| *end <= item);
        if window == self.items.len() {
            return LanePlace { window: window as u32, item: 0 };
        }
        LanePlace { window: window as u32, item: (item - self.before(window as u32)) as u32 }
    }

    /// Returns the samples before a window.
    fn before(&self, window: u32) -> u64 {
        window.checked_sub(1).map_or(0, |before| self.items[before as usize])
    }
}

#[cfg(test)]
#[path = "epoch_test.rs"]
mod tests;
