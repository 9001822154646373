//! Encodes the token column of one row group: pages, then the dictionary that stands before them.
//!
//! Tokens of two bytes are indices of 16 bits into a dictionary whose entry `i` is `i`, bit-packed: by Parquet's rules
//! those are the tokens themselves, little-endian, and every reader of Parquet reads them. Must never split a document
//! between pages: pages of version 2 hold whole rows.

use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::{ColumnChunkMetaData, OffsetIndexBuilder};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use super::buffer::{TokenSlice, TokenWidth};
use super::writer::{TokenCompression, TokenWriteError};

/// Bytes of the tokens of a page: 1 MiB; a longer document has a page of its own. Measured on real tokens, zstd leaves
/// 3 % more with pages of 256 KiB and 1 % less with pages of 4 MiB, which no longer stay in the second-level cache.
const PAGE_BYTES: usize = 1 << 20;

/// Rows of a page: 20,000, the default of most writers.
const PAGE_ROWS: usize = 20_000;

/// Bits of an index: as many as a token has, so that packed indices are the tokens.
const INDEX_BITS: u8 = 16;

/// Levels of one kind, as runs.
#[derive(Default)]
struct LevelRuns {
    bytes: Vec<u8>,
    level: u8,
    len: usize,
}

/// The column of one row group after the other.
pub(super) struct ColumnEncoder {
    descriptor: ColumnDescPtr,
    width: TokenWidth,
    codec: Compression,
    compressor: Compressor,
    repetition: LevelRuns,
    definition: LevelRuns,
    /// Tokens of the page, little-endian.
    tokens: Vec<u8>,
    rows: usize,
    levels: usize,
    pages: TrackedWrite<Vec<u8>>,
    /// For each page its length and rows.
    page_lens: Vec<(i32, i64)>,
    greatest: u32,
    group: Sums,
}

/// Sums over the pages of a row group.
#[derive(Clone, Copy, Default)]
struct Sums {
    rows: u64,
    levels: i64,
    unfolded: i64,
}

enum Compressor {
    None,
    Lz4,
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Compressor {
    fn compress(&mut self, bytes: &[u8]) -> Result<Vec<u8>, TokenWriteError> {
        match self {
            Self::None => Ok(bytes.to_vec()),
            Self::Lz4 => Ok(lz4_flex::block::compress(bytes)),
            Self::Zstd(zstd) => zstd.compress(bytes).map_err(TokenWriteError::Compress),
        }
    }
}

impl LevelRuns {
    fn push(&mut self, level: u8, len: usize) {
        if level != self.level {
            self.flush();
            self.level = level;
        }
        self.len += len;
    }

    fn flush(&mut self) {
        if self.len > 0 {
            varint(self.len as u64 * 2, &mut self.bytes);
            self.bytes.push(self.level);
            self.len = 0;
        }
    }

    fn finish(&mut self) -> Vec<u8> {
        self.flush();
        std::mem::take(&mut self.bytes)
    }
}

impl ColumnEncoder {
    pub(super) fn new(
        descriptor: ColumnDescPtr,
        width: TokenWidth,
        compression: TokenCompression,
        codec: Compression,
    ) -> Result<Self, TokenWriteError> {
        let zstd = |level| zstd::bulk::Compressor::new(level).map_err(TokenWriteError::Compress);
        let compressor = match compression {
            TokenCompression::None => Compressor::None,
            TokenCompression::Lz4 => Compressor::Lz4,
            TokenCompression::Zstd(level) => Compressor::Zstd(zstd(level)?),
        };
        Ok(Self {
            descriptor,
            width,
            codec,
            compressor,
            repetition: LevelRuns::default(),
            definition: LevelRuns::default(),
            tokens: Vec::new(),
            rows: 0,
            levels: 0,
            pages: TrackedWrite::new(Vec::new()),
            page_lens: Vec::new(),
            greatest: 0,
            group: Sums::default(),
        })
    }

    /// Appends a document whose greatest token is known; the tokens fit the width.
    pub(super) fn push(&mut self, tokens: TokenSlice<'_>, greatest: Option<u32>) -> Result<(), TokenWriteError> {
        let bytes = tokens.len() * self.width.bytes();
        let full = self.tokens.len() + bytes > PAGE_BYTES || self.rows == PAGE_ROWS;
        if full && self.rows > 0 {
            self.close_page()?;
        }
        self.greatest = self.greatest.max(greatest.unwrap_or(0));
        self.repetition.push(0, 1);
        self.repetition.push(1, tokens.len().saturating_sub(1));
        self.definition.push(u8::from(!tokens.is_empty()), tokens.len().max(1));
        let start = self.tokens.len();
        self.tokens.resize(start + bytes, 0);
        put(tokens, self.width, &mut self.tokens[start..]);
        self.levels += tokens.len().max(1);
        self.rows += 1;
        Ok(())
    }

    /// Returns the bytes that the row group holds so far.
    pub(super) fn bytes(&self) -> usize {
        self.pages.bytes_written() + self.tokens.len()
    }

