//! The rules of commit and collection as a model of which every state is looked at: writers that are restarted, a store
//! that loses answers, delays and repeats, and collectors that delete beside them.
//!
//! The model says only what the rules say; it has none of the engine's code. Must never leave out a bad turn to make
//! the states fewer without saying so here.
//!
//! | file | what it holds |
//! |---|---|
//! | [`log`] | entries, records, and the fold with the rules that decide whether an entry takes effect |
//! | [`scenario`] | who does what, and the rules that can be broken on purpose |
//! | [`state`] | one state of the world: log, objects, requests on their way, what each process remembers |
//! | [`step`] | what can happen next |
//! | [`invariant`] | what must hold in every state |
//! | [`alone`] | a writer that runs alone finishes |
//!
//! *The store.* A creation of a record lands at any time after it was sent, or never, whatever its sender thinks of it;
//! the first to land fills the slot and the others do nothing. An object that was sent lands at any time, any number of
//! times, also after it was deleted; so does a deletion. No answer carries anything that a process relies on: it looks
//! again. So lost, late, wrong ("exists" where nothing is) and repeated answers are all one: none is needed.
//!
//! *What is bounded*: operations, epochs and creations on their way to one slot are as many as the [`scenario`] says,
//! and a record holds two entries at most. Restarts, repetitions and delays have no bound.
//!
//! *By construction* one record per number (I1) and one content per key (I2) hold here: the log only grows, and a key
//! *is* its content and epoch. That the engine's store keeps them is for the simulation to show.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's panic is its failure"))]

pub mod alone;
pub mod invariant;
pub mod log;
pub mod scenario;
pub mod state;
pub mod step;
