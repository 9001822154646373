//! Writes token files: one row a document, columns `id`, `n_tokens` and `tokens`.
//!
//! The same documents and settings give the same bytes. Must never write what [`TokenFile`](super::TokenFile) refuses.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::buffer::{TokenSlice, TokenWidth};
use super::encode::ColumnEncoder;
use crate::limits::{MAX_DOCUMENT_ID_BYTES, MAX_ROW_GROUP_TOKENS};

/// Who wrote the file: the layout's version, not the program's, so that a new program writes the same bytes.
const CREATED_BY: &str = "gigastore version 1";

/// Tokens of a row group: 8 Mi, 16 MiB of two bytes each.
const ROW_GROUP_TOKENS: u64 = 8 << 20;

/// Rows of a row group: 2^20. Only documents of less than eight tokens fill it before [`ROW_GROUP_TOKENS`].
const ROW_GROUP_ROWS: usize = 1 << 20;

/// Bytes of the ids of a row group: 32 MiB, twice its tokens.
const ROW_GROUP_ID_BYTES: usize = 32 << 20;

/// How pages are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenCompression {
    /// Not at all.
    None,
    /// LZ4 blocks (Parquet's `LZ4_RAW`).
    Lz4,
    /// zstd of a level in 1..=22.
    Zstd(i32),
}

/// How a token file is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenFileSpec {
    /// Bytes of a token.
    pub width: TokenWidth,
    /// Tokens of a row group; a longer document has one of its own.
    pub row_group_tokens: u64,
    /// Compression of all pages.
    pub compression: TokenCompression,
    /// Tokens of the vocabulary, where it is known: a document with another token is refused.
    pub vocab_size: Option<u32>,
    /// Key-value metadata of the footer.
    pub metadata: BTreeMap<String, String>,
}

/// What was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenFileFacts {
    /// Documents.
    pub rows: u64,
    /// Tokens.
    pub tokens: u64,
    /// Documents and tokens of each row group.
    pub groups: Vec<(u64, u64)>,
}

