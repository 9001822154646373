//! The service: a store behind HTTP, for workers that need no credentials of the bucket.
//!
//! | file | what it does |
//! |---|---|
//! | `run.rs` | what is served, where, and who may: refuses what would be unsafe |
//! | `accept.rs` | connections: how many, how long, TLS, and their end |
//! | `pace.rs` | clients must read what they asked for |
//! | `http/` | routes; the URL tells the file |
//! | `auth.rs`, `tokens.rs` | who asks, and what they may; the token file |
//! | `admission.rs` | bytes in memory, room on the disk |
//! | `cache.rs` | reads of objects, shared and kept (in memory and on the disk: crate `gigastore-cache`) |
//! | `content.rs` | slices and files out of packs and blobs, verified |
//! | `files.rs` | files as they are served: saved ones, and those that tensors make |
//! | `manifests.rs`, `packs.rs` | decoded manifests and what is known of packs, kept (`kept.rs`) for plans and files |
//! | `maps.rs` | files of the store that the kernel sends by itself |
//! | `collect.rs` | policies and collections in the background |
//! | `metrics.rs` | what `/metrics` shows |
//! | `scrubbing.rs` | the scrub in the background |
//!
//! *Architecture invariants:* what a call means is the engine's, so a service and an embedded client can share one
//! bucket; no route answers about a project to a token without a scope on it; nothing here names the object store.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's panic is its failure"))]

mod accept;
mod admission;
mod auth;
mod cache;
mod collect;
mod content;
mod files;
mod http;
mod kept;
mod manifests;
mod maps;
mod metrics;
mod pace;
mod packs;

mod run;
mod scrubbing;
pub mod tokens;

pub use auth::Access;
pub use http::ROUTES;
pub use run::{Config, Limits, Server, StartError, Tls, allow_files};
