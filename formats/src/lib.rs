//! The stored and exchanged formats of Gigastore.
//!
//! Pure: bytes in, values out, and back. No module here opens a file or a socket, reads a clock, draws a random number
//! or starts a thread; hashing and compression are synchronous and the caller chooses the thread.
//!
//! | module | what it defines |
//! |---|---|
//! | [`digest`], [`verified`] | BLAKE3 digests, and the group trees that make any range checkable |
//! | [`sealed`], [`record`] | self-checking JSON documents, and the records of the log |
//! | [`damage`] | the mark of a damaged object |
//! | [`name`], [`object`], [`range`] | names and targets, names of stored objects, byte ranges |
//! | [`moment`] | moments as dates |
//! | [`tensor`] | element types, boxes, safetensors headers, the files that tensors make |
//! | [`ambient`] | the interface to time, chance and threads; no implementation |
//! | [`pack`] | packs: stored objects of many slices, their codecs and their check |
//! | [`manifest`] | checkpoint and dataset manifests, parts, pack lists, timelines |
//! | [`table`] | what a Parquet file's footer says |
//! | [`order`] | the order of datasets for training: shuffle, packing, mixing, cursors |
//! | [`plan`] | wanted boxes to ranges of packs, ranges of files to parts of slices |
//! | [`timeline`] | what the phases of a save took |
//! | [`wire`] | what a client and a store say to each other |
//! | [`collect`], [`retention`] | what a collection is asked, and what it says; pins, drops, policies |
//! | [`guard`] | libraries whose panics are errors |
//! | [`limits`] | every bound |

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's panic is its failure"))]

pub mod ambient;
pub mod collect;
pub mod damage;
pub mod digest;
pub mod guard;
pub mod limits;
pub mod manifest;
pub mod moment;
pub mod name;
pub mod object;
pub mod order;
pub mod pack;
pub mod plan;
pub mod range;
pub mod record;
pub mod retention;
pub mod sealed;
pub mod table;
pub mod tensor;
pub mod timeline;
pub mod verified;
pub mod wire;
