//! A tensor as the bytes that it has in a file, row after row: which boxes a range of them is.
//!
//! A tensor of any type is looked at as one of bytes, whose last dimension counts bytes instead of elements. So a range
//! is exact, wherever it starts and ends. Of elements narrower than a byte as many of the last dimensions are joined as
//! make whole bytes. Must never list elements or rows one by one.

use crate::range::ByteRange;
use crate::tensor::boxes::{BoxError, TensorBox};
use crate::tensor::dtype::Dtype;

/// A tensor looked at as one of bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlatTensor<'t> {
    dtype: Dtype,
    shape: &'t [u64],
    /// The dimensions that are as they were, and then one of bytes in place of all others.
    bytes: Vec<u64>,
}

impl<'t> FlatTensor<'t> {
    /// Looks at a tensor; fails where its elements do not make whole bytes, or overflow 64 bits.
    pub fn new(dtype: Dtype, shape: &'t [u64]) -> Result<Self, BoxError> {
        if TensorBox::whole(shape)?.bytes(dtype)? == 0 {
            // Other dimensions of an empty tensor may be as long as they like.
            return Ok(Self { dtype, shape, bytes: vec![0] });
        }
        // The last dimension, and more before it until they make whole bytes; all of them do.
        let mut outer = shape.len().saturating_sub(1);
        let row = loop {
            match dtype.bytes_of(shape[outer..].iter().product()) {
                Some(row) => break row,
                None => outer -= 1,
            }
        };
        Ok(Self { dtype, shape, bytes: shape[..outer].iter().copied().chain([row]).collect() })
    }

    /// Returns all its bytes.
    pub fn len(&self) -> u64 {
        self.bytes.iter().product()
    }

    /// Tells whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the boxes of bytes that `range` is, cut at the tensor's end: each lies in one piece among the tensor's
    /// bytes, and they follow one another. There are fewer than twice as many as dimensions.
    pub fn boxes(&self, range: ByteRange) -> Vec<TensorBox> {
        let mut boxes = Vec::new();
        let (start, end) = (range.start(), range.end().min(self.len()));
        if start < end {
            self.add(&mut Vec::with_capacity(self.bytes.len()), start, end, &mut boxes);
        }
        boxes
    }

    /// Adds the boxes of `start..end` of what has the first indices `at`.
    fn add(&self, at: &mut Vec<u64>, start: u64, end: u64, boxes: &mut Vec<TensorBox>) {
        let rest = &self.bytes[at.len() + 1..];
        let row: u64 = rest.iter().product();
        let mut whole = |at: &[u64], first: u64, count: u64| {
            let offsets = at.iter().copied().chain([first]).chain(rest.iter().map(|_| 0)).collect();
            let sizes = at.iter().map(|_| 1).chain([count]).chain(rest.iter().copied()).collect();
            boxes.push(TensorBox::new(offsets, sizes).expect("a part of a tensor that is one"));
        };
        let (first, last) = (start / row, end / row);
        let (head, tail) = (start % row, end % row);
        if first == last || head == 0 {
            if head == 0 && first < last {
                whole(at, first, last - first);
            }
            if first == last || tail > 0 {
                let from = if first == last { head } else { 0 };
                at.push(last);
                self.add(at, from, tail, boxes);
                at.pop();
            }
            return;
        }
        at.push(first);
        self.add(at, head, row, boxes);
        at.pop();
        if (first + 1) * row < end {
            self.add(at, (first + 1) * row, end, boxes);
        }
    }

    /// Returns a box of elements as a box of bytes; fails where its rows do not lie together or end inside a byte.
    pub fn box_of(&self, area: &TensorBox) -> Result<TensorBox, BoxError> {
        area.check_within(self.shape)?;
        if area.sizes().contains(&0) {
            return TensorBox::new(vec![0; self.bytes.len()], vec![0; self.bytes.len()]);
        }
        let outer = self.bytes.len() - 1;
        let (offsets, sizes) = (area.offsets(), area.sizes());
        let joined = outer..self.shape.len();
        let start = joined.clone().fold(0, |at, d| at * self.shape[d] + offsets[d]);
        let count: u64 = sizes[joined.clone()].iter().product();
        // Where a dimension is cut, all before it must be of one index, or what is in the box has gaps.
        let cut = joined.clone().rfind(|d| sizes[*d] != self.shape[*d]).unwrap_or(outer);
        let together = joined.take_while(|d| *d < cut).all(|d| sizes[d] == 1);
        let refuse = || BoxError::SubByte { dtype: self.dtype, multiple: self.dtype.whole_bytes() };
        let in_bytes = |elements| self.dtype.bytes_of(elements).filter(|_| together).ok_or_else(refuse);
        let with = |outer: &[u64], last| outer.iter().copied().chain([last]).collect();
        TensorBox::new(with(&offsets[..outer], in_bytes(start)?), with(&sizes[..outer], in_bytes(count)?))
    }

    /// Returns the smallest box of elements that has all of a box of bytes.
    pub fn around(&self, bytes: &TensorBox) -> TensorBox {
        let outer = self.bytes.len() - 1;
        if self.shape.is_empty() {
            return TensorBox::whole(&[]).expect("a scalar has one element");
        }
        let (mut offsets, mut sizes) = (bytes.offsets()[..outer].to_vec(), bytes.sizes()[..outer].to_vec());
        let bits = self.dtype.bits() * self.shape[outer + 1..].iter().product::<u64>();
        let start = bytes.offsets()[outer] * 8 / bits;
        offsets.push(start);
        sizes.push((bytes.end(outer) * 8).div_ceil(bits) - start);
        for size in &self.shape[outer + 1..] {
            offsets.push(0);
            sizes.push(*size);
        }
        TensorBox::new(offsets, sizes).expect("a part of a tensor that is one")
    }
}

#[cfg(test)]
#[path = "flat_test.rs"]
mod tests;
