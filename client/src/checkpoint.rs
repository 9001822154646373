//! Checkpoints: saved by any number of ranks, read at any other.
//!
//! | file | what |
//! |---|---|
//! | `save.rs` | begin, one call a rank, finish |
//! | `asynchronous.rs` | the same in the background, from a copy |
//! | `known.rs` | what the latest checkpoint has already |
//! | `compare.rs` | a step that is there already: is it the same? |
//! | `diff.rs` | what changed between two checkpoints |
//! | `open.rs` | from a target to its manifest |
//! | `restore.rs` | whole tensors or boxes into sinks |
//! | `model.rs` | local safetensors files as sources |
//! | `export.rs` | a checkpoint as safetensors files on this machine |
//! | `files.rs` | the same files, read without being written |
//! | `shard.rs` | which box of a tensor a rank takes, where nobody says otherwise |

pub mod asynchronous;
pub mod compare;
pub mod diff;
pub mod export;
pub mod files;
mod known;
pub mod model;
pub mod open;
pub mod restore;
pub mod save;
pub mod shard;

pub use crate::transfer::coding::Compression;
pub use open::Checkpoint;
pub use restore::{RestoreError, Wanted};
pub use save::{CheckpointSave, SaveError, SaveSpec, Slice};
