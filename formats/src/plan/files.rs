//! The files of a checkpoint, and which parts of which saved slices a range of one is made of.
//!
//! Slices are saved row after row, as files are: what a slice has of a range lies together in the slice. Must never
//! plan a range of which a byte would be left out, nor more of one at once than its bounds say.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::index::TensorRows;
use super::{PlanError, Planner};
use crate::range::ByteRange;
use crate::tensor::boxes::{BoxError, CopyPlan};
use crate::tensor::dtype::Dtype;
use crate::tensor::files::{FileLayout, FileTensor, INDEX, LayoutError, SHARD_BYTES, TensorFile, View};
use crate::tensor::flat::FlatTensor;
use crate::tensor::slice::SliceKind;
use crate::wire::FileInfo;

/// Copies out of slices that are planned at once: 1,024, so that a plan takes less than 1 MiB. A range of 2 MiB of an
/// ordinary model has a few dozen.
pub const MAX_COPIES: usize = 1024;

/// Most memory of a copy that is planned: 24 bytes for each of 16 dimensions, and some 200 of its own and of its slice.
pub const COPY_BYTES: u64 = 600;

/// Looks at slices of one such plan: 64 for each copy. Slices that are all of one size take two or three; past this
/// their sizes are so uneven that looking would cost more than reading.
const MAX_LOOKS: u64 = 64 * MAX_COPIES as u64;

/// What of a range of a file has not been planned yet; what comes first is last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unplanned(Vec<ByteRange>);

impl From<ByteRange> for Unplanned {
    fn from(range: ByteRange) -> Self {
        Self(vec![range])
    }
}

impl Unplanned {
    /// Tells whether all has been planned.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a range of a file is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileRead {
    /// The range.
    pub range: ByteRange,
    /// Bytes of the file's header, with which the range starts; none where it starts after them.
    pub header: Bytes,
    /// What comes from slices, by their rows: all other bytes, each once.
    pub parts: Vec<SlicePart>,
}

/// A part of a saved slice, and where its bytes go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlicePart {
    /// The position of the slice among the rows of its checkpoint.
    pub row: usize,
    /// The bytes of the slice, which are all wanted.
    pub range: ByteRange,
    /// From the bytes of the slice to those of the range of the file.
    pub copies: Vec<CopyPlan>,
}

