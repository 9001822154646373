//! The binary as its users run it: every command, its output, its exit codes.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

mod ckpt;
mod codes;
mod cursors;
mod data;
mod demo;
mod folder;
mod mirror;
mod real;
mod rebuilt;
mod reclaim;
mod run;
mod tokenize;
mod verify;
mod versions;
