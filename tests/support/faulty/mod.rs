//! A store that fails on purpose: it numbers every operation, records it, and lets a plan decide what happens to it.
//!
//! Must never invent a fault of its own, and never touch the inner store beyond what the operation asked for: the same
//! plan over the same operations gives the same run.

mod body;
mod desk;
mod operation;
pub mod plan;
mod store;

#[cfg(test)]
mod faulty_test;

pub use operation::{Failure, Op, Operation, Verdict};
pub use plan::Plan;
pub use store::FaultyStore;
