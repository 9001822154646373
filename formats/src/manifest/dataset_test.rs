//! Tests of the dataset manifest: round trips, the frozen fixture, and hostile bytes.

use std::sync::Arc;

use arrow_array::{Int32Array, RecordBatch};
use arrow_schema::Schema;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use proptest::prelude::*;

use super::super::samples::{any_metadata, damaged, digest, note};
use super::*;
use crate::verified::TreeError;

fn meta() -> DatasetMeta {
    DatasetMeta { name: "web-text".parse().unwrap(), version: 3, parent: Some(2), metadata: note("source", "crawl") }
}

/// A file of `groups` verified groups and as many row groups.
fn file(path: &str, groups: u64) -> FileRow {
    let content = vec![7; (groups * GroupSize::File.bytes()) as usize / 2 * 2];
    let tree = GroupTree::of(GroupSize::File, &content);
    let row_groups = (0..groups).map(|i| RowGroup { offset: 4 + i * 1000, len: 1000, rows: 10 + i }).collect();
    FileRow {
        path: path.to_owned(),
        blob: Stored { digest: tree.root(), epoch: 5 },
        bytes: tree.len(),
        rows: (0..groups).map(|i| 10 + i).sum(),
        schema: digest(1),
        row_groups,
        tree,
    }
}

fn files() -> Vec<FileRow> {
    (0..5).map(|i| file(&format!("train/part-{i:04}.parquet"), i)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn round_trips(
        paths in prop::collection::btree_map("[a-z]{1,5}(/[a-zä ]{1,5}){0,2}", 0u64..4, 0..12),
        metadata in any_metadata(),
    ) {
        let rows: Vec<FileRow> = paths.iter().map(|(path, groups)| file(path, *groups)).collect();
        let meta = DatasetMeta { metadata, ..meta() };
        let bytes = Bytes::from(write_dataset(&meta, &rows).unwrap());
        prop_assert_eq!(&write_dataset(&meta, &rows).unwrap(), &bytes);
        prop_assert_eq!(read_dataset(&bytes).unwrap(), Dataset { content: content_of(&rows), meta, rows });
    }
}

#[test]
fn version_1_is_still_read_and_still_written() {
    let fixture = Bytes::from_static(include_bytes!("../../fixtures/dataset-1.parquet"));
    let dataset = read_dataset(&fixture).unwrap();
    assert_eq!(dataset.meta, meta());
    assert_eq!(dataset.rows, files());
    assert_eq!(dataset.content.to_string(), "4c600ca40578f89b3cff062a229919cb61273fb2e611ea10e3c704faac3cfa89");
    assert_eq!(write_dataset(&meta(), &files()).unwrap(), fixture, "the same rows gave other bytes");
}

#[test]
fn rows_that_can_not_be_are_refused() {
    let refused = |change: fn(&mut FileRow)| {
        let mut rows = files();
        change(&mut rows[3]);
        match write_dataset(&meta(), &rows) {
            Err(ManifestError::Row { row: 3, source, .. }) => source,
            other => panic!("taken, or another error: {other:?}"),
        }
    };
    assert!(matches!(refused(|row| row.path = "../train".into()), RowError::Path(_)));
    assert!(matches!(refused(|row| row.blob.digest = digest(0)), RowError::Differs { .. }));
    assert!(matches!(refused(|row| row.bytes += 1), RowError::Number { .. }));
    assert!(matches!(refused(|row| row.rows += 1), RowError::Number { .. }));
    assert!(matches!(refused(|row| row.row_groups[1].len = u64::MAX), RowError::RowGroup { .. }));
    assert!(matches!(refused(|row| row.bytes = u64::MAX), RowError::FileTooLong { .. }));
    let mut swapped = files();
    swapped.swap(0, 1);
    assert!(matches!(write_dataset(&meta(), &swapped), Err(ManifestError::Order { .. })));
}

/// Writes rows as another version or another program might: with columns of its own.
fn foreign(change: impl Fn(Vec<(Field, ArrayRef)>) -> Vec<(Field, ArrayRef)>) -> Bytes {
    let columns = change(FileRow::fields().into_iter().zip(FileRow::arrays(&files())).collect());
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    let schema = Arc::new(Schema::new(fields));
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), None).unwrap();
    writer.write(&RecordBatch::try_new(schema, arrays).unwrap()).unwrap();
    for (key, value) in Head::new(FORMAT, &meta(), content_of(&files())).unwrap().pairs() {
        writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
    }
    writer.into_inner().unwrap().into()
}

#[test]
fn columns_are_found_by_name_and_others_left_alone() {
    let more = foreign(|mut columns| {
        columns.reverse();
        let tokens: ArrayRef = Arc::new(Int32Array::from(vec![None; 5]));
        columns.insert(2, (Field::new("tokens", arrow_schema::DataType::Int32, true), tokens));
        columns
    });
    assert_eq!(read_dataset(&more).unwrap().rows, files());
    let fewer = foreign(|mut columns| {
        columns.remove(4);
        columns
    });
    assert!(matches!(read_dataset(&fewer), Err(ManifestError::Column { column }) if column == "rows"));
}

#[test]
fn trees_that_are_not_the_file_s_are_refused() {
    let swapped = foreign(|mut columns| {
        let trees = files().into_iter().map(|row| row.tree.values_hex().replace('0', "1"));
        let values: Vec<Vec<u8>> = trees.map(|hex| crate::digest::unhex(&hex).unwrap()).collect();
        columns[7].1 = blob_array(values.iter().map(Vec::as_slice));
        columns
    });
    let error = read_dataset(&swapped).unwrap_err();
    assert!(
        matches!(error, ManifestError::Row { row: 2, source: RowError::Tree(TreeError::Root { .. }), .. }),
        "{error}"
    );
}

#[test]
fn damage_is_refused_and_never_panics() {
    damaged(&write_dataset(&meta(), &files()).unwrap(), read_dataset);
}
