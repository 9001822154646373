//! tmp
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's panic is its failure"))]
pub mod ambient;
pub mod checkpoint;
pub mod store;
pub mod transfer;
pub mod transport;
