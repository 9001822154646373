//! Which rows of a manifest a box touches, found without a look at each row of its tensor.
//!
//! Rows are sorted by name, then offsets: the rows of a tensor that start before a box ends lie together, and of those
//! that start at one offset of a dimension the same holds in the next. Must never leave out a row that has an element
//! of the box, however irregular the boxes of the rows are.

use std::ops::Range;

use crate::manifest::checkpoint::CheckpointRow;
use crate::tensor::boxes::TensorBox;
use crate::tensor::slice::SliceKind;

/// Rows that are looked at one by one rather than searched: 8, about as many as a binary search of a hundred looks at.
const FEW_ROWS: usize = 8;

/// The tensors of sorted rows. About 24 bytes a tensor, and 8 a dimension of those that are sharded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RowIndex {
    tensors: Vec<Tensor>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Tensor {
    /// Its first row.
    start: usize,
    /// The longest size of its rows in each dimension. Empty where there are few rows, or rows of other dimensions:
    /// all are looked at then.
    longest: Box<[u64]>,
}

impl RowIndex {
    /// Goes over all rows once.
    pub(super) fn new(rows: &[CheckpointRow]) -> Self {
        let mut start = 0;
        let tensors = rows.chunk_by(|a, b| key(a) == key(b)).map(|rows| {
            let tensor = Tensor { start, longest: longest(rows) };
            start += rows.len();
            tensor
        });
        let mut tensors: Vec<Tensor> = tensors.collect();
        tensors.shrink_to_fit();
        Self { tensors }
    }

    /// Returns the memory it takes.
    pub(super) fn bytes(&self) -> usize {
        let tensors = self.tensors.iter().map(|tensor| size_of::<Tensor>() + size_of_val(&*tensor.longest));
        tensors.sum()
    }

    /// Finds the rows of a tensor or file; none where there is no such.
    pub(super) fn find<'r>(
        &self,
        rows: &'r [CheckpointRow],
        kind: SliceKind,
        name: &str,
    ) -> Option<TensorRows<'_, 'r>> {
        let found = self.tensors.binary_search_by(|tensor| key(&rows[tensor.start]).cmp(&(kind, name))).ok()?;
        Some(self.tensor(rows, found))
    }

    /// Returns the number of tensors and files.
    pub(super) fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Returns the rows of a tensor or file, by its position: tensors come first, each kind by name.
    pub(super) fn tensor<'r>(&self, rows: &'r [CheckpointRow], position: usize) -> TensorRows<'_, 'r> {
        let end = self.tensors.get(position + 1).map_or(rows.len(), |next| next.start);
        let Tensor { start, longest } = &self.tensors[position];
        TensorRows { start: *start, longest, rows: &rows[*start..end] }
    }
}

fn key(row: &CheckpointRow) -> (SliceKind, &str) {
    (row.slice.kind(), row.slice.name())
}

fn longest(rows: &[CheckpointRow]) -> Box<[u64]> {
    if rows.len() <= FEW_ROWS {
        return Box::default();
    }
    let mut longest = rows[0].slice.area().sizes().to_vec();
    for row in &rows[1..] {
        let sizes = row.slice.area().sizes();
        if sizes.len() != longest.len() {
            return Box::default();
        }
        longest.iter_mut().zip(sizes).for_each(|(longest, size)| *longest = (*longest).max(*size));
    }
    longest.into()
}

/// The rows of one tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct TensorRows<'i, 'r> {
    /// The position of the first among all rows.
    pub(super) start: usize,
    longest: &'i [u64],
    pub(super) rows: &'r [CheckpointRow],
}

impl TensorRows<'_, '_> {
    /// Returns the positions, among all rows, of those that may have elements of `wanted`, ascending: every one that
    /// has any is there. Beside them how many rows were looked at; where that is more than `most`, some are missing.
    pub(super) fn touching(&self, wanted: &TensorBox, most: u64) -> (Vec<usize>, u64) {
        let (all, looks) = (0..self.rows.len(), self.rows.len() as u64);
        if self.longest.len() != wanted.sizes().len() {
            let found = if looks > most { Vec::new() } else { all.map(|i| self.start + i).collect() };
            return (found, looks);
        }
        let mut search = Search { tensor: self, wanted, most, found: Vec::new(), looks: 0 };
        search.dimension(0, all);
        (search.found, search.looks)
    }
}

struct Search<'s, 'i, 'r> {
    tensor: &'s TensorRows<'i, 'r>,
    wanted: &'s TensorBox,
    most: u64,
    found: Vec<usize>,
    looks: u64,
}

impl Search<'_, '_, '_> {
    /// Searches rows that start at the same offsets in all dimensions before `d`.
    fn dimension(&mut self, d: usize, among: Range<usize>) {
        self.looks += 1;
        if self.looks > self.most {
            return;
        }
        if d == self.wanted.sizes().len() || among.len() <= FEW_ROWS {
            self.looks += among.len() as u64;
            self.found.extend(among.map(|i| self.tensor.start + i));
            return;
        }
        let rows = self.tensor.rows;
        let offset = |row: &CheckpointRow| row.slice.area().offsets()[d];
        // No row is longer than the longest: what starts that far before the box ends before it.
        let (start, longest) = (self.wanted.offsets()[d], self.tensor.longest[d]);
        let is_before = |row: &CheckpointRow| offset(row).saturating_add(longest) <= start;
        let mut at = among.start + rows[among.clone()].partition_point(is_before);
        let end = at + near_point(&rows[at..among.end], |row| offset(row) < self.wanted.end(d));
        while at < end {
            let here = offset(&rows[at]);
            let next = at + near_point(&rows[at..end], |row| offset(row) <= here);
            self.dimension(d + 1, at..next);
            at = next;
        }
    }
}

/// Returns what `partition_point` does, in few looks where that is near the start: rows lie far apart in memory.
fn near_point(rows: &[CheckpointRow], is_before: impl Fn(&CheckpointRow) -> bool) -> usize {
    let mut bound = 1;
    while bound <= rows.len() && is_before(&rows[bound - 1]) {
        bound *= 2;
    }
    let from = bound / 2;
    from + rows[from..rows.len().min(bound)].partition_point(is_before)
}

#[cfg(test)]
#[path = "index_test.rs"]
mod tests;
