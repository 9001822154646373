//! The one place with the settings of the Parquet files that we write: the same rows give the same bytes.
//!
//! Must never write what the reader would refuse.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::ManifestError;
use super::head::Head;
use super::row::{ROW_GROUP_ROWS, WrittenRow};

/// Who wrote the file: the format's version, not the program's, so that programs that write alike write the same bytes.
const CREATED_BY: &str = "gigastore version 1";

/// zstd level of all pages: 3, its default; manifests are read more often than written, and decode at the same speed.
const ZSTD_LEVEL: i32 = 3;

/// Weight of rows from which pages are compressed: 32 KiB, some 60 slices. To set up zstd for each of a dozen columns
/// takes longer than to write or read a shorter list.
const COMPRESSED_WEIGHT: u64 = 32 << 10;

/// Rows of a page: 1,024, so that a reader with the page index decodes about 100 KiB to find one row.
const PAGE_ROWS: usize = 1024;

/// Bytes of a dictionary: 256 KiB. A column of distinct texts outgrows it after about 4,000 and goes on plain; one of
/// repeated packs or types never does.
pub(super) const DICTIONARY_BYTES: usize = 256 << 10;

/// Values after which the writer looks whether a page or a dictionary is full: 128. It divides [`PAGE_ROWS`], and 128
/// names of 1 KiB are the most by which a dictionary can outgrow its bound.
pub(super) const WRITE_BATCH: usize = 128;

/// Weight of rows after which a row group is closed before it has all its rows: 64 MiB, so that decoding one takes
/// about as much. Only files of hundreds of GiB, or thousands of files with hundreds of row groups each, have more.
pub(super) const ROW_GROUP_WEIGHT: u64 = 64 << 20;

/// Writes a manifest.
pub(super) fn write_rows<R: WrittenRow>(head: &Head, rows: &[R]) -> Result<Vec<u8>, ManifestError> {
    check_rows(rows)?;
    let unused = R::unused(rows);
    let (used, fields): (Vec<usize>, Vec<Field>) =
        R::fields().into_iter().enumerate().filter(|(_, field)| !unused.contains(&field.name().as_str())).unzip();
    let schema = Arc::new(Schema::new(fields));
    let weight = rows.iter().fold(0u64, |sum, row| sum.saturating_add(row.weight()));
    let options =
        ArrowWriterOptions::new().with_properties(properties::<R>(head, weight)?).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), schema.clone(), options)?;
    let mut rest = rows;
    while !rest.is_empty() {
        let (group, after) = rest.split_at(row_group_len(rest));
        let arrays = R::arrays(group);
        let arrays = used.iter().map(|i| Arc::clone(&arrays[*i])).collect();
        writer.write(&RecordBatch::try_new(schema.clone(), arrays)?)?;
        writer.flush()?;
        rest = after;
    }
    let bytes = writer.into_inner()?;
    head.check_len(bytes.len() as u64)?;
    Ok(bytes)
}

fn check_rows<R: WrittenRow>(rows: &[R]) -> Result<(), ManifestError> {
    for (i, row) in rows.iter().enumerate() {
        let refuse = |source| ManifestError::Row { row: i as u64, label: row.label(), source };
        row.check().map_err(refuse)?;
    }
    match rows.windows(2).find(|pair| !pair[0].is_before(&pair[1])) {
        Some(pair) => Err(ManifestError::Order { previous: pair[0].label(), next: pair[1].label() }),
        None => Ok(()),
    }
}

/// Rows that go into the next row group: at least one.
fn row_group_len<R: WrittenRow>(rows: &[R]) -> usize {
    let weights = rows.iter().take(ROW_GROUP_ROWS).scan(0u64, |sum, row| {
        *sum = sum.saturating_add(row.weight());
        Some(*sum)
    });
    weights.take_while(|sum| *sum <= ROW_GROUP_WEIGHT).count().max(1)
}

fn properties<R: WrittenRow>(head: &Head, weight: u64) -> Result<WriterProperties, ManifestError> {
    let compression = match weight {
        0..COMPRESSED_WEIGHT => Compression::UNCOMPRESSED,
        _ => Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?),
    };
    let found_by = ColumnPath::from(R::FOUND_BY);
    let pairs = head.pairs().into_iter().map(|(key, value)| KeyValue::new(key.to_owned(), value)).collect();
    let mut builder = WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(compression)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(WRITE_BATCH)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_statistics_enabled(found_by, EnabledStatistics::Page)
        .set_statistics_truncate_length(None)
        .set_key_value_metadata(Some(pairs));
    for name in R::DISTINCT {
        let leaf = ColumnPath::new(name.split('.').map(str::to_owned).collect());
        builder = builder.set_column_dictionary_enabled(leaf, false);
    }
    Ok(builder.build())
}
