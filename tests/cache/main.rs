//! Blocks in a directory that many share: what is in it, whatever has happened to it, is right or is not there.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

mod client;
mod damage;
mod desk;
mod room;
mod sharing;
