//! Boxes of a global tensor, and which bytes of a saved box go where in a wanted box.
//!
//! Vocabulary of PyTorch DCP: a box has `offsets` and `sizes` within a `global_shape`; bytes are row-major. Must never
//! list bytes one by one: runs are computed when asked for, so that a column of a million rows costs nothing to plan.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::limits::MAX_DIMENSIONS;
use crate::range::ByteRange;
use crate::tensor::dtype::Dtype;

/// A box of a global tensor: `offsets[d]..offsets[d] + sizes[d]` in each dimension. No dimensions: a scalar.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TensorBox {
    offsets: Vec<u64>,
    sizes: Vec<u64>,
}

/// Why numbers are not a box, or boxes do not fit each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BoxError {
    /// Offsets and sizes differ in number, or pass [`MAX_DIMENSIONS`].
    #[error("a box needs as many offsets as sizes, at most {MAX_DIMENSIONS}: got {offsets} offsets and {sizes} sizes")]
    Dimensions {
        /// Offsets given.
        offsets: usize,
        /// Sizes given.
        sizes: usize,
    },
    /// A border or the number of elements passes 2^64.
    #[error("the numbers of a box overflow 64 bits")]
    Overflow,
    /// The box does not lie inside the shape.
    #[error("box {found} does not lie inside the global shape {shape:?}")]
    Outside {
        /// The box.
        found: String,
        /// The shape.
        shape: Vec<u64>,
    },
    /// Elements narrower than a byte that start or end inside one.
    #[error(
        "a box of {dtype} elements starts or ends inside a byte: cut it along another dimension or at a multiple \
         of {multiple}"
    )]
    SubByte {
        /// The element type.
        dtype: Dtype,
        /// Elements that make whole bytes.
        multiple: u64,
    },
    /// The text is not `[a:b,c:d]`.
    #[error("not a box: {0:?} (expected a form such as [0:512,128:256])")]
    Text(String),
}

impl TensorBox {
    /// Returns the box of `sizes` at `offsets`.
    pub fn new(offsets: Vec<u64>, sizes: Vec<u64>) -> Result<Self, BoxError> {
        if offsets.len() != sizes.len() || offsets.len() > MAX_DIMENSIONS {
            return Err(BoxError::Dimensions { offsets: offsets.len(), sizes: sizes.len() });
        }
        let ends = offsets.iter().zip(&sizes).all(|(o, s)| o.checked_add(*s).is_some());
        let elements = sizes.iter().try_fold(1u64, |n, s| n.checked_mul(*s));
        if !ends || elements.is_none() {
            return Err(BoxError::Overflow);
        }
        Ok(Self { offsets, sizes })
    }

    /// Returns the box of the whole of `shape`.
    pub fn whole(shape: &[u64]) -> Result<Self, BoxError> {
        Self::new(vec![0; shape.len()], shape.to_vec())
    }

    /// Returns the first element's position in each dimension.
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// Returns the number of elements in each dimension.
    pub fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    /// Returns the position after the last element in dimension `d`.
    pub fn end(&self, d: usize) -> u64 {
        self.offsets[d] + self.sizes[d]
    }

    /// Returns the number of elements.
    pub fn elements(&self) -> u64 {
        self.sizes.iter().product()
    }

    /// Checks that the box lies inside `shape`, which must have as many dimensions.
    pub fn check_within(&self, shape: &[u64]) -> Result<(), BoxError> {
        let inside = shape.len() == self.sizes.len() && (0..shape.len()).all(|d| self.end(d) <= shape[d]);
        if inside { Ok(()) } else { Err(BoxError::Outside { found: self.to_string(), shape: shape.to_vec() }) }
    }

    /// Tells whether the box is the whole of `shape`.
    pub fn is_whole(&self, shape: &[u64]) -> bool {
        self.sizes == shape && self.offsets.iter().all(|o| *o == 0)
    }

