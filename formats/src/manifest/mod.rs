//! Manifests: the Parquet files that say which slices a checkpoint and which files a dataset version has, the parts
//! that a checkpoint is put together from, the list of its packs, and what each phase of its save took.
//!
//! | kind | sorted by | says of itself |
//! |---|---|---|
//! | [`checkpoint`] | kind, name, box | run, step, world size, parent, user metadata, cursors, digest of the content |
//! | [`part`] | kind, name, box | rank, world size, bases, what it was compared to, user metadata, cursors, digest |
//! | [`packs`] | pack | nothing |
//! | [`timeline`] | phase, rank | run, step, world size, what the committer did |
//! | [`dataset`] | path | name, version, parent, user metadata, digest of the content |
//!
//! All are written with the same settings, so that the same rows give the same bytes, and are read by column name, so
//! that a later version may add columns. A reader checks every row. Must never read a file: readers ask for byte ranges
//! ([`Step`]) or take whole bytes; and must never panic on, nor take memory out of proportion for, what a stranger
//! wrote.

#[cfg(test)]
mod bombs_test;
mod bounds;
pub mod checkpoint;
mod columns;
mod cursors;
pub mod dataset;
mod dataset_index;
#[cfg(test)]
mod dataset_test_rows;
mod dataset_tokens;
mod error;
mod group;
mod head;
pub mod packs;
mod pages;
pub mod part;
mod reader;
mod row;
#[cfg(test)]
mod samples;
mod slice_rows;
pub mod timeline;
mod writer;

pub use crate::table::Step;
pub use cursors::{Cursors, check_cursors};
pub use error::{ManifestError, MetaError, PageError, RowError};
