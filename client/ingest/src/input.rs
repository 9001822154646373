//! What is read: files, folders, globs and stdin become a list of inputs, in an order that does not change.
//!
//! Must never read a file's content: what is inside is found out when it is its turn.

pub(crate) mod find;
pub(crate) mod json;
pub(crate) mod lines;
pub(crate) mod open;
pub(crate) mod rows;
pub(crate) mod source;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use find::{FindError, Found, find};
pub use open::ReadError;

/// Most bytes of one document's text: 16 MiB, ten times the longest novel. The library needs up to 220 bytes of memory
/// for a byte of text (measured: one-character words; 104 for English prose): 3.4 GiB for the worst such document.
pub const MAX_DOCUMENT_BYTES: usize = 16 << 20;

/// Most bytes of a line of JSON: 64 MiB. A document whose every byte is escaped in two has 32 MiB, and other fields
/// have as much.
pub const MAX_LINE_BYTES: usize = 4 * MAX_DOCUMENT_BYTES;

/// Most bytes of a document's id: 4 KiB, twice the longest URL that browsers take.
pub const MAX_ID_BYTES: usize = 4 << 10;

/// What the content of an input is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// UTF-8 text; how it is split into documents says [`Split`].
    Text,
    /// A JSON object a line.
    Jsonl,
    /// A Parquet file with a column of text.
    Parquet,
}

/// How text is split into documents.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// A file is a document; an empty file is an empty one.
    #[default]
    File,
    /// A line is a document; lines of nothing but blanks are none.
    Lines,
    /// What stands between lines of nothing but blanks is a document.
    BlankLines,
}

/// How inputs are read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reading {
    /// The format of every input; without it, the ending of its name says it.
    pub format: Option<Format>,
    /// How text is split.
    pub split: Split,
    /// The field of a JSON object or the column of a Parquet file that has the text.
    pub text_field: String,
    /// The one that has the document's id; without it, an id is the BLAKE3 of the text.
    pub id_field: Option<String>,
    /// Whether documents that can't be read are passed over, and counted.
    pub skip_bad: bool,
}

impl Default for Reading {
    fn default() -> Self {
        Self { format: None, split: Split::File, text_field: "text".to_owned(), id_field: None, skip_bad: false }
    }
}

/// Where an input's bytes come from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A local file, and what it looked like when it was found.
    File {
        /// The file.
        path: PathBuf,
        /// Its bytes, as they are stored.
        bytes: u64,
        /// When it was changed last, in nanoseconds since 1970.
        modified_ns: u64,
    },
    /// Standard input.
    Stdin,
}

/// One input.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Input {
    /// Where its bytes come from.
    pub origin: Origin,
    /// What they are.
    pub format: Format,
}

impl Input {
    /// Returns the bytes as they are stored; 0 where nobody knows.
    pub fn bytes(&self) -> u64 {
        match &self.origin {
            Origin::File { bytes, .. } => *bytes,
            Origin::Stdin => 0,
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::File { path, .. } => write!(f, "{}", path.display()),
            Origin::Stdin => f.write_str("stdin"),
        }
    }
}

/// A place between two documents of the inputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    /// The input, from 0.
    pub input: usize,
    /// The place in it.
    pub place: Place,
}

/// A place between two documents of one input.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Place {
    /// Bytes of text before it, unpacked; of a Parquet file, rows.
    pub offset: u64,
    /// Lines before it.
    pub lines: u64,
}

/// A document as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Document {
    /// Its id, where one was given.
    pub(crate) id: Option<String>,
    /// Its text.
    pub(crate) text: String,
    /// The line or row at which it stands, from 1.
    pub(crate) number: u64,
}

/// A document that can't be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Bad {
    /// The line or row at which it stands, from 1.
    pub(crate) number: u64,
    /// What is wrong.
    pub(crate) reason: String,
}

/// What a source gives.
pub(crate) type Record = Result<Document, Bad>;
