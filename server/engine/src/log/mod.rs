//! The log: the database of a project. Records are created one after another, never rewritten; folding them gives the
//! state.
//!
//! | file | what |
//! |---|---|
//! | `state.rs` | what a fold knows: runs, datasets, tags, pins, transactions, epoch |
//! | `fold.rs` | whether an entry takes effect, from the records before it alone |
//! | `view.rs` | from the bucket to the newest state, with the folded cache |
//! | `past.rs` | the state at an earlier record, for collectors |
//! | `queue.rs` | who waits for a place in the log: what comes together shares a record |
//! | `append.rs` | the one way in: create-only slot, read-back, transactions |
//!
//! *Invariants:* one record per number, ever; an acknowledged transaction took effect exactly once, an unacknowledged
//! one at most once; no clock decides anything. Must never delete a record.

mod append;
mod fold;
mod past;
mod queue;
mod state;
mod view;

pub(crate) use append::Appended;
pub use append::{AppendError, Void};
pub use state::{Live, Named, Outcome, State, VoidReason};
pub use view::LogError;
pub(crate) use view::{Log, read_record};
