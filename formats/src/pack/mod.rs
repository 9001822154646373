//! Packs: stored objects that hold many slices each, valid safetensors files named by the digest of their header.
//!
//! ```text
//! header   length prefix and JSON: entries, and for each slice its digest, group values and codec; spaces to 4 KiB
//! data     slices in their order, each on its border; zero-filled pad entries between them
//! ```
//! There are two versions: slices are hashed, and coded, in groups of 256 KiB now, of 1 MiB in the first. The header's
//! text says which; what a reader needs to know of it is in each slice's tree. The header is a Merkle node over all
//! that is stored: with a pack's name alone, header and data can be checked as they pass. Must never hold a pack: only
//! headers, and at most one group of data.

pub mod codec;
mod frames;
mod header;
mod open;
mod plan;
#[cfg(test)]
#[path = "sample_test.rs"]
mod sample;
mod slice;
mod verify;

pub use frames::Frames;
pub use header::{PackEntry, PackError, PackHeader, PackVersion};
pub use plan::plan_packs;
pub use slice::{Coding, PackSlice, PackSliceError};
pub use verify::{PackCheck, PackDamage, PackFault};
