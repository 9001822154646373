//! Damaged Parquet files, read from any row.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::{WriterProperties, WriterVersion};

use super::super::{Format, Origin};
use super::*;

const ROWS_WRITTEN: u64 = 40;

fn write(path: &Path, version: WriterVersion) {
    let texts = (0..ROWS_WRITTEN).map(|row| (row % 7 != 3).then(|| format!("text {}", row % 11)));
    let texts: ArrayRef = Arc::new(texts.collect::<StringArray>());
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS_WRITTEN as i64));
    let batch = RecordBatch::try_from_iter([("id", ids), ("text", texts)]).unwrap();
    let properties = WriterProperties::builder()
        .set_writer_version(version)
        .set_max_row_group_row_count(Some(16))
        .set_data_page_row_count_limit(5)
        .set_write_batch_size(5)
        .build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Reads all rows from `row` on.
fn read(path: &Path, row: u64) -> Result<u64, ReadError> {
    let origin = Origin::File { path: path.to_owned(), bytes: 0, modified_ns: 0 };
    let input = Input { origin, format: Format::Parquet };
    let fields = Fields { text: "text", id: Some("id") };
    let mut rows = Rows::open(&input, File::open(path).unwrap(), fields, Place { offset: row, lines: row })?;
    let mut read = 0;
    while rows.document()?.is_some() {
        read += 1;
    }
    Ok(read)
}

#[test]
fn whatever_is_flipped_the_error_names_the_file() {
    const FLIPPED: u64 = 6000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flipped.parquet");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    // Xorshift: Marsaglia, "Xorshift RNGs", 2003.
    let mut below = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let (mut failed, mut gave_up) = (0, 0);
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        write(&path, version);
        let whole = fs::read(&path).unwrap();
        for row in 0..=ROWS_WRITTEN {
            assert_eq!(read(&path, row).unwrap(), ROWS_WRITTEN - row);
        }
        for _ in 0..FLIPPED / 2 {
            let mut bytes = whole.clone();
            for _ in 0..=below(3) {
                bytes[below(whole.len() as u64) as usize] ^= below(255) as u8 + 1;
            }
            fs::write(&path, bytes).unwrap();
            if let Err(error) = read(&path, below(ROWS_WRITTEN)) {
                assert!(error.to_string().contains("flipped.parquet"), "{error}");
                let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                gave_up += u64::from(source.contains("the library gave up"));
                failed += 1;
            }
        }
    }
    assert!(failed > FLIPPED / 10 && gave_up > 0, "{failed} failed, the library gave up {gave_up} times");
}
