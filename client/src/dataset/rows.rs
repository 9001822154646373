//! Rows of single columns of stored files, by the Parquet library, from verified ranges.
//!
//! Must never read a column that was not asked for, and never let a panic of the library out.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use bytes::Bytes;
use gigastore_formats::manifest::dataset::FileRow;
use gigastore_formats::range::ByteRange;
use gigastore_formats::table::{Footer, FooterError, FooterReader, Step};
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::push_decoder::ParquetPushDecoderBuilder;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder};
use parquet::schema::types::SchemaDescriptor;

use super::index::IndexedDataset;
use super::push::RewriteError;
use super::read::{Dataset, DatasetError};
use crate::transfer::progress::Progress;

/// Rows that are decoded at once: 4,096, of one short column.
pub(super) const BATCH_ROWS: usize = 4096;

/// Columns that hold the ids of documents, the first that a file has.
pub(super) const ID_COLUMNS: [&str; 2] = ["id", "doc_id"];

/// What gives ranges of stored files, each checked.
pub(super) trait Ranges: Sync {
    /// Reads ranges of a file.
    fn ranges(
        &self,
        row: &FileRow,
        ranges: &[ByteRange],
    ) -> impl Future<Output = Result<Vec<Bytes>, DatasetError>> + Send;
}

impl Ranges for Dataset {
    async fn ranges(&self, row: &FileRow, ranges: &[ByteRange]) -> Result<Vec<Bytes>, DatasetError> {
        let mut found = Vec::with_capacity(ranges.len());
        for range in ranges {
            found.push(self.read(&row.path, Some(*range), &Progress::default()).await?);
        }
        Ok(found)
    }
}

impl Ranges for IndexedDataset {
    async fn ranges(&self, row: &FileRow, ranges: &[ByteRange]) -> Result<Vec<Bytes>, DatasetError> {
        self.read_ranges(row, ranges).await
    }
}

/// Returns the first of `names` that is a column of single values outside of structures.
pub(super) fn first_column<'n>(schema: &SchemaDescriptor, names: &[&'n str]) -> Option<&'n str> {
    let there = |name: &&str| {
        let is = |parts: &[String]| parts.len() == 1 && parts[0] == *name;
        schema.columns().iter().any(|leaf| leaf.max_rep_level() == 0 && is(leaf.path().parts()))
    };
    names.iter().copied().find(there)
}

/// Finds the footer of a file.
pub(super) async fn footer(from: &impl Ranges, row: &FileRow) -> Result<Result<Footer, FooterError>, DatasetError> {
    let mut reader = FooterReader::new(row.bytes);
    loop {
        match reader.step() {
            Err(error) => return Ok(Err(error)),
            Ok(Step::Done(footer)) => return Ok(Ok(footer)),
            Ok(Step::Need(ranges)) => {
                for (range, bytes) in ranges.iter().zip(from.ranges(row, &ranges).await?) {
                    if let Err(error) = reader.give(*range, bytes) {
                        return Ok(Err(error));
                    }
                }
            }
        }
    }
}

/// Reads the columns of a file as the library sees them, not its data.
pub(super) async fn metadata(from: &impl Ranges, row: &FileRow) -> Result<Arc<ParquetMetaData>, DatasetError> {
    let unreadable = |source: RewriteError| DatasetError::Rows { path: row.path.clone(), source };
    let mut decoder = ParquetMetaDataPushDecoder::try_new(row.bytes)
        .map_err(|error| unreadable(error.into()))?
        .with_page_index_policy(PageIndexPolicy::Skip);
    loop {
        match guarded(|| decoder.try_decode()).map_err(unreadable)? {
            DecodeResult::Data(metadata) => return Ok(Arc::new(metadata)),
            DecodeResult::NeedsData(ranges) => {
                let bytes = read(from, row, &ranges).await?;
                decoder.push_ranges(ranges, bytes).map_err(|error| unreadable(error.into()))?;
            }
            DecodeResult::Finished => return Err(unreadable(RewriteError::Damaged("it has no footer".to_owned()))),
        }
    }
}

/// Calls `each` with the first row and the values of each batch of the column `column` of a file, until it says that
/// this is enough. Where `wanted` is given only row groups with such rows are read.
pub(super) async fn column(
    from: &impl Ranges,
    row: &FileRow,
    metadata: Arc<ParquetMetaData>,
    (column, wanted): (&str, Option<&BTreeSet<u64>>),
    mut each: impl FnMut(u64, &ArrayRef) -> Result<bool, RewriteError> + Send,
) -> Result<(), DatasetError> {
    let unreadable = |source: RewriteError| DatasetError::Rows { path: row.path.clone(), source };
    let mask = ProjectionMask::columns(metadata.file_metadata().schema_descr(), [column]);
    let reader = guarded(|| ArrowReaderMetadata::try_new(metadata, Default::default())).map_err(unreadable)?;
    let mut end = 0u64;
    for (number, group) in reader.metadata().row_groups().iter().enumerate() {
        let mut first = end;
        end = end.saturating_add(u64::try_from(group.num_rows()).unwrap_or_default());
        if wanted.is_some_and(|wanted| wanted.range(first..end).next().is_none()) {
            continue;
        }
        let builder = ParquetPushDecoderBuilder::new_with_metadata(reader.clone());
        let builder = builder.with_row_groups(vec![number]).with_projection(mask.clone()).with_batch_size(BATCH_ROWS);
        let mut decoder = guarded(|| builder.build()).map_err(unreadable)?;
        loop {
            match guarded(|| decoder.try_decode()).map_err(unreadable)? {
                DecodeResult::Data(batch) => {
                    if !each(first, one(&batch, column).map_err(unreadable)?).map_err(unreadable)? {
                        return Ok(());
                    }
                    first += batch.num_rows() as u64;
                }
                DecodeResult::NeedsData(ranges) => {
                    let bytes = read(from, row, &ranges).await?;
                    decoder.push_ranges(ranges, bytes).map_err(|error| unreadable(error.into()))?;
                }
                DecodeResult::Finished => break,
            }
        }
    }
    Ok(())
}

/// Returns a column of a batch.
pub(super) fn one<'b>(batch: &'b RecordBatch, column: &str) -> Result<&'b ArrayRef, RewriteError> {
    let missing = || RewriteError::Column {
        column: column.to_owned(),
        actual: "not there".to_owned(),
        expected: "a column outside of structures",
    };
    batch.column_by_name(column).ok_or_else(missing)
}

async fn read(from: &impl Ranges, row: &FileRow, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Bytes>, DatasetError> {
    let inside = |range: &std::ops::Range<u64>| {
        ByteRange::new(range.start, range.end).map_err(|_| DatasetError::Rows {
            path: row.path.clone(),
            source: RewriteError::Damaged(format!("its footer points to bytes {}..{}", range.start, range.end)),
        })
    };
    let ranges = ranges.iter().map(inside).collect::<Result<Vec<ByteRange>, DatasetError>>()?;
    from.ranges(row, &ranges).await
}

/// Runs the library, which asserts in places that files are well-formed: its panics are errors.
pub(super) fn guarded<T, E: Into<RewriteError>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, RewriteError> {
    gigastore_formats::guard::guarded(work).map_err(RewriteError::Damaged)?.map_err(Into::into)
}
