//! The safetensors files that the tensors of a checkpoint make: names, headers, and where which tensor lies. The same
//! for files that are written and for those that are only read as if they had been.
//!
//! Must never depend on how tensors were saved: the same tensors and metadata make the same files.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use crate::digest::Digest;
use crate::limits::{LARGE_ALIGNMENT, MAX_SAFETENSORS_HEADER_BYTES};
use crate::range::ByteRange;
use crate::tensor::boxes::{BoxError, TensorBox};
use crate::tensor::dtype::Dtype;
use crate::tensor::header::{METADATA_KEY, write_entries};
use crate::tensor::index::write_index;
use crate::wire::{Fault, FaultCode};

/// The file of a model that is in one.
pub const WHOLE: &str = "model.safetensors";

/// The index of a model in several files.
pub const INDEX: &str = "model.safetensors.index.json";

/// Longest file of a model in several, in bytes of tensors: 5 GB, the size that model hubs use.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// A prefix for the metadata of safetensors files, which is kept with the checkpoint and written into their headers.
pub const METADATA_PREFIX: &str = "safetensors:";

/// A tensor that goes into a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileTensor<'t> {
    /// Its name.
    pub name: &'t str,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: &'t [u64],
}

/// How tensors are cut into files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum View {
    /// All in [`WHOLE`].
    Whole,
    /// In `model-00001-of-00002.safetensors` and so on, each of at most so many bytes of tensors or of one longer
    /// tensor, with an [`INDEX`].
    Sharded(u64),
}

/// The files of one view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileLayout {
    files: Vec<TensorFile>,
    /// Where the data of each tensor starts in its file.
    starts: Vec<u64>,
    /// With its BLAKE3.
    index: Option<(Bytes, Digest)>,
}

/// A safetensors file of a [`FileLayout`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorFile {
    /// Its name.
    pub name: String,
    /// Its header, length prefix included.
    pub header: Bytes,
    /// Positions of its tensors among all of the layout.
    pub tensors: Range<usize>,
    /// All its bytes.
    pub len: u64,
    /// What names the file for caches: BLAKE3 of the digest of the checkpoint's content and of the header. Two files of
    /// one tag have the same bytes.
    pub tag: Digest,
}

/// Why tensors do not make files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A tensor can't be, or has a name that safetensors keeps for itself.
    #[error("tensor {name:?} can't be in a safetensors file: {reason}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The tensors of a file pass 2^64 bytes.
    #[error("the tensors up to {name:?} have more than 2^64 bytes")]
    Overflow {
        /// The first tensor that is too much.
        name: String,
    },
    /// A header is longer than readers of safetensors take.
    #[error(
        "{file} would have a header over the limit of safetensors of {MAX_SAFETENSORS_HEADER_BYTES} bytes: put fewer \
         tensors into one file"
    )]
    Header {
        /// The file.
        file: String,
    },
}

impl From<&LayoutError> for Fault {
    fn from(error: &LayoutError) -> Self {
        match error {
            LayoutError::Tensor { .. } | LayoutError::Overflow { .. } | LayoutError::Header { .. } => {
                Self::new(FaultCode::Invalid, error)
            }
        }
    }
}

impl View {
    /// Returns the view that has a file of this name, if it is one that tensors can make.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            WHOLE => Some(Self::Whole),
            INDEX => Some(Self::Sharded(SHARD_BYTES)),
            _ => {
                let (i, count) = name.strip_prefix("model-")?.strip_suffix(".safetensors")?.split_once("-of-")?;
                let is_number = |text: &str| text.len() >= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
                (is_number(i) && is_number(count)).then_some(Self::Sharded(SHARD_BYTES))
            }
        }
    }

    /// Returns the view in which tensors of these bytes are written: whole where one file of at most `max_bytes` holds
    /// them, or there is but one.
    pub fn fitting(bytes: impl IntoIterator<Item = u64>, max_bytes: u64) -> Self {
        let mut files = 0;
        let mut filled = 0u64;
        for bytes in bytes {
            (files, filled) = match filled.checked_add(bytes).filter(|sum| files > 0 && *sum <= max_bytes) {
                Some(sum) => (files, sum),
                None => (files + 1, bytes),
            };
        }
        if files > 1 { Self::Sharded(max_bytes) } else { Self::Whole }
    }
}

impl FileTensor<'_> {
    /// Returns its bytes.
    pub fn bytes(&self) -> Result<u64, BoxError> {
        TensorBox::whole(self.shape)?.bytes(self.dtype)
    }
}

