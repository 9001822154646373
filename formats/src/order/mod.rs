//! The order of datasets for training: a pure function of files, seed and epoch, independent of world size, workers and
//! batch size, that can be stopped anywhere and gone on with anywhere.
//!
//! # Algorithm 1
//!
//! All integers are little-endian. `derive(context, material)` is BLAKE3 in its mode of deriving keys. A different
//! number of the algorithm means different samples; this one never changes.
//!
//! **Table.** The row groups of all files, files sorted by the bytes of their paths, each with its rows and planned
//! tokens. A row is a document; its planned length is the number of tokens it had when it was first committed, also
//! after it was taken down. The *order id* names the table: see [`GroupTable::new`].
//!
//! **Draws.** `draws(purpose, lane, window)` is the extended output of `derive("gigastore 2026-11 dataset order,
//! algorithm 1", order id ‖ seed u64 ‖ epoch u64 ‖ purpose u64 ‖ lane u64 ‖ window u64)`, taken as numbers of 64 bits,
//! from its first byte on. A number below *n* is the high half of the 128-bit product of a draw and *n*; draws whose
//! low half is below (2^64 − n) mod n are thrown away. A permutation of *n* swaps, for i from n−1 down to 1, places i
//! and (number below i+1).
//!
//! **Lanes.** The row groups of an epoch come in the order of the permutation of all of them drawn for purpose 1 (lane
//! and window 0); without a seed, in that of the table, and in one lane. Those with rows are dealt in this order, each
//! to the lane with the least rows + tokens so far, the lowest number of equals: the *dealing number*. Lanes are then
//! numbered anew, the one with most samples first (with first fit, where the number of samples depends on single
//! lengths, the one with most tokens), equals by dealing number.
//!
//! **Windows.** The row groups of a lane, as they were dealt, are cut into windows: that of the lane with dealing
//! number *d* that is first has `d mod W + 1` of them, all others `W`, the last what is left. The documents of a
//! window, numbered from 0 through its row groups, come in the order of the permutation drawn for purpose 2, dealing
//! number and number of the window from 0; without a seed, as they are.
//!
//! **Samples.** Each window is packed on its own ([`WindowPlan`]): every document a sample, empty ones too; or all
//! tokens one after the other, cut every `seq_len`, the last sample of the window with what is left; or whole
//! documents, each in the first sample that has room, samples in the order in which they were begun. With first fit, of
//! a document longer than `seq_len` each piece of `seq_len` tokens, and then the rest, is placed as a document of its
//! own would be; or only the first piece, and the rest is left out. Where there are sequences, empty documents are in
//! none of them.
//!
//! **Stream.** One sample of every lane in turn, by number; a lane that is exhausted drops out and the others go on.
//! After the last lane the next epoch begins. Of several sources that have a weight and have not ended, the next sample
//! is one of that with the least count for its weight, the first of equals. Counted are planned tokens, documents whose
//! first token is in the sample (with a document a sample, each document), or samples, of this source since the weights
//! were set; weights are rounded to millionths of their sum, halves away from 0, to at least one where they are not 0.
//!
//! **Ranks.** A global batch is the next `world size × batch size` samples; [`assign`] says who gets which.
//!
//! # How far ahead one can see
//!
//! Where samples are documents or cut every `seq_len` tokens, rows and tokens of row groups say how many samples each
//! lane has, and any position is found by halving. With first fit each window's number of samples follows from its
//! documents' lengths, which are stored in a column of their own.
//!
//! | file | what |
//! |---|---|
//! | `spec.rs` | what an order is a function of |
//! | `draws.rs` | uniform draws and permutations |
//! | `epoch.rs` | lanes, windows, positions |
//! | `pack.rs` | documents to samples |
//! | `walk.rs` | one source, sample after sample |
//! | `mix.rs`, `sampler.rs` | several sources, epochs, budgets |
//! | `share.rs` | samples to ranks |
//! | `cursor.rs`, `seen.rs` | where a stream is, and what was seen |
//!
//! Must never read a token or a file.

mod cursor;
mod draws;
mod epoch;
mod mix;
mod pack;
mod sampler;
mod seen;
mod share;
mod spec;
mod walk;

#[cfg(test)]
#[path = "model_test.rs"]
mod model;

#[cfg(test)]
#[path = "vectors_test.rs"]
mod vectors;

pub use cursor::{CURSOR_FORMAT, Cursor, CursorError, SourceCursor};
pub use epoch::{Epoch, LanePlace};
pub use mix::{Unit, Weight, WeightError};
pub use pack::{ItemSize, Segment, WindowPlan};
pub use sampler::{MOST_SEEK_EPOCHS, Next, Sampler, SourceSpec, StreamSpec};
pub use seen::{Piece, SampleHasher, Seen, SeenDigest, SeenError};
pub use share::assign;
pub use spec::{
    ALGORITHM, GroupTable, Long, MAX_LANES, MAX_SEQ_LEN, MAX_WINDOW, OrderId, OrderSpec, Packing, SpecError,
};
pub use walk::{Sample, SourceOrder, WindowKey};
