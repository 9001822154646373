//! Datasets as a client meets them: pushes that are validated, versions, takedown, and an index that opens at once.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

mod desk;
mod index;
mod pushes;
mod stream;
mod takedowns;
