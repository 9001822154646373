//! Moving bytes: a budget of bytes in flight, buffers kept between uses, hashing on all cores, reads and writes.
//!
//! | file | what |
//! |---|---|
//! | `budget.rs` | how many bytes may be in flight |
//! | `buffer.rs` | large page-aligned buffers, used again |
//! | `copy.rs` | many pieces into one buffer, on all cores, past the caches |
//! | `coding.rs` | whether packs are coded before they are sent |
//! | `hash.rs` | group trees of many slices on all cores |
//! | `mark.rs` | memory of others: is it still what was hashed? |
//! | `source.rs` | where the bytes of a save come from |
//! | `sink.rs` | where the bytes of a restore go |
//! | `read.rs` | planned ranges of packs, as many at once as is best |
//! | `delivery.rs` | the groups of one read, verified, into sinks |
//! | `order.rs` | copied and hashed, in the order that is faster here |
//! | `huge.rs` | huge pages for memory of the allocator's |
//! | `gather.rs` | a range of a file, verified, into one buffer |
//! | `leased.rs` | a part of such a file, looked at where the system keeps it |
//! | `local.rs` | stored objects that are files of this machine |
//! | `window.rs` | how many reads are best |
//! | `write.rs` | packs out |
//! | `turns.rs` | how many packs are hashed and sent at once |
//! | `encode.rs` | slices as a pack stores them, coded or not |
//! | `watched.rs` | their bytes, where others may write to them meanwhile |
//! | `phases.rs` | what the phases of a save took |
//! | `progress.rs` | what a person sees meanwhile |
//!
//! Must never hand on a byte that was not checked.

pub mod budget;
pub mod buffer;
pub(crate) mod coding;
pub mod copy;
mod delivery;
mod encode;
pub(crate) mod gather;
pub(crate) mod hash;
pub(crate) mod huge;
mod leased;
pub(crate) mod local;
mod mark;
mod order;
pub(crate) mod phases;
pub mod progress;
pub(crate) mod read;
pub mod sink;
pub mod source;
pub(crate) mod turns;
pub(crate) mod watched;
mod window;
pub(crate) mod write;

pub use read::FetchError;
pub use write::WriteError;
