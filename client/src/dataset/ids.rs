//! The ids of documents: a column of texts that most datasets have.
//!
//! Read by the Parquet library from checked bytes of a file whose footer our own parser has taken. Must never fail
//! where a file has no ids.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use bytes::Bytes;
use gigastore_formats::manifest::dataset::FileRow;
use gigastore_formats::range::ByteRange;
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder};
use parquet::basic::Type;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder};

use super::index::IndexedDataset;
use super::push::rewrite::ID_COLUMNS;
use super::read::DatasetError;

impl IndexedDataset {
    /// Returns the ids of some rows of file number `file`, as far as it has a column `id` or `doc_id` of texts.
    pub async fn ids(&self, file: usize, rows: &[u64]) -> Result<BTreeMap<u64, String>, DatasetError> {
        // Our own parser first: it bounds what a hostile footer can make the library do.
        self.token_file(file).await?;
        let row = self.file(file).await?;
        let unreadable = |source| DatasetError::Ids { path: row.path.clone(), source };
        let metadata = self.metadata(&row).await?;
        let schema = metadata.file_metadata().schema_descr();
        let is_id = |name: &&str| {
            schema
                .columns()
                .iter()
                .any(|column| column.path().string() == **name && column.physical_type() == Type::BYTE_ARRAY)
        };
        let Some(column) = ID_COLUMNS.iter().find(|name| is_id(name)) else { return Ok(BTreeMap::new()) };
        let leaf = schema.columns().iter().position(|leaf| leaf.path().string() == *column).unwrap_or(0);
        let mask = ProjectionMask::leaves(schema, [leaf]);
        let reader = ArrowReaderMetadata::try_new(metadata.into(), Default::default()).map_err(unreadable)?;
        let (mut found, mut first) = (BTreeMap::new(), 0);
        for (group, facts) in reader.metadata().row_groups().iter().enumerate() {
            let range = first..first + facts.num_rows().cast_unsigned();
            let wanted: Vec<u64> = rows.iter().copied().filter(|row| range.contains(row)).collect();
            first = range.end;
            if wanted.is_empty() {
                continue;
            }
            let builder = ParquetPushDecoderBuilder::new_with_metadata(reader.clone());
            let decoder = builder.with_row_groups(vec![group]).with_projection(mask.clone()).build();
            let mut decoder = decoder.map_err(unreadable)?;
            let mut at = range.start;
            while let Some(batch) = self.next_batch(&row, &mut decoder).await? {
                let texts = arrow_cast(&batch);
                for row in wanted.iter().filter(|row| (at..at + batch.num_rows() as u64).contains(row)) {
                    if let Some(text) = texts((row - at) as usize) {
                        found.insert(*row, text);
                    }
                }
                at += batch.num_rows() as u64;
            }
        }
        Ok(found)
    }

    async fn metadata(&self, row: &std::sync::Arc<FileRow>) -> Result<ParquetMetaData, DatasetError> {
        let unreadable = |source| DatasetError::Ids { path: row.path.clone(), source };
        let decoder = ParquetMetaDataPushDecoder::try_new(row.bytes).map_err(unreadable)?;
        let mut decoder = decoder.with_page_index_policy(PageIndexPolicy::Skip);
        loop {
            match decoder.try_decode().map_err(unreadable)? {
                DecodeResult::Data(metadata) => return Ok(metadata),
                DecodeResult::NeedsData(ranges) => {
                    let bytes = self.read_ranges(row, &byte_ranges(row, &ranges)?).await?;
                    decoder.push_ranges(ranges, bytes).map_err(unreadable)?;
                }
                DecodeResult::Finished => {
                    return Err(unreadable(ParquetError::EOF("its footer ends early".to_owned())));
                }
            }
        }
    }

    async fn next_batch(
        &self,
        row: &std::sync::Arc<FileRow>,
        decoder: &mut ParquetPushDecoder,
    ) -> Result<Option<RecordBatch>, DatasetError> {
        let unreadable = |source| DatasetError::Ids { path: row.path.clone(), source };
        loop {
            // The library asserts in places that pages are well-formed; what a stranger pushed may not be.
            let decoded = catch_unwind(AssertUnwindSafe(|| decoder.try_decode()));
            let decoded = decoded.map_err(|_| unreadable(ParquetError::General("its ids are damaged".to_owned())))?;
            match decoded.map_err(unreadable)? {
                DecodeResult::Data(batch) => return Ok(Some(batch)),
                DecodeResult::Finished => return Ok(None),
                DecodeResult::NeedsData(ranges) => {
                    let bytes: Vec<Bytes> = self.read_ranges(row, &byte_ranges(row, &ranges)?).await?;
                    decoder.push_ranges(ranges, bytes).map_err(unreadable)?;
                }
            }
        }
    }
}

/// Returns what takes the text of a row out of a batch of one column.
fn arrow_cast(batch: &RecordBatch) -> impl Fn(usize) -> Option<String> {
    let column = batch.column(0);
    move |row| {
        let bytes: Option<&[u8]> = if let Some(texts) = column.as_string_opt::<i32>() {
            texts.is_valid(row).then(|| texts.value(row).as_bytes())
        } else if let Some(texts) = column.as_binary_opt::<i32>() {
            texts.is_valid(row).then(|| texts.value(row))
        } else {
            None
        };
        bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }
}

fn byte_ranges(row: &FileRow, ranges: &[std::ops::Range<u64>]) -> Result<Vec<ByteRange>, DatasetError> {
    let outside = |_| DatasetError::RowGroups { path: row.path.clone() };
    ranges.iter().map(|range| ByteRange::new(range.start, range.end).map_err(outside)).collect()
}
