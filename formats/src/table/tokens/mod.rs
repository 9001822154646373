//! The token column of Parquet files: what a footer says of it, its pages as tokens, and files of our own.
//!
//! Must never read, write or allocate beyond what its caller's bytes and the stated bounds allow.

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
mod values;
mod writer;

pub use buffer::{Documents, TokenBuffer, TokenSlice, TokenWidth};
pub use error::TokenError;
pub use file::{TokenFile, TokenFooterReader};
pub use levels::LevelsError;
pub use pages::PageFault;
pub use writer::{TokenCompression, TokenFileFacts, TokenFileSpec, TokenFileWriter, TokenWriteError};

#[cfg(test)]
#[path = "tokens_test.rs"]
mod tests;
