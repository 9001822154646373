//! What the tests share: a store that fails on purpose, small models, and the data that `cargo xtask data` prepared.
//!
//! Must never be a dependency of anything that is shipped.
//!
//! | module | what it gives |
//! |---|---|
//! | [`cursors`] | cursors of a data stream, with what some ranks saw |
//! | [`faulty`] | an object store that numbers, records, fails, cuts and kills, as a plan says |
//! | [`groups`] | versions of datasets with a million row groups from little content |
//! | [`hostile`] | every parser of bytes that somebody else made, for fuzzing |
//! | [`memory`] | how much memory a process has |
//! | [`model`] | small transformer-shaped tensors, the same for the same seed, and a safetensors file of them |
//! | [`old`] | saves as older clients made them |
//! | [`opened`] | stores, services and whole saves in one call |
//! | [`prepared`] | other people's readers and files |
//! | [`raw`] | HTTP by hand |
//! | [`rows`] | checkpoints of a million rows from little content |
//! | [`simulation`] | a made-up world of time, chance, threads and store, all from one seed |
//! | [`tables`] | tables without tokens, of one schema |
//! | [`weed`] | a real S3 server |

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's panic is its failure"))]

pub mod cursors;
pub mod faulty;
pub mod groups;
pub mod hostile;
pub mod memory;
pub mod model;
pub mod old;
pub mod opened;
pub mod prepared;
pub mod raw;
pub mod rows;
pub mod simulation;
pub mod tables;
pub mod weed;