impl Planner {
    /// Returns the tensors, by name.
    fn tensors(&self) -> impl Iterator<Item = FileTensor<'_>> {
        let rows = self.checkpoint.rows.as_slice();
        let first = (0..self.index.len()).map(move |i| &self.index.tensor(rows, i).rows[0].slice);
        let tensors = first.take_while(|slice| slice.kind() == SliceKind::Tensor);
        tensors.map(|slice| FileTensor { name: slice.name(), dtype: slice.dtype(), shape: slice.global_shape() })
    }

    /// Returns the view in which the tensors are listed, and would be exported.
    pub fn listed(&self) -> View {
        // What has no length is refused where it is laid out.
        View::fitting(self.tensors().map(|tensor| tensor.bytes().unwrap_or(u64::MAX)), SHARD_BYTES)
    }

    /// Lays out the tensors as safetensors files.
    pub fn layout(&self, view: View) -> Result<FileLayout, LayoutError> {
        let tensors: Vec<FileTensor<'_>> = self.tensors().collect();
        FileLayout::new(&tensors, &self.checkpoint.meta.metadata, &self.checkpoint.content, view)
    }

    /// Lists the files that were saved, and those of a layout that no saved one has the name of, by path.
    pub fn files(&self, layout: Option<&FileLayout>) -> Vec<FileInfo> {
        let rows = self.checkpoint.rows.as_slice();
        let saved = &rows[rows.partition_point(|row| row.slice.kind() == SliceKind::Tensor)..];
        let info = |path: &str, bytes, tag, blake3| FileInfo { path: path.to_owned(), bytes, tag, blake3 };
        let made = layout.into_iter().flat_map(FileLayout::files);
        let made = made.map(|file| info(&file.name, file.len, file.tag, None));
        let index = layout.and_then(|layout| Some((layout.index()?.len() as u64, layout.index_digest()?)));
        let index = index.map(|(bytes, digest)| info(INDEX, bytes, digest, Some(digest)));
        let saved = saved.iter().map(|row| info(row.slice.name(), row.slice.bytes(), row.blake3, Some(row.blake3)));
        let mut files: Vec<FileInfo> = made.chain(index).chain(saved).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        // The later of two with one path stays: the one that was saved.
        files.dedup_by(|later, earlier| {
            let same = later.path == earlier.path;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
        files
    }

    /// Plans what comes next of a range of a file of a layout of these tensors, which must lie within it: all that is
    /// left, or where that is made of too many pieces, a part. `None` at its end.
    pub fn read_file(
        &self,
        layout: &FileLayout,
        file: &TensorFile,
        left: &mut Unplanned,
    ) -> Result<Option<FileRead>, PlanError> {
        while let Some(range) = left.0.pop() {
            if let Some(read) = self.read_at_once(layout, file, range)? {
                return Ok(Some(read));
            }
            // Each copy has a byte, so that what is as short can't have too many; it took too many looks.
            if range.len() <= MAX_COPIES as u64 {
                return Err(PlanError::Scattered { name: file.name.clone(), range });
            }
            let middle = range.start() + range.len() / 2;
            let half = |start, end| ByteRange::new(start, end).expect("the middle lies between start and end");
            left.0.extend([half(middle, range.end()), half(range.start(), middle)]);
        }
        Ok(None)
    }

    /// Returns how many slices a range of a file may be made of: those of all tensors that have bytes in it.
    pub fn slices_in(&self, layout: &FileLayout, file: &TensorFile, range: ByteRange) -> usize {
        let tensors = layout.tensors_in(file, range);
        let rows = |position| self.index.tensor(&self.checkpoint.rows, position);
        let Some(last) = tensors.clone().last().map(rows) else { return 0 };
        last.start + last.rows.len() - rows(tensors.start).start
    }

    /// Plans a range; `None` where that takes too many copies or looks.
    fn read_at_once(
        &self,
        layout: &FileLayout,
        file: &TensorFile,
        range: ByteRange,
    ) -> Result<Option<FileRead>, PlanError> {
        let (start, end) = (range.start(), range.end().min(file.len));
        let len = file.header.len() as u64;
        let header = file.header.slice(start.min(len) as usize..end.clamp(start.min(len), len) as usize);
        let mut planned = Planned::default();
        for position in layout.tensors_in(file, range) {
            let tensor = self.index.tensor(&self.checkpoint.rows, position);
            let at = layout.start(position);
            let slice = &tensor.rows[0].slice;
            let boxed = |source| PlanError::Box { name: slice.name().to_owned(), source };
            let flat = FlatTensor::new(slice.dtype(), slice.global_shape()).map_err(boxed)?;
            let (from, to) = (start.max(at), end.min(at + flat.len()));
            if from < to {
                let wanted = ByteRange::new(from - at, to - at).expect("checked just above");
                planned.add(tensor, &flat, wanted, from - start).map_err(boxed)?;
            }
            if planned.is_too_much() {
                return Ok(None);
            }
        }
        let parts: Vec<SlicePart> = planned.parts.into_values().collect();
        let expected = end.saturating_sub(start.max(len));
        let actual = parts.iter().flat_map(|part| &part.copies).map(CopyPlan::bytes).sum();
        if expected != actual || parts.iter().any(|part| !part.is_whole()) {
            return Err(PlanError::Uncovered { name: file.name.clone(), expected, actual });
        }
        Ok(Some(FileRead { range, header, parts }))
    }
}

impl SlicePart {
    /// Tells whether the copies take every byte of the range.
    fn is_whole(&self) -> bool {
        self.copies.iter().map(CopyPlan::bytes).sum::<u64>() == self.range.len()
    }
}

/// A range that is being planned.
#[derive(Default)]
struct Planned {
    /// By row.
    parts: BTreeMap<usize, SlicePart>,
    copies: usize,
    looks: u64,
}

impl Planned {
    fn is_too_much(&self) -> bool {
        self.copies > MAX_COPIES || self.looks > MAX_LOOKS
    }

    /// Adds what slices have of a range of their tensor, which goes to byte `to` of what is planned. Stops where that
    /// is too much.
    fn add(
        &mut self,
        tensor: TensorRows<'_, '_>,
        flat: &FlatTensor<'_>,
        wanted: ByteRange,
        mut to: u64,
    ) -> Result<(), BoxError> {
        let first = &tensor.rows[0].slice;
        for area in flat.boxes(wanted) {
            let (found, looks) = tensor.touching(&flat.around(&area), MAX_LOOKS.saturating_sub(self.looks));
            self.looks += looks;
            for row in found {
                if self.is_too_much() {
                    return Ok(());
                }
                let slice = &tensor.rows[row - tensor.start].slice;
                if (slice.dtype(), slice.global_shape()) != (first.dtype(), first.global_shape()) {
                    // Of another tensor of the same name, which no commit has: its bytes are missed.
                    continue;
                }
                let saved = flat.box_of(slice.area())?;
                let Some(copy) = CopyPlan::new(Dtype::U8, &saved, &area)? else { continue };
                let (copy, range) = (copy.clone().shifted(to), copy.extent());
                let part = self.parts.entry(row).or_insert_with(|| SlicePart { row, range, copies: Vec::new() });
                let (start, end) = (part.range.start().min(range.start()), part.range.end().max(range.end()));
                part.range = ByteRange::new(start, end).expect("each starts before its end");
                part.copies.push(copy);
                self.copies += 1;
            }
            to += area.elements();
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "files_test.rs"]
mod tests;
