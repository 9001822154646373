//! Decodes one row group of a manifest that anyone may have written.
//!
//! The decoder never sees the file's own schema or footer: it is told the columns that we know, where their chunks were
//! found to lie, and gets only pages that were looked at ([`super::pages`]). Columns that a later version added are not
//! read. Must never decode a column that differs from ours in type or nesting.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema as ArrowSchema};
use bytes::Bytes;
use parquet::DecodeResult;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, FileMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::schema::types::SchemaDescPtr;

use super::ManifestError;
use super::bounds::ColumnBounds;
use super::pages::{PageLimits, check_pages};
use super::row::{ROW_GROUP_ROWS, Row};
use crate::guard::guarded;
use crate::range::ByteRange;
use crate::table::{Chunk, FooterError, Group, Leaf, Schema};

/// Rows that are decoded at a time: 96. Times the longest text of a dictionary (385 KiB) this is the most memory that a
/// text column can be made to take, 36 MiB; honest ones take some KiB. With 64 a manifest takes a tenth longer to read
/// than with 256, with 96 half of that.
const BATCH_ROWS: usize = 96;

/// The columns that we know, and where they are among the leaves of a file.
#[derive(Debug)]
pub(super) struct KnownColumns {
    schema: SchemaDescPtr,
    positions: Vec<usize>,
    /// For each position the column whose leaf it is.
    fields: Vec<Field>,
}

/// A row group that is to be read.
#[derive(Debug)]
pub(super) struct WantedGroup {
    /// Its number in the file.
    pub(super) number: usize,
    /// Rows before it.
    pub(super) first_row: u64,
    /// Its rows.
    pub(super) rows: u64,
    chunks: Vec<WantedChunk>,
}

#[derive(Clone, Copy, Debug)]
struct WantedChunk {
    range: ByteRange,
    limits: PageLimits,
}

impl KnownColumns {
    /// Finds the columns of `R` among those of a file.
    pub(super) fn find<R: Row>(file: &Schema) -> Result<Self, ManifestError> {
        let there = |field: &Field| !R::OPTIONAL.contains(&field.name().as_str()) || has_column(file, field.name());
        let columns = ArrowSchema::new(R::fields().into_iter().filter(there).collect::<Vec<_>>());
        let schema = ArrowSchemaConverter::new().convert(&columns)?;
        let by_path: BTreeMap<&str, (usize, &Leaf)> =
            file.leaves.iter().enumerate().map(|(i, leaf)| (leaf.path.as_str(), (i, leaf))).collect();
        let (mut positions, mut fields) = (Vec::new(), Vec::new());
        for column in schema.columns() {
            let path = column.path().string();
            let found = by_path.get(path.as_str()).filter(|(_, leaf)| {
                leaf.physical == column.physical_type() as i64
                    && leaf.definition == column.max_def_level()
                    && leaf.repetition == column.max_rep_level()
            });
            let (position, _) = found.ok_or(ManifestError::Column { column: path })?;
            positions.push(*position);
            fields.push(columns.field_with_name(&column.path().parts()[0])?.clone());
        }
        Ok(Self { schema: Arc::new(schema), positions, fields })
    }

