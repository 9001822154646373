//! One Parquet file written anew with some rows empty: the same schema, row groups and rows.
//!
//! A row group without such rows is copied as it is, and so are the columns that hold no content. Of an empty row the
//! id stays, and what is neither text, bytes nor a list; lists are empty, texts and bytes too (those of fixed length
//! are zeros). Of the file's own metadata only the schema and what we write stays. Must never keep a byte of a blanked
//! value: pages and statistics of changed columns are made anew.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use gigastore_formats::range::ByteRange;
use gigastore_formats::table::tokens::{Documents, TokenCompression, TokenFile, TokenWidth, encode_documents};
use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::{ColumnChunkMetaData, KeyValue, ParquetMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::serialized_reader::ReadOptionsBuilder;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnDescriptor, Type};

use super::leaf::{Blank, copy_column};
use crate::dataset::push::RewriteError;
use crate::transfer::source::SourceFile;

/// The name of the column that counts tokens.
const COUNTS: &str = "n_tokens";

/// What is blanked of a file.
pub(super) struct Blanking<'a> {
    /// The file.
    pub(super) source: &'a Arc<SourceFile>,
    /// Its token column, where the dataset has one.
    pub(super) tokens: Option<&'a TokenFile>,
    /// The column that stays though it holds text.
    pub(super) id: Option<&'a str>,
    /// The rows.
    pub(super) rows: &'a BTreeSet<u64>,
}

impl Blanking<'_> {
    /// Writes the file to `to`; returns how many tokens each of the rows had.
    pub(super) fn write(&self, to: &Path) -> Result<Vec<u64>, RewriteError> {
        let (from, io) = (self.source.path(), super::io);
        let file = File::open(from).map_err(|source| io(from, source))?;
        let options = ReadOptionsBuilder::new().with_page_index().build();
        let reader = SerializedFileReader::new_with_options(file.try_clone().map_err(|e| io(from, e))?, options)?;
        let metadata = reader.metadata();
        let sink = BufWriter::new(File::create_new(to).map_err(|source| io(to, source))?);
        let schema = metadata.file_metadata().schema_descr().root_schema_ptr();
        let mut writer = SerializedFileWriter::new(sink, schema, Arc::new(properties(metadata)))?;
        let (mut first, mut lengths) = (0u64, Vec::with_capacity(self.rows.len()));
        for number in 0..metadata.num_row_groups() {
            let rows = u64::try_from(metadata.row_group(number).num_rows()).unwrap_or_default();
            let hits: Vec<usize> = self.rows.range(first..first + rows).map(|row| (row - first) as usize).collect();
            let mut group = writer.next_row_group()?;
            if hits.is_empty() {
                for column in 0..metadata.row_group(number).num_columns() {
                    append(&file, metadata, (number, column), &mut group)?;
                }
            } else {
                let documents = self.documents(number)?;
                lengths.extend(hits.iter().map(|row| {
                    let document = documents.as_ref().and_then(|documents| documents.document(*row));
                    document.map_or(0, |tokens| tokens.len() as u64)
                }));
                self.write_group(&reader, (&file, number), &hits, documents, &mut group)?;
            }
            group.close()?;
            first += rows;
        }
        let sink = writer.into_inner()?;
        let file = sink.into_inner().map_err(|error| io(to, error.into_error()))?;
        file.sync_all().map_err(|source| io(to, source))?;
        Ok(lengths)
    }

    /// Reads the tokens of a row group.
    fn documents(&self, number: usize) -> Result<Option<Documents>, RewriteError> {
        let Some(tokens) = self.tokens else { return Ok(None) };
        let range: ByteRange = tokens.tokens_range(number);
        let mut chunk = vec![0; range.len() as usize];
        let unreadable = |error: &dyn std::fmt::Display| RewriteError::Damaged(error.to_string());
        self.source.read_at(range.start(), &mut chunk).map_err(|error| unreadable(&error))?;
        let mut documents = Documents::new(tokens.width());
        tokens.read_tokens(number, &chunk.into(), &mut documents).map_err(|error| unreadable(&error))?;
        Ok(Some(documents))
    }

    /// Writes a row group with empty rows.
    fn write_group(
        &self,
        reader: &SerializedFileReader<File>,
        (file, number): (&File, usize),
        hits: &[usize],
        documents: Option<Documents>,
        group: &mut SerializedRowGroupWriter<'_, BufWriter<File>>,
    ) -> Result<(), RewriteError> {
        let metadata = reader.metadata();
        let columns = reader.get_row_group(number)?;
        for (i, chunk) in metadata.row_group(number).columns().iter().enumerate() {
            let descriptor = chunk.column_descr();
            let ours = descriptor.max_def_level() == 1 && descriptor.max_rep_level() == 1;
            let is_tokens = self.tokens.is_some_and(|tokens| tokens.column() == descriptor.path().string());
            match (self.blank(descriptor, metadata), &documents) {
                (None, _) => append(file, metadata, (number, i), group)?,
                // In the form that readers decode fastest.
                (Some(_), Some(documents)) if is_tokens && ours && documents.tokens.width() == TokenWidth::U16 => {
                    let emptied = documents.emptied(hits);
                    let (pages, facts) =
                        encode_documents(chunk.column_descr_ptr(), compression(chunk.compression()), &emptied)?;
                    let offset_index = facts.offset_index.filter(|_| is_indexed(metadata));
                    group.append_column(&pages, ColumnCloseResult { offset_index, ..facts })?;
                }
                (Some(blank), _) => {
                    let from = columns.get_column_reader(i)?;
                    let mut to = group
                        .next_column()?
                        .ok_or_else(|| RewriteError::Damaged("it has more columns than its schema".to_owned()))?;
                    copy_column(from, &mut to, descriptor, hits, blank)?;
                    to.close()?;
                }
            }
        }
        Ok(())
    }

    /// Returns what becomes of the values of a column in an empty row; none where they stay.
    fn blank(&self, column: &ColumnDescriptor, metadata: &ParquetMetaData) -> Option<Blank> {
        let parts = column.path().parts();
        if self.id.is_some_and(|id| parts.join(".") == id) {
            return None;
        }
        if column.max_rep_level() > 0 {
            return Some(Blank::List { empty: empty_level(metadata.file_metadata().schema(), parts) });
        }
        let number = matches!(column.logical_type_ref(), Some(LogicalType::Decimal { .. } | LogicalType::Float16));
        match column.physical_type() {
            Physical::BYTE_ARRAY if number => Some(Blank::Value { bytes: 1 }),
            Physical::BYTE_ARRAY => Some(Blank::Value { bytes: 0 }),
            Physical::FIXED_LEN_BYTE_ARRAY if !number => {
                Some(Blank::Value { bytes: usize::try_from(column.type_length()).unwrap_or_default() })
            }
            _ if self.tokens.is_some() && parts == [COUNTS.to_owned()] => Some(Blank::Value { bytes: 0 }),
            _ => None,
        }
    }
}

