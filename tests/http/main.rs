//! The service from outside: who may do what, hostile requests, bodies and connections, and what must hold under them.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

mod access;
mod cached;
mod connections;
mod direct;
mod documents;
mod feed;
mod files;
mod hub;
mod joins;
mod limits;
mod names;
mod packs;
mod plans;
mod proxy;
mod racing;
mod ranges;
mod scrubs;
mod served;
mod upkeep;
mod versions;
mod weather;
