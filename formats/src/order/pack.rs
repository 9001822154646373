//! Documents of a window become samples, from their lengths alone.
//!
//! Must never look at a token, nor remember anything from one window to the next: a sample is found again from its
//! window and number.

use super::spec::{Long, Packing};

/// A piece of a document in a sample.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The document: its number in the window, counted through the row groups.
    pub document: u32,
    /// First token of it.
    pub start: u32,
    /// Tokens.
    pub len: u32,
}

/// What a sample has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ItemSize {
    /// Planned tokens.
    pub tokens: u32,
    /// Documents that begin in it.
    pub documents: u32,
}

/// The samples of a window.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WindowPlan {
    segments: Vec<Segment>,
    /// The end of each sample among the segments.
    ends: Vec<u32>,
}

impl WindowPlan {
    /// Packs the documents of a window, which come in `order` and have `lengths`. The lengths have at most `u32::MAX`
    /// tokens together.
    pub fn new(packing: Packing, order: &[u32], lengths: &[u32]) -> Self {
        let documents = order.iter().map(|document| (*document, lengths[*document as usize]));
        match packing {
            Packing::Documents => Self::whole(documents),
            Packing::Concat { seq_len } => Self::concat(seq_len, documents),
            Packing::FirstFit { seq_len, long } => Self::first_fit(seq_len, long, documents),
        }
    }

    /// Returns the number of samples.
    pub fn items(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Returns the pieces of a sample, in order. No piece is empty, but for an empty document that is a sample.
    pub fn segments(&self, item: u32) -> &[Segment] {
        let start = (item as usize).checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.segments[start as usize..self.ends[item as usize] as usize]
    }

    /// Returns what each sample has.
    pub fn sizes(&self) -> Vec<ItemSize> {
        let size = |item| {
            let segments = self.segments(item);
            let tokens = segments.iter().map(|segment| segment.len).sum();
            let documents = segments.iter().filter(|segment| segment.start == 0).count() as u32;
            ItemSize { tokens, documents }
        };
        (0..self.items()).map(size).collect()
    }

    fn whole(documents: impl Iterator<Item = (u32, u32)>) -> Self {
        let segments: Vec<_> = documents.map(|(document, len)| Segment { document, start: 0, len }).collect();
        let ends = (1..=segments.len() as u32).collect();
        Self { segments, ends }
    }

    fn concat(seq_len: u32, documents: impl Iterator<Item = (u32, u32)>) -> Self {
        let mut plan = Self::default();
        let mut room = seq_len;
        for (document, tokens) in documents {
            let mut start = 0;
            while start < tokens {
                let len = (tokens - start).min(room);
                plan.segments.push(Segment { document, start, len });
                (start, room) = (start + len, room - len);
                if room == 0 {
                    plan.ends.push(plan.segments.len() as u32);
                    room = seq_len;
                }
            }
        }
        if room < seq_len {
            plan.ends.push(plan.segments.len() as u32);
        }
        plan
    }

    fn first_fit(seq_len: u32, long: Long, documents: impl Iterator<Item = (u32, u32)>) -> Self {
        let mut placed: Vec<(u32, Segment)> = Vec::new();
        let mut bins = Bins::new(seq_len);
        for (document, tokens) in documents {
            let tokens = if long == Long::Truncate { tokens.min(seq_len) } else { tokens };
            let mut start = 0;
            while start < tokens {
                let len = (tokens - start).min(seq_len);
                placed.push((bins.place(len), Segment { document, start, len }));
                start += len;
            }
        }
        // By sample; within one they stay in the order in which they came.
        placed.sort_by_key(|(bin, _)| *bin);
        let mut plan = Self::default();
        for (bin, segment) in placed {
            if bin as usize > plan.ends.len() {
                plan.ends.push(plan.segments.len() as u32);
            }
            plan.segments.push(segment);
        }
        if !plan.segments.is_empty() {
            plan.ends.push(plan.segments.len() as u32);
        }
        plan
    }
}

/// Sequences that are being filled, in a tree whose nodes know the most room below them, so that the first one with
/// room enough is found in as many steps as the tree is deep.
struct Bins {
    seq_len: u32,
    used: usize,
    /// A complete binary tree, root at 1; leaves are sequences, those that are not begun have all the room.
    room: Vec<u32>,
}

impl Bins {
    fn new(seq_len: u32) -> Self {
        Self { seq_len, used: 0, room: vec![seq_len; 2] }
    }

    /// Puts `len` tokens, at most those of a sequence, where they fit first.
    fn place(&mut self, len: u32) -> u32 {
        if self.used == self.room.len() / 2 {
            self.grow();
        }
        let leaves = self.room.len() / 2;
        let mut node = 1;
        while node < leaves {
            node = if self.room[2 * node] >= len { 2 * node } else { 2 * node + 1 };
        }
        self.room[node] -= len;
        let bin = node - leaves;
        self.used = self.used.max(bin + 1);
        while node > 1 {
            node /= 2;
            self.room[node] = self.room[2 * node].max(self.room[2 * node + 1]);
        }
        bin as u32
    }

    /// Doubles the leaves.
    fn grow(&mut self) {
        let leaves = self.room.len() / 2;
        let mut room = vec![self.seq_len; 4 * leaves];
        room[2 * leaves..3 * leaves].copy_from_slice(&self.room[leaves..]);
        for node in (1..2 * leaves).rev() {
            room[node] = room[2 * node].max(room[2 * node + 1]);
        }
        self.room = room;
    }
}

#[cfg(test)]
#[path = "pack_test.rs"]
mod tests;
