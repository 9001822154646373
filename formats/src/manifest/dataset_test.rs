//! Tests of the dataset manifest: round trips, the frozen fixture, and hostile bytes.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::{Int32Array, RecordBatch};
use arrow_schema::Schema;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use proptest::prelude::*;

use super::super::dataset_test_rows::{file, meta, token_file, token_meta};
use super::super::samples::{any_metadata, damaged, digest, written};
use super::*;
use crate::verified::TreeError;

fn files() -> Vec<FileRow> {
    (0..5).map(|i| file(&format!("train/part-{i:04}.parquet"), i)).collect()
}

fn token_files() -> Vec<FileRow> {
    (0..5).map(|i| token_file(&format!("train/part-{i:04}.parquet"), i)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn round_trips(
        paths in prop::collection::btree_map("[a-z]{1,5}(/[a-zä ]{1,5}){0,2}", (0u64..4, any::<bool>()), 0..12),
        metadata in any_metadata(),
        tokens in any::<bool>(),
    ) {
        let row = |(path, (groups, tokens)): (&String, &(u64, bool))| match tokens {
            true => token_file(path, *groups),
            false => file(path, *groups),
        };
        let rows: Vec<FileRow> = paths.iter().map(row).collect();
        let meta = DatasetMeta { metadata, ..if tokens { token_meta() } else { meta() } };
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
    assert_eq!(write_dataset(&meta(), &files()).unwrap(), written!("dataset-1"), "the same rows gave other bytes");
}

#[test]
fn version_1_with_tokens_is_still_read_and_still_written() {
    let fixture = Bytes::from_static(include_bytes!("../../fixtures/dataset-tokens-1.parquet"));
    let dataset = read_dataset(&fixture).unwrap();
    assert_eq!(dataset.meta, token_meta());
    assert_eq!(dataset.rows, token_files());
    assert_eq!(dataset.content, content_of(&files()), "what is known of tokens follows from the files");
    assert_eq!(
        write_dataset(&token_meta(), &token_files()).unwrap(),
        written!("dataset-tokens-1"),
        "the same rows gave other bytes"
    );
}

#[test]
fn single_files_are_read() {
    let manifest = Bytes::from(write_dataset(&token_meta(), &token_files()).unwrap());
    let wanted = BTreeSet::from(["train/part-0003.parquet".to_owned(), "absent".to_owned()]);
    let mut reader = DatasetReader::new(manifest.len() as u64, wanted).unwrap();
    let whole = ByteRange::new(0, manifest.len() as u64).unwrap();
    assert!(matches!(reader.step().unwrap(), Step::Need(_)));
    reader.give(whole, manifest).unwrap();
    let Step::Done(dataset) = reader.step().unwrap() else { panic!("all was given") };
    assert_eq!((dataset.rows, dataset.content), (token_files()[3..4].to_vec(), content_of(&files())));
}

#[test]
fn tokens_of_single_columns_may_be_missing() {
    let mut rows = token_files();
    rows.iter_mut().for_each(|row| row.removed.clear());
    let written = Bytes::from(write_dataset(&token_meta(), &rows).unwrap());
    assert_eq!(read_dataset(&written).unwrap().rows, rows);
    let too_many = DatasetMeta {
        lineage: Some(Lineage { sources: vec!["a".repeat(1 << 20), "b".into()], ..Lineage::default() }),
        ..token_meta()
    };
    assert!(matches!(
        write_dataset(&too_many, &rows),
        Err(ManifestError::Bounds(MetaError::Lineage { actual })) if actual == (1 << 20) + 1
    ));
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
    assert!(matches!(refused(|row| row.tokens = vec![1]), RowError::Number { .. }));
    assert!(matches!(refused(|row| row.lengths = vec![1]), RowError::Number { .. }));
    assert!(matches!(refused(|row| row.removed = vec![Removed { row: 33, tokens: 0 }]), RowError::RemovedRow { .. }));
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
    damaged(&write_dataset(&token_meta(), &token_files()).unwrap(), read_dataset);
}
