//! Verified ranges: content is hashed in groups whose chaining values merge to the plain BLAKE3 root, so that any range
//! can be checked by hashing only the groups it touches.
//!
//! Must never define another hash: the root is what `b3sum` prints. The tree is BLAKE3's own (its paper, section 2.4,
//! and the `hazmat` module of the `blake3` crate); only the cut into groups is ours.

mod stream;
mod tree;

pub use stream::{StreamCheck, StreamHasher};
pub use tree::{GroupMismatch, GroupTree, TreeError, group_value};
