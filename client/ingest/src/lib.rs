//! Corpora become datasets: text, JSONL and Parquet are tokenized on all cores and written as Parquet files.
//!
//! The same inputs, tokenizer and options give the same files, byte for byte, whatever the number of threads and
//! however often the work was killed in between: documents are cut into batches by their bytes alone, batches are
//! written in the order in which they were read, and a file ends only where a batch ends.
//!
//! ```text
//! one reader -> batches of documents -> a tokenizer on every core -> batches in order -> part-00000.parquet, …
//! ```
//!
//! Memory: at most [`run::IN_FLIGHT_BYTES`] of text a core is between reader and writer, beside one row group of
//! tokens. The library needs some 100 bytes for a byte of a document while it works on it (see
//! [`MAX_DOCUMENT_BYTES`](input::MAX_DOCUMENT_BYTES)).
//!
//! What it is not: a tokenizer (that is Hugging Face's `tokenizers`), or a filter of corpora.
//!
//! | module | what |
//! |---|---|
//! | [`input`] | files, folders, globs, stdin; text, JSONL, Parquet; gzip, zstd |
//! | [`encode`] | the tokenizer, and which tokens stand around a document |
//! | [`work`] | the folder of an unfinished run, and its journal |
//! | [`mod@run`] | reader, cores and writer at work |

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's panic is its failure"))]

pub mod encode;
mod error;
mod guard;
pub mod input;
mod part;
mod read;
pub mod run;
pub mod work;

pub use encode::{Bos, Encoder, Ends, Eos};
pub use run::{Counters, RunError, Tokenized, run};
pub use work::Work;