/// Returns the definition level that says that the outermost list around a leaf is empty.
fn empty_level(root: &Type, parts: &[String]) -> i16 {
    let (mut level, mut at) = (0, root);
    for part in parts {
        let Some(next) = at.get_fields().iter().find(|field| field.name() == part) else { break };
        match next.get_basic_info().repetition() {
            Repetition::REPEATED => break,
            Repetition::OPTIONAL => level += 1,
            Repetition::REQUIRED => {}
        }
        at = next;
    }
    level
}

/// Copies the pages of a column of a row group as they are.
fn append(
    file: &File,
    metadata: &ParquetMetaData,
    (number, column): (usize, usize),
    group: &mut SerializedRowGroupWriter<'_, BufWriter<File>>,
) -> Result<(), RewriteError> {
    let chunk: &ColumnChunkMetaData = metadata.row_group(number).column(column);
    let offset_index = metadata.offset_index().filter(|_| is_indexed(metadata));
    let offset_index = offset_index.and_then(|index| index.get(number)?.get(column).cloned());
    let facts = ColumnCloseResult {
        bytes_written: u64::try_from(chunk.compressed_size()).unwrap_or_default(),
        rows_written: u64::try_from(metadata.row_group(number).num_rows()).unwrap_or_default(),
        metadata: chunk.clone(),
        bloom_filter: None,
        column_index: None,
        offset_index,
    };
    Ok(group.append_column(file, facts)?)
}

/// Tells whether the file says of every column of every row group where its pages begin: the writer says it of all or
/// of none, and panics where some were copied that do not.
fn is_indexed(metadata: &ParquetMetaData) -> bool {
    let columns = metadata.row_groups().iter().map(parquet::file::metadata::RowGroupMetaData::num_columns);
    metadata.offset_index().is_some_and(|index| columns.eq(index.iter().map(Vec::len)))
}

fn compression(codec: Compression) -> TokenCompression {
    match codec {
        Compression::UNCOMPRESSED => TokenCompression::None,
        Compression::LZ4_RAW | Compression::SNAPPY => TokenCompression::Lz4,
        _ => TokenCompression::Zstd(1),
    }
}

/// Tells whether a pair of the file's own metadata stays. Other programs keep there what they like, texts of rows among
/// it (examples, ranges of an index): only the schema, and what we write, is known to hold none.
fn stays(pair: &&KeyValue) -> bool {
    pair.key == "ARROW:schema" || pair.key.starts_with("gigastore.")
}

/// Returns settings under which changed columns are written as the others are.
fn properties(metadata: &ParquetMetaData) -> WriterProperties {
    let file = metadata.file_metadata();
    let mut builder = WriterProperties::builder()
        .set_created_by(file.created_by().unwrap_or("gigastore").to_owned())
        .set_key_value_metadata(file.key_value_metadata().map(|pairs| pairs.iter().filter(stays).cloned().collect()))
        .set_offset_index_disabled(!is_indexed(metadata))
        .set_statistics_enabled(EnabledStatistics::None);
    for chunk in
        metadata.row_groups().first().map(parquet::file::metadata::RowGroupMetaData::columns).unwrap_or_default()
    {
        let path = chunk.column_path().clone();
        let codec = match chunk.compression() {
            // Codecs that are read, and not written, here.
            Compression::GZIP(_) | Compression::BROTLI(_) | Compression::LZO | Compression::LZ4 => {
                Compression::ZSTD(Default::default())
            }
            codec => codec,
        };
        builder = builder
            .set_column_compression(path.clone(), codec)
            .set_column_dictionary_enabled(path.clone(), chunk.dictionary_page_offset().is_some());
        if chunk.statistics().is_some() {
            builder = builder.set_column_statistics_enabled(path, EnabledStatistics::Chunk);
        }
    }
    builder.build()
}
