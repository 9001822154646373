//! Tables: what a Parquet file's footer says about the file, from bytes that anyone may have written.
//!
//! The footer is read by a parser of our own: general ones recurse as deep as a file says that its schema nests, and
//! reserve memory for as many children as it says there are, so that a hostile file of a few KiB ends the process. This
//! one allocates in proportion to the footer and does not recurse. Must never read data pages, and never believe a
//! number of the footer that does not lie within the file.

mod footer;
mod given;
mod row_group;
mod schema;
mod thrift;
pub mod tokens;

pub use footer::FooterError;
pub use given::{GivenError, Step};
pub use row_group::{Footer, FooterReader, ParquetFacts, RowGroup};
pub use thrift::ThriftError;

pub(crate) use footer::{Chunk, Group, find_footer, read_footer};
pub(crate) use given::Given;
pub(crate) use schema::{Leaf, Schema};
pub(crate) use thrift::Compact;
