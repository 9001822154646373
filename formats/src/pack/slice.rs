//! What a pack's header says of one slice: its tree and its codec, as a JSON text under the name of its entry.
//!
//! Must never return a slice whose group values do not merge to its digest, or whose frames can't be those of its
//! groups.

use serde::{Deserialize, Serialize};

use super::codec::{Codec, frame_bound};
use super::frames::Frames;
use crate::digest::Digest;
use crate::limits::MAX_SLICE_BYTES;
use crate::range::ByteRange;
use crate::tensor::boxes::TensorBox;
use crate::tensor::dtype::Dtype;
use crate::tensor::header::TensorInfo;
use crate::tensor::slice::{SliceError, SliceId, SliceKind};
use crate::verified::{GroupTree, TreeError};

/// A slice as it is stored in a pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackSlice {
    /// Which slice.
    pub slice: SliceId,
    /// The tree of its logical bytes.
    pub tree: GroupTree,
    /// How its bytes are stored.
    pub coding: Coding,
}

/// A codec with what is needed to check and decode the stored bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Coding {
    /// Stored as they are.
    Raw,
    /// One frame of [`encode_group`](super::codec::encode_group) for each group.
    ZstdPlanes {
        /// BLAKE3 of all frames, one after the other.
        stored: Digest,
        /// Where each frame lies.
        frames: Frames,
    },
}

