//! Blocks of stored objects, kept near: in the memory of a process, and in a directory that all processes of a machine
//! may share, services and clients alike.
//!
//! | file | what it does |
//! |---|---|
//! | `cache.rs` | one read through both tiers; a block that many want at once is read once |
//! | `memory.rs` | blocks in memory, by last use, and who waits for which |
//! | `directory.rs` | blocks in the directory: found, filled in the background, forgotten |
//! | `room.rs` | what the directory holds, and which blocks make room for others |
//! | `entry.rs` | the bytes of a block's file |
//! | `counts.rs` | what was found, missed, given up |
//!
//! Objects are named by their content and never change, so that a block once read stays right. In the directory:
//!
//! ```text
//! v1/<hh>/<64 hex digits>     a block: the hash of project, kind of object, its digest and the block's number
//! v1/staging/<16 hex digits>  a block that is being written, locked by its writer
//! ```
//!
//! *Architecture invariants.* A file's bytes are believed only under its own seal, so that a torn, cut, foreign or
//! flipped one is a miss; whoever has the object's digests checks them all the same. Files appear whole, by renaming,
//! and are never changed, so that one which goes away under its readers does them no harm. There is no index and no
//! lock that outlives its process: what the directory holds is what is in it. A directory that can't be written slows
//! nobody down and fails nobody: blocks come from the store then.
//!
//! *Threads.* Files are read and written by jobs on the pool that hashes ([`Ambient::compute`]): a block is mostly a
//! copy out of the system's memory, hashed while it is warm, and a pool of one thread a core bounds what a slow disk
//! can hold up. Of its threads at most half write.
//!
//! [`Ambient::compute`]: gigastore_formats::ambient::Ambient::compute

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's panic is its failure"))]

mod cache;
mod counts;
mod directory;
mod entry;
mod memory;
mod room;

pub use cache::{BLOCK_BYTES, Cache, Object};
pub use counts::{Counts, Tier};
pub use directory::Directory;
