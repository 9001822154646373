//! Rows of single columns of stored files, by the Parquet library, from verified ranges.
//!
//! Must never read a column that was not asked for, and never let a panic of the library out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use bytes::Bytes;
use gigastore_formats::range::ByteRange;
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::push_decoder::ParquetPushDecoderBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder};

use super::push::RewriteError;
use super::read::{Dataset, DatasetError};
use crate::transfer::progress::Progress;

/// Rows that are decoded at once: 4,096, of one short column.
const BATCH_ROWS: usize = 4096;

/// Reads the columns of a file as the library sees them, not its data.
pub(super) async fn metadata(dataset: &Dataset, path: &str) -> Result<Arc<ParquetMetaData>, DatasetError> {
    let unreadable = |source: RewriteError| DatasetError::Rows { path: path.to_owned(), source };
    let len = dataset.row(path)?.bytes;
    let mut decoder = ParquetMetaDataPushDecoder::try_new(len)
        .map_err(|error| unreadable(error.into()))?
        .with_page_index_policy(PageIndexPolicy::Skip);
    loop {
        match guarded(|| decoder.try_decode()).map_err(unreadable)? {
            DecodeResult::Data(metadata) => return Ok(Arc::new(metadata)),
            DecodeResult::NeedsData(ranges) => {
                let bytes = read(dataset, path, &ranges).await?;
                decoder.push_ranges(ranges, bytes).map_err(|error| unreadable(error.into()))?;
            }
            DecodeResult::Finished => return Err(unreadable(RewriteError::Damaged("it has no footer".to_owned()))),
        }
    }
}

/// Calls `each` with the first row and the values of each batch of the column `column` of a file, until it says that
/// this is enough.
pub(super) async fn column(
    dataset: &Dataset,
    path: &str,
    metadata: Arc<ParquetMetaData>,
    column: &str,
    mut each: impl FnMut(u64, &ArrayRef) -> Result<bool, RewriteError>,
) -> Result<(), DatasetError> {
    let unreadable = |source: RewriteError| DatasetError::Rows { path: path.to_owned(), source };
    let mask = ProjectionMask::columns(metadata.file_metadata().schema_descr(), [column]);
    let mut decoder = guarded(|| {
        let builder = ParquetPushDecoderBuilder::try_new_decoder(metadata)?;
        builder.with_projection(mask).with_batch_size(BATCH_ROWS).build()
    })
    .map_err(unreadable)?;
    let mut row = 0;
    loop {
        match guarded(|| decoder.try_decode()).map_err(unreadable)? {
            DecodeResult::Data(batch) => {
                let rows = batch.num_rows() as u64;
                if !each(row, one(&batch, column).map_err(unreadable)?).map_err(unreadable)? {
                    return Ok(());
                }
                row += rows;
            }
            DecodeResult::NeedsData(ranges) => {
                let bytes = read(dataset, path, &ranges).await?;
                decoder.push_ranges(ranges, bytes).map_err(|error| unreadable(error.into()))?;
            }
            DecodeResult::Finished => return Ok(()),
        }
    }
}

fn one<'b>(batch: &'b RecordBatch, column: &str) -> Result<&'b ArrayRef, RewriteError> {
    let missing = || RewriteError::Column {
        column: column.to_owned(),
        actual: "not there".to_owned(),
        expected: "a column outside of structures",
    };
    batch.column_by_name(column).ok_or_else(missing)
}

async fn read(dataset: &Dataset, path: &str, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Bytes>, DatasetError> {
    let mut found = Vec::with_capacity(ranges.len());
    for range in ranges {
        let outside = || DatasetError::Rows {
            path: path.to_owned(),
            source: RewriteError::Damaged(format!("its footer points to bytes {}..{}", range.start, range.end)),
        };
        let range = ByteRange::new(range.start, range.end).map_err(|_| outside())?;
        found.push(dataset.read(path, Some(range), &Progress::default()).await?);
    }
    Ok(found)
}

/// Runs the library, which asserts in places that files are well-formed: its panics are errors.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, RewriteError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Ok(done?),
        Err(panic) => Err(panicked(&*panic)),
    }
}

/// Makes an error of a panic of the library.
pub(super) fn panicked(panic: &(dyn std::any::Any + Send)) -> RewriteError {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    RewriteError::Damaged(text.chars().take(200).collect())
}
