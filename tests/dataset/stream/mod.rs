//! Streams of batches: the same samples for every number of ranks and workers, from every cursor, on every store.

mod elastic;
mod hurt;
mod made;
mod memory;
