//! The service as people run it: real processes, real sockets.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]
