//! Bad files, bad disks and foreign stores: a clear error each, nothing half-written, nothing half-visible.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

mod inputs;
mod markers;
mod outputs;
mod stores;
mod tables;