    /// Returns the elements that both boxes have; `None` where there are none.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let dims = 0..self.sizes.len();
        let (start, end) = (|d: usize| self.offsets[d].max(other.offsets[d]), |d: usize| self.end(d).min(other.end(d)));
        // Most boxes that are looked at have nothing in common: that is seen before any memory is taken.
        if self.sizes.len() != other.sizes.len() || dims.clone().any(|d| start(d) >= end(d)) {
            return None;
        }
        Some(Self { offsets: dims.clone().map(start).collect(), sizes: dims.map(|d| end(d) - start(d)).collect() })
    }

    /// Cuts the box along dimension 0 into pieces of at most `max_bytes`, or one row where a row is longer.
    pub fn split(&self, dtype: Dtype, max_bytes: u64) -> Result<Vec<Self>, BoxError> {
        let bytes = self.bytes(dtype)?;
        let rows = self.sizes.first().copied().unwrap_or(1);
        if bytes <= max_bytes || rows <= 1 {
            return Ok(vec![self.clone()]);
        }
        // Rows of sub-byte elements may only be cut where they make whole bytes.
        let multiple = dtype.whole_bytes();
        let per_piece = (max_bytes / (bytes / rows).max(1)).max(1);
        let per_piece = if per_piece > multiple { per_piece - per_piece % multiple } else { multiple };
        let mut pieces = Vec::new();
        let mut row = 0;
        while row < rows {
            let take = per_piece.min(rows - row);
            let mut piece = self.clone();
            piece.offsets[0] += row;
            piece.sizes[0] = take;
            piece.bytes(dtype)?;
            pieces.push(piece);
            row += take;
        }
        Ok(pieces)
    }

    /// Returns the bytes of the box's elements.
    pub fn bytes(&self, dtype: Dtype) -> Result<u64, BoxError> {
        dtype.bytes_of(self.elements()).ok_or_else(|| {
            if self.elements().checked_mul(dtype.bits()).is_none() { BoxError::Overflow } else { sub_byte(dtype) }
        })
    }
}

impl fmt::Display for TensorBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for d in 0..self.sizes.len() {
            let comma = if d == 0 { "" } else { "," };
            write!(f, "{comma}{}:{}", self.offsets[d], self.end(d))?;
        }
        f.write_str("]")
    }
}

impl FromStr for TensorBox {
    type Err = BoxError;

    fn from_str(text: &str) -> Result<Self, BoxError> {
        let refuse = || BoxError::Text(text.chars().take(200).collect());
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).ok_or_else(refuse)?;
        let (mut offsets, mut sizes) = (Vec::new(), Vec::new());
        for part in inner.split(',').filter(|_| !inner.is_empty()) {
            let (start, end) = part.split_once(':').ok_or_else(refuse)?;
            let (start, end): (u64, u64) = (start.parse().map_err(|_| refuse())?, end.parse().map_err(|_| refuse())?);
            offsets.push(start);
            sizes.push(end.checked_sub(start).ok_or_else(refuse)?);
        }
        Self::new(offsets, sizes)
    }
}

/// A run of bytes that lie together both in the saved and in the wanted box.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First byte within the saved box's bytes.
    pub from: u64,
    /// First byte within the wanted box's bytes.
    pub to: u64,
    /// Bytes.
    pub len: u64,
}

/// How the common elements of a saved and a wanted box are copied: runs of equal length, in the order of the saved
/// bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyPlan {
    /// Sizes of the dimensions that runs iterate over, outermost first.
    counts: Vec<u64>,
    /// Bytes between neighbours of each of those dimensions, in the saved and in the wanted box.
    strides: Vec<(u64, u64)>,
    /// The first run.
    first: Run,
    runs: u64,
}

