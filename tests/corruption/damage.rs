//! What can happen to the bytes of an object: bits that flip, ends that are lost, blocks that were never written or
//! were written to another object, bytes that slip.
//!
//! Must never give the right bytes for damaged ones.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// Bytes that a store loses or misplaces together, in a small object: as a sector is to a large one.
const BLOCK: usize = 64;

/// Bytes that are zero together, and closer to each other than blocks: what a torn write leaves.
const HOLE: usize = 8;

/// One damage.
#[derive(Clone)]
pub(crate) enum Damage {
    /// A byte is another one.
    Flip(usize, u8),
    /// What follows is lost.
    Cut(usize),
    /// A byte is lost, what follows has moved up, and the length is kept.
    Slip(usize),
    /// Bytes from here on are zero.
    Zeros(usize, usize),
    /// A block is that of an object of about the same length.
    Block(usize, Arc<Other>),
    /// All of it is another object's.
    All(Arc<Other>),
    /// Bytes were appended.
    Longer(&'static [u8]),
    /// All of it is there twice.
    Twice,
    /// It is not there.
    Gone,
}

/// Another object.
pub(crate) struct Other {
    pub(crate) key: String,
    pub(crate) bytes: Bytes,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flip(at, mask) => write!(f, "byte {at} changed by {mask:#04x}"),
            Self::Cut(len) => write!(f, "cut at {len}"),
            Self::Slip(at) => write!(f, "byte {at} lost"),
            Self::Zeros(start, end) => write!(f, "zeros in {start}..{end}"),
            Self::Block(at, other) => write!(f, "block at {at} of {}", other.key),
            Self::All(other) => write!(f, "content of {}", other.key),
            Self::Longer(more) => write!(f, "{} bytes more", more.len()),
            Self::Twice => f.write_str("all of it twice"),
            Self::Gone => f.write_str("deleted"),
        }
    }
}

impl Damage {
    /// Returns the damaged bytes; `None` where there are none any more.
    pub(crate) fn of(&self, bytes: &Bytes) -> Option<Bytes> {
        let mut damaged = bytes.to_vec();
        match self {
            Self::Flip(at, mask) => damaged[*at] ^= mask,
            Self::Cut(len) => damaged.truncate(*len),
            Self::Slip(at) => {
                damaged.remove(*at);
                damaged.push(0);
            }
            Self::Zeros(start, end) => damaged[*start..*end].fill(0),
            Self::Block(at, other) => {
                let end = (at + BLOCK).min(damaged.len()).min(other.bytes.len());
                damaged[*at..end].copy_from_slice(&other.bytes[*at..end]);
            }
            Self::All(other) => return Some(other.bytes.clone()),
            Self::Longer(more) => damaged.extend_from_slice(more),
            Self::Twice => damaged.extend_from_slice(bytes),
            Self::Gone => return None,
        }
        Some(damaged.into())
    }
}

/// Returns every damage of `bytes` that changes them, each `stride`th byte being the place of one: two flips of it, its
/// loss, and all that follows it lost; holes and blocks everywhere.
pub(crate) fn damages(bytes: &Bytes, others: &[Arc<Other>], stride: usize, may_be_gone: bool) -> Vec<Damage> {
    let len = bytes.len();
    let mut found = Vec::new();
    for at in (0..len).step_by(stride) {
        let (one, all) = (1 << (at / stride % 8), 0xff);
        found.extend([Damage::Flip(at, one), Damage::Flip(at, all), Damage::Cut(at), Damage::Slip(at)]);
    }
    for at in (0..len).step_by(HOLE * stride) {
        found.extend([Damage::Zeros(at, (at + HOLE).min(len)), Damage::Zeros(at, len)]);
    }
    found.extend(others.iter().map(|other| Damage::All(Arc::clone(other))));
    for other in others.iter().filter(|other| other.bytes.len().abs_diff(len) < BLOCK) {
        let blocks = (0..len.min(other.bytes.len())).step_by(BLOCK);
        found.extend(blocks.map(|at| Damage::Block(at, Arc::clone(other))));
    }
    found.extend([Damage::Longer(b"\0"), Damage::Longer(b"\n"), Damage::Longer(&[0xff; 4096]), Damage::Twice]);
    found.extend(may_be_gone.then_some(Damage::Gone));
    found.retain(|damage| damage.of(bytes).as_ref() != Some(bytes));
    found
}