impl FileLayout {
    /// Lays out tensors in the order of their names; none make no file. `metadata` is that of the checkpoint, of which
    /// the files have what begins with [`METADATA_PREFIX`], and `content` its digest.
    pub fn new<'t>(
        tensors: &[FileTensor<'t>],
        metadata: &BTreeMap<String, String>,
        content: &Digest,
        view: View,
    ) -> Result<Self, LayoutError> {
        let (cuts, data) = cut(tensors, view)?;
        let metadata: BTreeMap<String, String> = metadata
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(METADATA_PREFIX)?.to_owned(), value.clone())))
            .collect();
        let (mut files, mut starts) = (Vec::with_capacity(cuts.len()), Vec::with_capacity(tensors.len()));
        for (i, part) in cuts.iter().enumerate() {
            let name = match view {
                View::Whole => WHOLE.to_owned(),
                View::Sharded(_) => format!("model-{:05}-of-{:05}.safetensors", i + 1, cuts.len()),
            };
            let entries = tensors[part.clone()].iter().zip(&data[part.clone()]);
            let entries = entries.map(|(tensor, data)| (tensor.name, tensor.dtype, tensor.shape, *data));
            // A page, so that readers can map tensors.
            let header = write_entries(&metadata, entries, LARGE_ALIGNMENT, MAX_SAFETENSORS_HEADER_BYTES);
            let Some(header) = header.map(Bytes::from) else { return Err(LayoutError::Header { file: name }) };
            let actual = header.len() as u64;
            let end = data[part.clone()].last().map_or(0, ByteRange::end);
            let overflow = || LayoutError::Overflow { name: tensors[part.end - 1].name.to_owned() };
            let len = end.checked_add(actual).ok_or_else(overflow)?;
            starts.extend(data[part.clone()].iter().map(|data| actual + data.start()));
            let tag = tag(content, &header);
            files.push(TensorFile { name, header, tensors: part.clone(), len, tag });
        }
        let index = (!files.is_empty() && view != View::Whole).then(|| index(tensors, &files, &data));
        let index = index.map(|index| (index.clone(), Digest::of(&index)));
        Ok(Self { files, starts, index })
    }

    /// Returns its safetensors files, in order.
    pub fn files(&self) -> &[TensorFile] {
        &self.files
    }

    /// Finds a safetensors file.
    pub fn file(&self, name: &str) -> Option<&TensorFile> {
        self.files.iter().find(|file| file.name == name)
    }

    /// Returns the content of [`INDEX`], where the view has one.
    pub fn index(&self) -> Option<&Bytes> {
        self.index.as_ref().map(|(index, _)| index)
    }

    /// Returns BLAKE3 of the [`index`](Self::index).
    pub fn index_digest(&self) -> Option<Digest> {
        self.index.as_ref().map(|(_, digest)| *digest)
    }

    /// Returns where the data of a tensor, by its position among all, starts in its file.
    pub fn start(&self, tensor: usize) -> u64 {
        self.starts[tensor]
    }

    /// Returns the tensors of a file that may have bytes in a range of it.
    pub fn tensors_in(&self, file: &TensorFile, range: ByteRange) -> Range<usize> {
        let starts = &self.starts[file.tensors.clone()];
        let first = starts.partition_point(|start| *start <= range.start()).saturating_sub(1);
        let end = starts.partition_point(|start| *start < range.end());
        file.tensors.start + first.min(end)..file.tensors.start + end
    }

    /// Returns the memory that it takes, in bytes.
    pub fn memory(&self) -> usize {
        let files = self.files.iter().map(|file| size_of::<TensorFile>() + file.name.len() + file.header.len());
        files.sum::<usize>() + size_of_val(self.starts.as_slice()) + self.index().map_or(0, Bytes::len)
    }
}

/// Cuts tensors into files; returns those of each file, and the data of each tensor within the data of its file.
fn cut(tensors: &[FileTensor<'_>], view: View) -> Result<(Vec<Range<usize>>, Vec<ByteRange>), LayoutError> {
    let mut cuts: Vec<Range<usize>> = Vec::new();
    let mut data: Vec<ByteRange> = Vec::with_capacity(tensors.len());
    for (i, tensor) in tensors.iter().enumerate() {
        let refuse = |reason: String| LayoutError::Tensor { name: tensor.name.to_owned(), reason };
        if tensor.name == METADATA_KEY {
            return Err(refuse("its name is that of the metadata".to_owned()));
        }
        let bytes = tensor.bytes().map_err(|error| refuse(error.to_string()))?;
        let filled = data.last().map_or(0, ByteRange::end);
        let fits = match view {
            View::Whole => true,
            View::Sharded(max) => filled.checked_add(bytes).is_some_and(|sum| sum <= max),
        };
        let start = match cuts.last_mut().filter(|_| fits) {
            Some(last) => {
                last.end = i + 1;
                filled
            }
            None => {
                cuts.push(i..i + 1);
                0
            }
        };
        let overflow = |_| LayoutError::Overflow { name: tensor.name.to_owned() };
        data.push(ByteRange::with_len(start, bytes).map_err(overflow)?);
    }
    Ok((cuts, data))
}

fn tag(content: &Digest, header: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"gigastore file 1\n").update(content.as_bytes()).update(header);
    hasher.finalize().into()
}

fn index(tensors: &[FileTensor<'_>], files: &[TensorFile], data: &[ByteRange]) -> Bytes {
    let names = files.iter().flat_map(|file| file.tensors.clone().map(move |i| (tensors[i].name, file.name.as_str())));
    let total = data.iter().fold(0, |sum: u64, data| sum.saturating_add(data.len()));
    write_index(total, names).into()
}

#[cfg(test)]
#[path = "files_test.rs"]
mod tests;
