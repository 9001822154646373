//! Codecs of stored slices: as they are, or zstd over byte planes.
//!
//! The elements of a trained tensor differ in every bit of their low bytes and in few of their high ones. A group is
//! therefore split into planes (all first bytes of the elements, then all second bytes, …), so that what repeats lies
//! together, and made one zstd frame that decodes without any other: the low planes that do not shrink as they are, the
//! others compressed. Must never produce more bytes than the caller says the group has, whatever the frame says.

mod frame;
mod planes;

use zstd::zstd_safe;

use self::planes::join_planes;

use crate::limits::{GROUP_BYTES, PACK_1_GROUP_BYTES};
use crate::tensor::dtype::Dtype;
pub use crate::tensor::slice::Codec;

/// Groups that decide on a slice's codec: the first, the middle and the last. Three see a slice whose parts differ, and
/// cost at most 768 KiB of compression, a few milliseconds, for a slice of up to 4 GiB.
const SAMPLED_GROUPS: u64 = 3;

/// What coded bytes may be of the logical ones, in percent, to be worth it: 95. Decoding costs a reader about as much
/// as hashing does, and takes away views without copies; less than a twentieth of the transfer does not pay for that.
const MAX_CODED_PERCENT: u64 = 95;

/// Slices below 4 KiB stay raw: the codec's fields add about 150 bytes to the pack's header, 5 % of 3,000.
const MIN_CODED_BYTES: u64 = 4096;

/// Longest frame of any group, of packs of any version.
pub const MAX_FRAME_BYTES: u64 = frame_bound(PACK_1_GROUP_BYTES);

/// Why a frame is not that of a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The group is longer than groups are.
    #[error("a group has at most {PACK_1_GROUP_BYTES} bytes, not {actual}")]
    GroupLength {
        /// Logical bytes asked for.
        actual: u64,
    },
    /// The frame is longer than any compression of so short a group.
    #[error("frame of {actual} bytes is over the limit of {limit}, the most that its group can need")]
    FrameLength {
        /// [`frame_bound`] of the group.
        limit: u64,
        /// Bytes of the frame.
        actual: u64,
    },
    /// The bytes are not exactly one frame.
    #[error("stored bytes should be one zstd frame of {expected} bytes, but the frame they start with has {actual}")]
    NotOneFrame {
        /// Bytes given.
        expected: u64,
        /// Bytes of the first frame in them.
        actual: u64,
    },
    /// The frame can't be decoded into the bytes that the group has.
    #[error("zstd frame does not decode to {expected} bytes: {reason}")]
    Zstd {
        /// Logical bytes of the group.
        expected: u64,
        /// What zstd says.
        reason: &'static str,
    },
    /// The frame decodes to fewer bytes than the group has.
    #[error("zstd frame decodes to {actual} bytes, expected {expected}")]
    Short {
        /// Logical bytes of the group.
        expected: u64,
        /// Bytes that came out.
        actual: u64,
    },
}

/// Returns the most bytes that the frame of a group of `len` bytes can have: the bound of zstd (`ZSTD_COMPRESSBOUND`
/// in its `zstd.h`), 0.4 % for the headers of blocks that do not shrink and a margin below 128 KiB.
pub const fn frame_bound(len: u64) -> u64 {
    const BLOCK: u64 = 128 << 10;
    let margin = if len < BLOCK { (BLOCK - len) >> 11 } else { 0 };
    len + (len >> 8) + margin
}

/// Returns the frame of one group of elements of `dtype`; the same group always has the same frame. Memory that it
/// works in is kept for the next group of the same thread.
///
/// # Panics
/// Where the group is longer than groups are, or memory runs out inside of zstd.
pub fn encode_group(dtype: Dtype, group: &[u8]) -> Vec<u8> {
    assert!(group.len() as u64 <= PACK_1_GROUP_BYTES, "a group has at most {PACK_1_GROUP_BYTES} bytes");
    frame::write(group, width(dtype), is_float(dtype))
}

/// Returns the `logical_len` bytes of the group whose frame is given; fails where it has fewer or more.
pub fn decode_group(frame: &[u8], dtype: Dtype, logical_len: u64) -> Result<Vec<u8>, CodecError> {
    if logical_len > PACK_1_GROUP_BYTES {
        return Err(CodecError::GroupLength { actual: logical_len });
    }
    let (limit, actual) = (frame_bound(logical_len), frame.len() as u64);
    if actual > limit {
        return Err(CodecError::FrameLength { limit, actual });
    }
    let refuse = |code| CodecError::Zstd { expected: logical_len, reason: zstd_safe::get_error_name(code) };
    let first = zstd_safe::find_frame_compressed_size(frame).map_err(refuse)? as u64;
    if first != actual {
        return Err(CodecError::NotOneFrame { expected: actual, actual: first });
    }
    let read = frame::read(frame, width(dtype), logical_len as usize).map_err(refuse)?;
    read.map_err(|produced| CodecError::Short { expected: logical_len, actual: produced as u64 })
}

/// Returns the bytes of the frame that `bytes` start with: where the next one starts when the lengths are lost.
pub fn frame_len(bytes: &[u8]) -> Result<u64, CodecError> {
    let refuse = |code| CodecError::Zstd { expected: 0, reason: zstd_safe::get_error_name(code) };
    zstd_safe::find_frame_compressed_size(bytes).map(|len| len as u64).map_err(refuse)
}

/// Returns which groups of a slice of `len` bytes decide on its codec; none for a slice that is raw in any case.
pub fn sampled_groups(len: u64) -> Vec<u64> {
    if len < MIN_CODED_BYTES {
        return Vec::new();
    }
    let groups = len.div_ceil(GROUP_BYTES);
    if groups <= SAMPLED_GROUPS { (0..groups).collect() } else { vec![0, groups / 2, groups - 1] }
}

/// Tells whether `logical` bytes of groups shrink enough, to `stored` bytes of frames, for their slice to be coded. No
/// bytes are not worth it.
pub fn worth_coding(logical: u64, stored: u64) -> bool {
    logical > 0 && stored * 100 <= logical * MAX_CODED_PERCENT
}

/// Bytes of one element; 1 for elements narrower than a byte.
const fn width(dtype: Dtype) -> usize {
    let bytes = dtype.bits() / 8;
    if bytes == 0 { 1 } else { bytes as usize }
}

/// Tells whether the bytes of elements are uneven in their counts rather than in their order.
const fn is_float(dtype: Dtype) -> bool {
    match dtype {
        Dtype::BOOL
        | Dtype::U8
        | Dtype::I8
        | Dtype::I16
        | Dtype::U16
        | Dtype::I32
        | Dtype::U32
        | Dtype::I64
        | Dtype::U64 => false,
        Dtype::F4
        | Dtype::F6_E2M3
        | Dtype::F6_E3M2
        | Dtype::F8_E5M2
        | Dtype::F8_E4M3
        | Dtype::F8_E8M0
        | Dtype::F8_E4M3FNUZ
        | Dtype::F8_E5M2FNUZ
        | Dtype::F16
        | Dtype::BF16
        | Dtype::F32
        | Dtype::C64
        | Dtype::F64 => true,
    }
}

#[cfg(test)]
#[path = "codec_test.rs"]
mod tests;
