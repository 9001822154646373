//! The service as people run it: real processes, real sockets.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

mod cached;
mod ending;
mod failover;
mod keeping;
mod killed;
mod many;
mod overload;
mod process;
#[allow(dead_code, reason = "shared with the tests of the command line")]
#[path = "../cli/run.rs"]
mod run;
mod same;
mod starting;
