//! A slice: one rank's box of a global tensor, or an opaque file saved beside tensors, and where its bytes lie.
//!
//! Must never hold the bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::MAX_TENSOR_NAME_BYTES;
use crate::name::{NameError, check_path};
use crate::tensor::boxes::{BoxError, TensorBox};
use crate::tensor::dtype::Dtype;

/// What a slice is a part of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SliceKind {
    /// A tensor.
    Tensor,
    /// Opaque state: a config, a tokenizer, the state of a random generator. Its type is U8, its shape its length.
    File,
}

/// How a slice's bytes are stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// As they are.
    Raw,
    /// Each group split into byte planes and compressed as one zstd frame.
    ZstdPlanes,
}

/// Which part of which tensor (or file): the identity of a slice within a checkpoint.
///
/// Ordered by name, then offsets: the order of manifests and packs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SliceId {
    kind: SliceKind,
    name: String,
    dtype: Dtype,
    global_shape: Vec<u64>,
    area: TensorBox,
    bytes: u64,
}

/// Where a slice's stored bytes lie. `P` names the pack: by its digest while a save is open, with its epoch once
/// committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place<P> {
    /// The pack.
    pub pack: P,
    /// Bytes of the pack's header, length prefix included.
    pub header_len: u64,
    /// First stored byte within the pack object.
    pub offset: u64,
    /// Stored bytes.
    pub stored_len: u64,
    /// How they are stored.
    pub codec: Codec,
}

/// One row of a manifest or of a part: a slice, its digest, its place.
///
/// `L` is [`Place<Stored>`](crate::object::Stored) in a manifest and `Option<Place<Digest>>` in a part, where `None`
/// says that another rank uploads the same bytes or that the store has them already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SliceRow<L> {
    /// Which slice.
    pub slice: SliceId,
    /// BLAKE3 of its logical bytes.
    pub blake3: Digest,
    /// Where they lie.
    pub place: L,
}

/// Why a slice can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SliceError {
    /// The name is empty, too long, or holds control characters.
    #[error("{name:?} can't name a tensor: expected 1 to {MAX_TENSOR_NAME_BYTES} bytes without control characters")]
    Name {
        /// What was given, shortened.
        name: String,
    },
    /// The name of a file is not a plain relative path.
    #[error("a file of a checkpoint: {0}")]
    Path(#[from] NameError),
    /// The box does not fit.
    #[error("slice of {name:?}: {source}")]
    Box {
        /// The tensor.
        name: String,
        /// What is wrong.
        source: BoxError,
    },
    /// A file must be one whole U8 slice.
    #[error("file {name:?} must be one slice of type U8 that is its whole length")]
    File {
        /// The file.
        name: String,
    },
}

impl SliceId {
    /// Returns the part `area` of a tensor.
    pub fn tensor(name: &str, dtype: Dtype, global_shape: &[u64], area: TensorBox) -> Result<Self, SliceError> {
        Self::new(SliceKind::Tensor, name, dtype, global_shape, area)
    }

    /// Returns the whole of a file of `len` bytes.
    pub fn file(path: &str, len: u64) -> Result<Self, SliceError> {
        let area = TensorBox::whole(&[len]).map_err(|source| SliceError::Box { name: path.to_owned(), source })?;
        Self::new(SliceKind::File, path, Dtype::U8, &[len], area)
    }

    /// Returns a slice of either kind, checked.
    pub fn new(
        kind: SliceKind,
        name: &str,
        dtype: Dtype,
        global_shape: &[u64],
        area: TensorBox,
    ) -> Result<Self, SliceError> {
        if name.is_empty() || name.len() > MAX_TENSOR_NAME_BYTES || name.chars().any(char::is_control) {
            return Err(SliceError::Name { name: name.chars().take(160).collect() });
        }
        let boxed = |source| SliceError::Box { name: name.to_owned(), source };
        TensorBox::whole(global_shape).map_err(boxed)?.bytes(dtype).map_err(boxed)?;
        area.check_within(global_shape).map_err(boxed)?;
        let bytes = area.bytes(dtype).map_err(boxed)?;
        if kind == SliceKind::File {
            check_path(name)?;
            if dtype != Dtype::U8 || global_shape.len() != 1 || !area.is_whole(global_shape) {
                return Err(SliceError::File { name: name.to_owned() });
            }
        }
        Ok(Self { kind, name: name.to_owned(), dtype, global_shape: global_shape.to_vec(), area, bytes })
    }

    /// Returns what it is a part of.
    pub fn kind(&self) -> SliceKind {
        self.kind
    }

    /// Returns the tensor's name or the file's path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Returns the shape of the whole tensor.
    pub fn global_shape(&self) -> &[u64] {
        &self.global_shape
    }

    /// Returns the box.
    pub fn area(&self) -> &TensorBox {
        &self.area
    }

    /// Returns the logical bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the key of the order of manifests: kind, name, offsets, sizes.
    pub fn order(&self) -> (SliceKind, &str, &[u64], &[u64]) {
        (self.kind, &self.name, self.area.offsets(), self.area.sizes())
    }

    /// Returns the name of the slice's entry in a pack: the tensor's name and its box, such as
    /// `wte.weight[0:512,0:64]`.
    pub fn entry_name(&self) -> String {
        format!("{}{}", self.name, self.area)
    }
}

impl fmt::Display for SliceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, self.area)
    }
}

/// A text that names no kind or codec: the object is damaged, or a newer version wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {text:?} (was it written by a newer version?)")]
pub struct UnknownWord {
    what: &'static str,
    text: String,
}

impl SliceKind {
    /// Returns the word that is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::File => "file",
        }
    }
}

impl FromStr for SliceKind {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "tensor" => Ok(Self::Tensor),
            "file" => Ok(Self::File),
            _ => Err(UnknownWord { what: "kind of slice", text: text.chars().take(40).collect() }),
        }
    }
}

impl Codec {
    /// Returns the word that is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::ZstdPlanes => "zstd_planes",
        }
    }
}

impl FromStr for Codec {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "raw" => Ok(Self::Raw),
            "zstd_planes" => Ok(Self::ZstdPlanes),
            _ => Err(UnknownWord { what: "codec", text: text.chars().take(40).collect() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_a_slice_is_refused() {
        let whole = |shape: &[u64]| TensorBox::whole(shape).unwrap();
        assert!(SliceId::tensor("w", Dtype::F32, &[2, 3], whole(&[2, 3])).is_ok());
        assert!(SliceId::tensor("", Dtype::F32, &[2], whole(&[2])).is_err());
        assert!(SliceId::tensor("a\nb", Dtype::F32, &[2], whole(&[2])).is_err());
        assert!(SliceId::tensor(&"x".repeat(1025), Dtype::F32, &[2], whole(&[2])).is_err());
        assert!(SliceId::tensor("w", Dtype::F32, &[2], whole(&[3])).is_err());
        assert!(SliceId::tensor("w", Dtype::F4, &[3], whole(&[3])).is_err());
        assert!(SliceId::tensor("w", Dtype::F64, &[1 << 62], whole(&[1])).is_err());
        assert!(SliceId::file("../x", 3).is_err());
        assert!(SliceId::new(SliceKind::File, "x", Dtype::F32, &[2], whole(&[2])).is_err());
        assert_eq!(SliceId::file("config.json", 3).unwrap().entry_name(), "config.json[0:3]");
    }
}
