//! Saves and restores in this process: every sharding, replicas, deduplication, steps that exist, ranks that disagree,
//! folders of models in and out, saves in the background, timelines, cursors of data, many packs in little memory.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

mod background;
mod cursors;
mod dedup;
mod existing;
mod export;
mod folders;
mod ranks;
mod reads;
mod roundtrip;
mod timeline;
mod turns;
mod world;