impl CopyPlan {
    /// Plans the copy from `saved` to `wanted`, boxes of one tensor; `None` where they have no element in common.
    pub fn new(dtype: Dtype, saved: &TensorBox, wanted: &TensorBox) -> Result<Option<Self>, BoxError> {
        let Some(common) = saved.intersect(wanted) else { return Ok(None) };
        let dims = common.sizes.len();
        // Dimensions from `inner` on are whole in both boxes, so that a run spans them all.
        let mut inner = dims;
        while inner > 0
            && common.sizes[inner - 1] == saved.sizes[inner - 1]
            && common.sizes[inner - 1] == wanted.sizes[inner - 1]
        {
            inner -= 1;
        }
        let run_from = inner.saturating_sub(1);
        let run_elements: u64 = common.sizes[run_from..].iter().product();
        let bits = dtype.bits();
        let (from, to) = (element_at(saved, &common), element_at(wanted, &common));
        let mut strides = Vec::with_capacity(run_from);
        for d in 0..run_from {
            let step = |b: &TensorBox| b.sizes[d + 1..].iter().product::<u64>();
            strides.push((to_bytes(dtype, step(saved) * bits)?, to_bytes(dtype, step(wanted) * bits)?));
        }
        let counts = common.sizes[..run_from].to_vec();
        let runs = counts.iter().product();
        let first = Run {
            from: to_bytes(dtype, from * bits)?,
            to: to_bytes(dtype, to * bits)?,
            len: to_bytes(dtype, run_elements * bits)?,
        };
        Ok(Some(Self { counts, strides, first, runs }))
    }

    /// Returns the same copy to bytes of the wanted box `by` further on: to a box that is a part of something longer.
    pub fn shifted(mut self, by: u64) -> Self {
        self.first.to += by;
        self
    }

    /// Returns the number of runs.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// Returns the bytes of all runs.
    pub fn bytes(&self) -> u64 {
        self.runs * self.first.len
    }

    /// Returns run `index`, in the order of the saved bytes.
    pub fn run(&self, index: u64) -> Run {
        let mut run = self.first;
        let mut rest = index;
        for d in (0..self.counts.len()).rev() {
            let at = rest % self.counts[d];
            rest /= self.counts[d];
            run.from += at * self.strides[d].0;
            run.to += at * self.strides[d].1;
        }
        run
    }

    /// Returns the saved bytes from the first run's start to the last run's end.
    pub fn extent(&self) -> ByteRange {
        let last = self.run(self.runs - 1);
        ByteRange::new(self.first.from, last.from + last.len).expect("runs are in the order of the saved bytes")
    }

    /// Returns the pieces of runs whose saved bytes lie inside `saved`.
    pub fn within(&self, saved: ByteRange) -> impl Iterator<Item = Run> + '_ {
        let first = self.first_ending_after(saved.start());
        (first..self.runs).map(|i| self.run(i)).take_while(move |run| run.from < saved.end()).map(move |run| {
            let from = run.from.max(saved.start());
            let end = (run.from + run.len).min(saved.end());
            Run { from, to: run.to + (from - run.from), len: end - from }
        })
    }

    /// Tells whether any run has saved bytes inside `saved`.
    pub fn touches(&self, saved: ByteRange) -> bool {
        self.within(saved).next().is_some()
    }

    fn first_ending_after(&self, position: u64) -> u64 {
        let indices: Range<u64> = 0..self.runs;
        let (mut low, mut high) = (indices.start, indices.end);
        while low < high {
            let middle = low + (high - low) / 2;
            let run = self.run(middle);
            if run.from + run.len > position { high = middle } else { low = middle + 1 }
        }
        low
    }
}

/// Position of the first element of `part` among the row-major elements of `whole`.
fn element_at(whole: &TensorBox, part: &TensorBox) -> u64 {
    let dims = whole.sizes.iter().zip(&whole.offsets).zip(&part.offsets);
    dims.fold(0, |at, ((size, start), offset)| at * size + (offset - start))
}

fn to_bytes(dtype: Dtype, bits: u64) -> Result<u64, BoxError> {
    if bits.is_multiple_of(8) { Ok(bits / 8) } else { Err(sub_byte(dtype)) }
}

fn sub_byte(dtype: Dtype) -> BoxError {
    BoxError::SubByte { dtype, multiple: dtype.whole_bytes() }
}

#[cfg(test)]
#[path = "boxes_test.rs"]
mod tests;