/// Why a slice can't be stored in a pack.
#[derive(Debug, thiserror::Error)]
pub enum PackSliceError {
    /// The slice is too long.
    #[error("it has {actual} bytes, over the limit of {MAX_SLICE_BYTES}: split it along dimension 0")]
    TooLong {
        /// Logical bytes.
        actual: u64,
    },
    /// The tree is that of other content.
    #[error("it has {expected} bytes, but its tree is of {actual} bytes in groups of {group}")]
    Tree {
        /// Logical bytes of the slice.
        expected: u64,
        /// Bytes of the tree.
        actual: u64,
        /// Bytes of the tree's groups.
        group: u64,
    },
    /// There is not one frame for each group; content of no bytes is always raw.
    #[error("its {expected} groups (at least one) need as many frames, not {actual}")]
    FrameCount {
        /// Groups.
        expected: u64,
        /// Frames.
        actual: u64,
    },
    /// A frame is empty, or longer than any compression of its group.
    #[error("frame {index} has {actual} bytes, expected 1 to {limit}")]
    FrameLength {
        /// Which frame.
        index: usize,
        /// Most bytes.
        limit: u64,
        /// Bytes of the frame.
        actual: u64,
    },
    /// The text is not that of a slice: most likely written by a newer version.
    #[error("its text is not of the expected form (was it written by a newer version?): {0}")]
    Json(#[source] serde_json::Error),
    /// The text describes no slice that can be.
    #[error(transparent)]
    Slice(#[from] SliceError),
    /// The group values do not merge to the digest.
    #[error(transparent)]
    Groups(#[from] TreeError),
    /// Codec and codec fields do not belong together.
    #[error("codec {} and the fields stored_blake3 and frames do not belong together", codec.as_str())]
    Fields {
        /// The codec.
        codec: Codec,
    },
}

/// The stored form of a [`PackSlice`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    kind: SliceKind,
    name: String,
    dtype: Dtype,
    global_shape: Vec<u64>,
    global_offsets: Vec<u64>,
    sizes: Vec<u64>,
    blake3: Digest,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    groups: String,
    codec: Codec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stored_blake3: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frames: Option<Vec<u64>>,
}

impl Coding {
    /// Returns the codec.
    pub fn codec(&self) -> Codec {
        match self {
            Self::Raw => Codec::Raw,
            Self::ZstdPlanes { .. } => Codec::ZstdPlanes,
        }
    }
}

impl PackSlice {
    /// Returns the stored bytes.
    pub fn stored_len(&self) -> u64 {
        match &self.coding {
            Coding::Raw => self.slice.bytes(),
            Coding::ZstdPlanes { frames, .. } => frames.bytes(),
        }
    }

    /// Checks that tree, in groups of `group` bytes, and frames fit the slice.
    pub(super) fn check(&self, group: u64) -> Result<(), PackSliceError> {
        let (expected, tree) = (self.slice.bytes(), &self.tree);
        if expected > MAX_SLICE_BYTES {
            return Err(PackSliceError::TooLong { actual: expected });
        }
        if tree.len() != expected || tree.group_bytes() != group {
            return Err(PackSliceError::Tree { expected, actual: tree.len(), group: tree.group_bytes() });
        }
        let Coding::ZstdPlanes { frames, .. } = &self.coding else { return Ok(()) };
        check_count(tree, frames.count())?;
        for (index, actual) in frames.lens().enumerate() {
            let limit = frame_bound(tree.group_range(index as u64).len());
            if actual == 0 || actual > limit {
                return Err(PackSliceError::FrameLength { index, limit, actual });
            }
        }
        Ok(())
    }

    /// Returns its safetensors entry: the box as a tensor where it is raw, otherwise its stored bytes.
    pub(super) fn entry(&self, data: ByteRange) -> TensorInfo {
        match self.coding {
            Coding::Raw => TensorInfo { dtype: self.slice.dtype(), shape: self.slice.area().sizes().to_vec(), data },
            Coding::ZstdPlanes { .. } => TensorInfo { dtype: Dtype::U8, shape: vec![data.len()], data },
        }
    }

    /// Returns the text that the pack's metadata holds.
    pub(super) fn to_text(&self) -> String {
        let (stored_blake3, frames) = match &self.coding {
            Coding::Raw => (None, None),
            Coding::ZstdPlanes { stored, frames } => (Some(*stored), Some(frames.lens().collect())),
        };
        let text = Text {
            kind: self.slice.kind(),
            name: self.slice.name().to_owned(),
            dtype: self.slice.dtype(),
            global_shape: self.slice.global_shape().to_vec(),
            global_offsets: self.slice.area().offsets().to_vec(),
            sizes: self.slice.area().sizes().to_vec(),
            blake3: self.tree.root(),
            groups: self.tree.values_hex(),
            codec: self.coding.codec(),
            stored_blake3,
            frames,
        };
        serde_json::to_string(&text).expect("texts and numbers are JSON")
    }

    /// Reads what [`to_text`](Self::to_text) writes; groups have `group` bytes, lengths of frames are left to
    /// [`check`](Self::check).
    pub(super) fn from_text(text: &str, group: u64) -> Result<Self, PackSliceError> {
        let text: Text = serde_json::from_str(text).map_err(PackSliceError::Json)?;
        let area = TensorBox::new(text.global_offsets, text.sizes)
            .map_err(|source| SliceError::Box { name: text.name.chars().take(160).collect(), source })?;
        let slice = SliceId::new(text.kind, &text.name, text.dtype, &text.global_shape, area)?;
        let tree = GroupTree::proven_hex_in(group, text.blake3, slice.bytes(), &text.groups)?;
        let coding = match (text.codec, text.stored_blake3, text.frames) {
            (Codec::Raw, None, None) => Coding::Raw,
            (Codec::ZstdPlanes, Some(stored), Some(frames)) => {
                // Before as many are kept again.
                check_count(&tree, frames.len() as u64)?;
                Coding::ZstdPlanes { stored, frames: frames.into_iter().collect() }
            }
            (codec, ..) => return Err(PackSliceError::Fields { codec }),
        };
        Ok(Self { slice, tree, coding })
    }
}

/// Checks that there is one frame for each group; coded content has one at least.
fn check_count(tree: &GroupTree, actual: u64) -> Result<(), PackSliceError> {
    let expected = tree.groups();
    if actual == 0 || actual != expected {
        return Err(PackSliceError::FrameCount { expected, actual });
    }
    Ok(())
}
