//! Corpora become token files: every format and packing, any number of threads, any interruption.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

mod bad;
mod desk;
mod formats;
mod real;
mod resume;
mod same;