    /// Returns the least and greatest value of the column that rows are found by.
    pub(super) fn bounds<'a, R: Row>(&self, group: &Group<'a>) -> Option<(&'a [u8], &'a [u8])> {
        let leaf = self.schema.columns().iter().position(|column| column.path().string() == R::FOUND_BY)?;
        group.chunks.get(self.positions[leaf])?.bounds
    }

    /// Returns what to read of a row group, checked against the bounds of `R`.
    pub(super) fn wanted<R: Row>(
        &self,
        number: usize,
        first_row: u64,
        group: &Group<'_>,
    ) -> Result<WantedGroup, ManifestError> {
        let check = |what, limit, actual| {
            if actual > limit {
                Err(ManifestError::GroupTooLarge { group: number, what, limit, actual })
            } else {
                Ok(())
            }
        };
        check("rows", ROW_GROUP_ROWS as u64, group.rows)?;
        let mut chunks = Vec::with_capacity(self.positions.len());
        for (position, field) in self.positions.iter().zip(&self.fields) {
            let (expected, actual) = (position + 1, group.chunks.len());
            let chunk = group.chunks.get(*position).ok_or(FooterError::Columns { group: number, expected, actual });
            let Chunk { range, codec, values, .. } = *chunk?;
            let bounds = ColumnBounds::of::<R>(field, group.rows, range.len());
            check("bytes of a column", bounds.bytes, range.len())?;
            check("values of a column", bounds.values, values)?;
            chunks.push(WantedChunk { range, limits: PageLimits { codec, values, bounds } });
        }
        Ok(WantedGroup { number, first_row, rows: group.rows, chunks })
    }

    /// Decodes a row group whose column chunks, in the order of [`WantedGroup::ranges`], are `bytes`.
    pub(super) fn decode(
        &self,
        group: &WantedGroup,
        bytes: Vec<Bytes>,
        mut each: impl FnMut(&RecordBatch) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        let metadata = self.metadata(group, &bytes)?;
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let mut decoder = ParquetPushDecoderBuilder::try_new_decoder_with_options(Arc::new(metadata), options)?
            .with_batch_size(BATCH_ROWS)
            .build()?;
        let ranges = group.ranges().map(|range| range.start()..range.end()).collect();
        decoder.push_ranges(ranges, bytes)?;
        let damaged = |message: &str| ManifestError::Damaged { group: group.number, message: message.to_owned() };
        let mut rows = 0;
        loop {
            match next_batch(&mut decoder, group.number)? {
                DecodeResult::Data(batch) => {
                    rows += batch.num_rows() as u64;
                    each(&batch)?;
                }
                DecodeResult::Finished if rows == group.rows => return Ok(()),
                DecodeResult::Finished => return Err(damaged("rows are missing")),
                DecodeResult::NeedsData(_) => return Err(damaged("its pages are not where its columns are")),
            }
        }
    }

    fn metadata(&self, group: &WantedGroup, bytes: &[Bytes]) -> Result<ParquetMetaData, ManifestError> {
        let mut columns = Vec::with_capacity(group.chunks.len());
        for ((chunk, bytes), column) in group.chunks.iter().zip(bytes).zip(self.schema.columns()) {
            let limits = chunk.limits;
            let page = |source| ManifestError::Page { group: group.number, column: column.path().string(), source };
            let data_start = check_pages(bytes, limits).map_err(page)?;
            let codec =
                if limits.codec == 0 { Compression::UNCOMPRESSED } else { Compression::ZSTD(ZstdLevel::default()) };
            let start = signed(chunk.range.start())?;
            let builder = ColumnChunkMetaData::builder(column.clone())
                .set_compression(codec)
                .set_num_values(signed(limits.values)?)
                .set_total_compressed_size(signed(chunk.range.len())?)
                .set_data_page_offset(start + signed(data_start as u64)?)
                .set_dictionary_page_offset((data_start > 0).then_some(start));
            columns.push(builder.build()?);
        }
        let rows = signed(group.rows)?;
        let row_group = RowGroupMetaData::builder(self.schema.clone()).set_num_rows(rows).set_column_metadata(columns);
        let file = FileMetaData::new(1, rows, None, None, self.schema.clone(), None);
        Ok(ParquetMetaData::new(file, vec![row_group.build()?]))
    }
}

impl WantedGroup {
    /// Returns the bytes of its column chunks.
    pub(super) fn ranges(&self) -> impl Iterator<Item = ByteRange> {
        self.chunks.iter().map(|chunk| chunk.range)
    }
}

/// Tells whether a file has a column `name`, of whatever type.
fn has_column(file: &Schema, name: &str) -> bool {
    file.leaves.iter().any(|leaf| leaf.path.split('.').next() == Some(name))
}

/// Decodes the next batch.
///
/// The decoder asserts in places that pages are well-formed (the bit width of dictionary indices, for one), so that its
/// panics are errors here. It is dropped after one, and shares nothing with the rest of the process.
fn next_batch(decoder: &mut ParquetPushDecoder, group: usize) -> Result<DecodeResult<RecordBatch>, ManifestError> {
    Ok(guarded(|| decoder.try_decode()).map_err(|message| ManifestError::Damaged { group, message })??)
}

fn signed(number: u64) -> Result<i64, ParquetError> {
    i64::try_from(number).map_err(|error| ParquetError::External(Box::new(error)))
}