/// Why documents are not written. Those that are refused for themselves leave the writer as it was.
#[derive(Debug, thiserror::Error)]
pub enum TokenWriteError {
    /// A token is not in the vocabulary, or is wider than the file's tokens.
    #[error("document {row} (id {id:?}): token {actual} is over {limit}, the greatest of the vocabulary and width")]
    Token {
        /// Row of the file.
        row: u64,
        /// Its id.
        id: String,
        /// The token.
        actual: u32,
        /// Greatest token.
        limit: u32,
    },
    /// A document has more tokens than a row group can have.
    #[error("document {row} (id {id:?}) has {actual} tokens, over the limit of {limit}; split it")]
    Document {
        /// Row of the file.
        row: u64,
        /// Its id.
        id: String,
        /// Its tokens.
        actual: u64,
        /// Most tokens.
        limit: u64,
    },
    /// An id is too long.
    #[error("document {row}: its id has {actual} bytes, over the limit of {limit}")]
    Id {
        /// Row of the file.
        row: u64,
        /// Bytes of the id.
        actual: usize,
        /// Most bytes.
        limit: usize,
    },
    /// A setting is out of its bounds.
    #[error("{what} is {actual}, expected {expected}")]
    Setting {
        /// Which setting.
        what: &'static str,
        /// Its value.
        actual: i64,
        /// What it may be.
        expected: &'static str,
    },
    /// A page can't be compressed.
    #[error("a page of tokens can't be compressed: {0}")]
    Compress(#[source] std::io::Error),
    /// The Parquet writer, or the sink below it, failed.
    #[error("the token file can't be written: {0}")]
    Parquet(#[from] ParquetError),
}

/// Writes one token file.
pub struct TokenFileWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    row_group_tokens: u64,
    limit: u32,
    facts: TokenFileFacts,
    ids: Vec<u8>,
    id_ends: Vec<usize>,
    counts: Vec<i32>,
    tokens: u64,
    column: ColumnEncoder,
}

impl TokenFileSpec {
    /// Returns the default settings for tokens of `width`: row groups of 8 Mi tokens, zstd 3, which decodes as fast as
    /// zstd 1 and leaves a tenth less.
    pub fn new(width: TokenWidth) -> Self {
        let (compression, metadata) = (TokenCompression::Zstd(3), BTreeMap::new());
        Self { width, row_group_tokens: ROW_GROUP_TOKENS, compression, vocab_size: None, metadata }
    }
}

impl TokenCompression {
    fn codec(self) -> Result<Compression, TokenWriteError> {
        Ok(match self {
            Self::None => Compression::UNCOMPRESSED,
            Self::Lz4 => Compression::LZ4_RAW,
            Self::Zstd(level) => {
                let refuse =
                    |_| TokenWriteError::Setting { what: "zstd level", actual: level.into(), expected: "1..=22" };
                Compression::ZSTD(ZstdLevel::try_new(level).map_err(refuse)?)
            }
        })
    }
}

impl<W: Write + Send> TokenFileWriter<W> {
    /// Starts a file.
    pub fn new(sink: W, spec: TokenFileSpec) -> Result<Self, TokenWriteError> {
        if !(1..=MAX_ROW_GROUP_TOKENS).contains(&spec.row_group_tokens) {
            let actual = spec.row_group_tokens.try_into().unwrap_or(i64::MAX);
            return Err(TokenWriteError::Setting { what: "tokens of a row group", actual, expected: "1..=2^28" });
        }
        let Some(greatest) = spec.vocab_size.unwrap_or(u32::MAX).checked_sub(1) else {
            return Err(TokenWriteError::Setting { what: "vocabulary size", actual: 0, expected: "at least 1" });
        };
        let limit = if spec.vocab_size.is_some() { greatest } else { u32::MAX }.min(spec.width.max());
        let codec = spec.compression.codec()?;
        let pairs = spec.metadata.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect();
        let properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_2_0)
            .set_created_by(CREATED_BY.to_owned())
            .set_compression(codec)
            .set_dictionary_enabled(false)
            .set_encoding(Encoding::PLAIN)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_key_value_metadata(Some(pairs))
            .build();
        let bits = spec.width.bytes() * 8;
        let schema = format!(
            "message documents {{
                required binary id (STRING);
                required int32 n_tokens (INTEGER(32, false));
                required group tokens (LIST) {{
                    repeated group list {{ required int32 element (INTEGER({bits}, false)); }}
                }}
            }}"
        );
        let file = SerializedFileWriter::new(sink, Arc::new(parse_message_type(&schema)?), Arc::new(properties))?;
        let descriptor = file.schema_descr().column(2);
        Ok(Self {
            file,
            row_group_tokens: spec.row_group_tokens,
            limit,
            facts: TokenFileFacts { rows: 0, tokens: 0, groups: Vec::new() },
            ids: Vec::new(),
            id_ends: Vec::new(),
            counts: Vec::new(),
            tokens: 0,
            column: ColumnEncoder::new(descriptor, spec.width, spec.compression, codec)?,
        })
    }

    /// Appends a document.
    pub fn push<'a>(&mut self, id: &str, tokens: impl Into<TokenSlice<'a>>) -> Result<(), TokenWriteError> {
        let tokens = tokens.into();
        let (row, len) = (self.facts.rows, tokens.len() as u64);
        if id.len() > MAX_DOCUMENT_ID_BYTES {
            return Err(TokenWriteError::Id { row, actual: id.len(), limit: MAX_DOCUMENT_ID_BYTES });
        }
        if len > MAX_ROW_GROUP_TOKENS {
            let id = id.to_owned();
            return Err(TokenWriteError::Document { row, id, actual: len, limit: MAX_ROW_GROUP_TOKENS });
        }
        let greatest = tokens.greatest();
        if let Some(actual) = greatest.filter(|greatest| *greatest > self.limit) {
            return Err(TokenWriteError::Token { row, id: id.to_owned(), actual, limit: self.limit });
        }
        let full = self.tokens + len > self.row_group_tokens
            || self.counts.len() == ROW_GROUP_ROWS
            || self.ids.len() + id.len() > ROW_GROUP_ID_BYTES;
        if full && !self.counts.is_empty() {
            self.close_group()?;
        }
        self.ids.extend(id.as_bytes());
        self.id_ends.push(self.ids.len());
        self.counts.push(len as i32);
        self.column.push(tokens, greatest)?;
        self.tokens += len;
        self.facts.rows += 1;
        Ok(())
    }

    /// Returns the documents that were pushed.
    pub fn rows(&self) -> u64 {
        self.facts.rows
    }

    /// Returns the tokens that were pushed.
    pub fn tokens(&self) -> u64 {
        self.facts.tokens + self.tokens
    }

    /// Returns about how many bytes the file has so far, those of the row group that is open counted as they are held.
    pub fn bytes(&self) -> u64 {
        (self.file.bytes_written() + self.ids.len() + 4 * self.counts.len() + self.column.bytes()) as u64
    }

    /// Writes what is left and the footer; returns the sink, and what was written.
    pub fn finish(mut self) -> Result<(W, TokenFileFacts), TokenWriteError> {
        if !self.counts.is_empty() {
            self.close_group()?;
        }
        Ok((self.file.into_inner()?, self.facts))
    }

    fn close_group(&mut self) -> Result<(), TokenWriteError> {
        let mut group = self.file.next_row_group()?;
        write_ids(&mut group, std::mem::take(&mut self.ids), &self.id_ends)?;
        if let Some(mut column) = group.next_column()? {
            column.typed::<Int32Type>().write_batch(&self.counts, None, None)?;
            column.close()?;
        }
        let (chunk, facts) = self.column.finish()?;
        group.append_column(&chunk, facts)?;
        group.close()?;
        self.facts.groups.push((self.counts.len() as u64, self.tokens));
        self.facts.tokens += self.tokens;
        self.id_ends.clear();
        self.counts.clear();
        self.tokens = 0;
        Ok(())
    }
}

fn write_ids<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    ids: Vec<u8>,
    ends: &[usize],
) -> Result<(), ParquetError> {
    let ids = Bytes::from(ids);
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let ids: Vec<ByteArray> = starts.zip(ends).map(|(start, end)| ids.slice(start..*end).into()).collect();
    if let Some(mut column) = group.next_column()? {
        column.typed::<ByteArrayType>().write_batch(&ids, None, None)?;
        column.close()?;
    }
    Ok(())
}
