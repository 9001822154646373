//! The token column of Parquet files: what a footer says of it, its pages as tokens, and files of our own.
//!
//! # The layout that is written
//!
//! A row is a document. Every reader of Parquet reads the file:
//!
//! | column | type | |
//! |---|---|---|
//! | `id` | required string | PLAIN |
//! | `n_tokens` | required uint32 | PLAIN; read alone it says where the rows of a row group end |
//! | `tokens` | required list of required uint16 or uint32 | data pages of version 2, whole documents in each |
//!
//! ```text
//! tokens of 16 bits   dictionary page  0, 1, 2, .. greatest token of the row group      (PLAIN int32)
//!                     data page        repetition runs | definition runs | 16 | 2n+1 | 8n tokens, little-endian
//!                                      never compressed                  | one frame of lz4 or zstd, or as it is
//! tokens of 32 bits   data page        repetition runs | definition runs | tokens, little-endian        (PLAIN int32)
//! ```
//!
//! Parquet has no integer of two bytes: a PLAIN one takes four. But indices into a dictionary may have any number of
//! bits, and indices of 16 bits, packed, are little-endian words. With a dictionary whose entry `i` is `i` (the
//! *identity dictionary*) the indices are the tokens: two bytes each, and decoding is a copy, after the dictionary was
//! seen to be the identity and every token to be below its length; tokens that are not compressed can even be left
//! where they were read. The dictionary costs at most 256 KiB a row group, 1.6 % of 16 MiB, and 160 KiB with zstd, 4 %
//! where a token of 16 bits keeps half a byte.
//!
//! Of all layouts that were measured (`benches/tokens.rs`, results in `benches/RESULTS.md`) this is the fastest that
//! other programs see as a list of integers: uncompressed it decodes at nine tenths of a memcpy, and under every codec
//! at the speed of BINARY, in which nobody could query tokens. zstd leaves a sixth less of it than of PLAIN words, and
//! goes over half of the bytes. Tokens have no statistics, as no query would use them; every page is in the offset
//! index.
//!
//! # What is read
//!
//! Lists of integers as other programs write them, one level deep, of any integer type, required or not: PLAIN,
//! dictionaries, DELTA_BINARY_PACKED and BYTE_STREAM_SPLIT, in data pages of both versions, not compressed or by
//! Snappy, LZ4 (raw blocks) or zstd. Nulls are refused, as are values that are no tokens, by row. What remains is
//! refused by name: gzip, brotli and LZ4 in Hadoop's frames, levels that are bit-packed in the deprecated way.
//!
//! # Bounds
//!
//! A row group has at most [`MAX_ROW_GROUP_TOKENS`](crate::limits::MAX_ROW_GROUP_TOKENS) values and
//! [`MAX_ROW_GROUP_DOCUMENTS`](crate::limits::MAX_ROW_GROUP_DOCUMENTS) rows. Decoding reserves four tokens a byte of
//! the chunk, or less where the footer says so, and grows beyond that only with tokens that are there; beside it lies
//! one unfolded page (16 bytes a value and 64 KiB at most, or the page is refused) and the positions of its rows.
//!
//! Must never read, write or allocate beyond what its caller's bytes and these bounds allow.

mod buffer;
mod chunk;
mod codec;
mod columns;
mod delta;
mod encode;
mod error;
mod file;
mod levels;
mod pages;
mod runs;
mod stored;
mod values;
mod writer;

pub use buffer::{Documents, TokenBuffer, TokenList, TokenSlice, TokenWidth};
pub use encode::encode_documents;
pub use error::TokenError;
pub use file::TokenFile;
pub use levels::LevelsError;
pub use pages::PageFault;
pub use stored::{StoredPiece, StoredTokens};
pub use writer::{TokenCompression, TokenFileFacts, TokenFileSpec, TokenFileWriter, TokenWriteError};

#[cfg(test)]
#[path = "tokens_test.rs"]
mod tests;

#[cfg(test)]
#[path = "foreign_test.rs"]
mod foreign_tests;

#[cfg(test)]
#[path = "hostile_test.rs"]
mod hostile_tests;
