//! The store itself, over any object store: no service, no HTTP.
//!
//! | file | what it does |
//! |---|---|
//! | [`store`] | opens a URL; every key; the few operations on objects |
//! | [`log`] | the database: create-only records, and the state that they fold to |
//! | `upload.rs` | packs and files in, checked as they pass |
//! | `save.rs`, `join.rs` | a save in progress: begin, parts, and their join into one checkpoint |
//! | `place.rs` | every pack that a checkpoint refers to, looked at before the commit |
//! | `commit.rs` | the only writer of manifests and commit records |
//! | `read.rs` | from a name to its commit, and ranges of objects |
//! | `flights.rs` | operations that many ask for and one does |
//! | `probe.rs` | a store tried out |
//! | `follow.rs` | the records that a follower has not seen |
//! | `scrub.rs` | verification of everything that is stored, and repair of what can be put right |
//! | `rebuild.rs` | a lost log made anew from manifests and packs |
//! | `quarantine.rs` | marks of damaged objects, to which nothing new refers |
//! | `keep.rs`, `retain.rs` | pins and drops; policies, and the drops that they lead to |
//! | `collect.rs` | what no live commit needs is condemned by a fence, and deleted later |
//! | `usage.rs` | what is stored, for what, and what will go |
//! | `fault.rs` | what each error means to a client |
//!
//! *Architecture invariants:* nothing outside [`store`] names `object_store`; no clock, randomness or thread but
//! through [`Ambient`](gigastore_formats::ambient::Ambient); the log alone decides what is committed.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's panic is its failure"))]

mod collect;
mod commit;
mod engine;
mod fault;
mod flights;
mod follow;
mod join;
mod keep;
pub mod log;
mod place;
mod probe;
mod quarantine;
mod read;
mod rebuild;
mod retain;
mod save;
mod scrub;
pub mod store;
mod upload;
mod usage;

pub use collect::{CollectError, FenceRefusal};
pub use commit::{CommitError, Refusal};
pub use engine::Engine;
pub use join::JoinError;
pub use keep::KeepRefusal;
pub use place::PlaceError;
pub use probe::ProbeError;
pub use read::ReadError;
pub use rebuild::RebuildError;
pub use retain::{PolicyRefusal, RetainError};
pub use save::{FinishError, SaveError};
pub use upload::{PackBody, UploadError};
