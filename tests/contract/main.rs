//! What every store must do, whatever is below it, and what the log keeps under many committers and failing puts.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

mod again;
mod cancelled;
mod collect;
mod commits;
mod committers;
mod epochs;
mod groups;
mod objects;
mod places;
mod pushes;
mod retain;
mod saves;
mod scrub;
mod versions;