    fn close_page(&mut self) -> Result<(), TokenWriteError> {
        let (repetition, definition) = (self.repetition.finish(), self.definition.finish());
        let mut values = Vec::with_capacity(self.tokens.len() + 32);
        if self.width == TokenWidth::U16 {
            values.push(INDEX_BITS);
            let groups = self.tokens.len().div_ceil(8 * self.width.bytes());
            if groups > 0 {
                varint(groups as u64 * 2 + 1, &mut values);
            }
            // Packed values come in groups of eight.
            self.tokens.resize(groups * 8 * self.width.bytes(), 0);
        }
        values.append(&mut self.tokens);
        let unfolded = repetition.len() + definition.len() + values.len();
        let mut body = repetition;
        let lens = (body.len() as u32, definition.len() as u32);
        body.extend(definition);
        body.extend(self.compressor.compress(&values)?);
        let (width, levels, rows) = (self.width, self.levels, self.rows);
        let page = Page::DataPageV2 {
            buf: body.into(),
            num_values: levels as u32,
            encoding: if width == TokenWidth::U16 { Encoding::RLE_DICTIONARY } else { Encoding::PLAIN },
            num_nulls: 0,
            num_rows: rows as u32,
            def_levels_byte_len: lens.1,
            rep_levels_byte_len: lens.0,
            is_compressed: !matches!(self.compressor, Compressor::None),
            statistics: None,
        };
        let written = SerializedPageWriter::new(&mut self.pages).write_page(CompressedPage::new(page, unfolded))?;
        self.page_lens.push((written.bytes_written as i32, rows as i64));
        self.group.rows += rows as u64;
        self.group.levels += levels as i64;
        self.group.unfolded += written.uncompressed_size as i64;
        (self.rows, self.levels) = (0, 0);
        Ok(())
    }

    /// Returns the column chunk of the row group, and what the footer says of it; starts another one.
    pub(super) fn finish(&mut self) -> Result<(Bytes, ColumnCloseResult), TokenWriteError> {
        if self.rows > 0 {
            self.close_page()?;
        }
        let mut chunk = TrackedWrite::new(Vec::new());
        let mut encodings = vec![Encoding::RLE, Encoding::PLAIN];
        let mut sums = std::mem::take(&mut self.group);
        if self.width == TokenWidth::U16 {
            encodings.push(Encoding::RLE_DICTIONARY);
            sums.unfolded += self.write_dictionary(&mut chunk)?;
        }
        let dictionary_len = chunk.bytes_written() as i64;
        let mut chunk = chunk.into_inner()?;
        let pages = std::mem::replace(&mut self.pages, TrackedWrite::new(Vec::new()));
        chunk.append(&mut pages.into_inner()?);
        let mut offsets = OffsetIndexBuilder::new();
        let mut at = dictionary_len;
        for (len, rows) in self.page_lens.drain(..) {
            offsets.append_row_count(rows);
            offsets.append_offset_and_size(at, len);
            at += i64::from(len);
        }
        self.greatest = 0;
        let metadata = ColumnChunkMetaData::builder(self.descriptor.clone())
            .set_compression(self.codec)
            .set_encodings(encodings)
            .set_num_values(sums.levels)
            .set_total_compressed_size(chunk.len() as i64)
            .set_total_uncompressed_size(sums.unfolded)
            .set_data_page_offset(dictionary_len)
            .set_dictionary_page_offset((dictionary_len > 0).then_some(0))
            .build()?;
        let facts = ColumnCloseResult {
            bytes_written: chunk.len() as u64,
            rows_written: sums.rows,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: Some(offsets.build()),
        };
        Ok((chunk.into(), facts))
    }

    /// Writes entries from 0 to the greatest token; returns the bytes that the page unfolds to, its header counted.
    fn write_dictionary(&mut self, into: &mut TrackedWrite<Vec<u8>>) -> Result<i64, TokenWriteError> {
        let entries: Vec<u8> = (0..=self.greatest).flat_map(u32::to_le_bytes).collect();
        let page = Page::DictionaryPage {
            buf: self.compressor.compress(&entries)?.into(),
            num_values: self.greatest + 1,
            encoding: Encoding::PLAIN,
            is_sorted: true,
        };
        let page = CompressedPage::new(page, entries.len());
        Ok(SerializedPageWriter::new(into).write_page(page)?.uncompressed_size as i64)
    }
}

/// Writes tokens little-endian; there is room for exactly them.
fn put(tokens: TokenSlice<'_>, width: TokenWidth, into: &mut [u8]) {
    match (tokens, width) {
        (TokenSlice::U16(tokens), TokenWidth::U16) => {
            into.as_chunks_mut().0.iter_mut().zip(tokens).for_each(|(word, token)| *word = token.to_le_bytes());
        }
        (TokenSlice::U32(tokens), TokenWidth::U16) => {
            let words = into.as_chunks_mut().0.iter_mut();
            words.zip(tokens).for_each(|(word, token)| *word = (*token as u16).to_le_bytes());
        }
        (TokenSlice::U16(tokens), TokenWidth::U32) => {
            let words = into.as_chunks_mut().0.iter_mut();
            words.zip(tokens).for_each(|(word, token)| *word = u32::from(*token).to_le_bytes());
        }
        (TokenSlice::U32(tokens), TokenWidth::U32) => {
            into.as_chunks_mut().0.iter_mut().zip(tokens).for_each(|(word, token)| *word = token.to_le_bytes());
        }
    }
}

fn varint(mut number: u64, into: &mut Vec<u8>) {
    while number >= 128 {
        into.push(number as u8 | 128);
        number >>= 7;
    }
    into.push(number as u8);
}
