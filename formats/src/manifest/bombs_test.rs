//! Tests of files that unfold: small ones that stand for gigabytes are refused by a bound, and honest ones that repeat
//! themselves are not.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::Schema;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::columns::{blob_array, numbers_array, records_array};
use super::dataset::{DatasetMeta, FileRow, read_dataset, write_dataset};
use super::part::{PartMeta, PartRow, read_part, write_part};
use super::row::WrittenRow;
use super::samples::digest;
use super::{ManifestError, PageError};
use crate::object::Stored;
use crate::table::{FooterError, ParquetFacts, RowGroup};
use crate::tensor::boxes::TensorBox;
use crate::tensor::dtype::Dtype;
use crate::tensor::slice::{SliceId, SliceRow};
use crate::verified::GroupTree;

fn file_row(path: &str, content: &[u8], row_groups: Vec<RowGroup>) -> FileRow {
    let tree = GroupTree::of(content);
    let rows = row_groups.iter().map(|group| group.rows).sum();
    let blob = Stored { digest: tree.root(), epoch: 0 };
    FileRow {
        path: path.to_owned(),
        blob,
        bytes: tree.len(),
        rows,
        schema: digest(1),
        row_groups,
        tree,
        tokens: Vec::new(),
        lengths: Vec::new(),
        removed: Vec::new(),
    }
}

fn part_row(name: &str, first: u64) -> PartRow {
    let area = TensorBox::new(vec![first], vec![1]).unwrap();
    let slice = SliceId::tensor(name, Dtype::U8, &[1 << 20], area).unwrap();
    SliceRow { slice, blake3: digest(0), place: None }
}

fn dataset_meta() -> DatasetMeta {
    DatasetMeta {
        name: "data".parse().unwrap(),
        version: 1,
        parent: None,
        metadata: Default::default(),
        tokens: None,
        lineage: None,
    }
}

/// Writes `rows` with one column replaced, in one row group, as another program might.
fn with_column<R: WrittenRow>(format: &str, rows: &[R], column: &str, array: ArrayRef, dictionary: bool) -> Bytes {
    let fields = R::fields();
    let mut arrays = R::arrays(rows);
    arrays[fields.iter().position(|field| field.name() == column).unwrap()] = array;
    let schema = Arc::new(Schema::new(fields));
    let properties = WriterProperties::builder()
        .set_compression(parquet::basic::Compression::ZSTD(Default::default()))
        .set_dictionary_enabled(dictionary)
        .set_dictionary_page_size_limit(1 << 30)
        .set_max_row_group_row_count(Some(1 << 20))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).unwrap();
    writer.write(&RecordBatch::try_new(schema, arrays).unwrap()).unwrap();
    writer.append_key_value_metadata(KeyValue::new("gigastore.format".to_owned(), format.to_owned()));
    writer.into_inner().unwrap().into()
}

fn part_with(count: usize, column: &str, array: ArrayRef, dictionary: bool) -> ManifestError {
    let rows: Vec<PartRow> = (0..count as u64).map(|i| part_row("w", i)).collect();
    let file = with_column("part-1", &rows, column, array, dictionary);
    assert!(file.len() < 100_000, "{} bytes", file.len());
    read_part(&file).unwrap_err()
}

fn dataset_with(count: usize, column: &str, array: ArrayRef, dictionary: bool) -> ManifestError {
    let rows: Vec<FileRow> = (0..count).map(|i| file_row(&format!("{i:06}"), b"", Vec::new())).collect();
    let file = with_column("dataset-1", &rows, column, array, dictionary);
    assert!(file.len() < 100_000, "{} bytes", file.len());
    read_dataset(&file).unwrap_err()
}

fn too_large(error: &ManifestError, expected: &str) -> bool {
    matches!(error, ManifestError::GroupTooLarge { what, .. } if *what == expected)
}

fn page_bound(error: &ManifestError, expected: &str) -> bool {
    matches!(error, ManifestError::Page { source: PageError::Bound { what, .. }, .. } if *what == expected)
}

#[test]
fn texts_that_are_longer_than_any_name_are_refused_before_they_are_decoded() {
    let long = "a".repeat(8 << 20);
    let texts: ArrayRef = Arc::new(StringArray::from(vec![long.as_str(); 2]));
    for column in ["kind", "name", "dtype", "pack", "codec", "blake3"] {
        let error = part_with(2, column, texts.clone(), false);
        assert!(page_bound(&error, "uncompressed page length"), "{column}: {error}");
    }
    for column in ["path", "blake3", "blob", "schema"] {
        let error = dataset_with(2, column, texts.clone(), false);
        assert!(page_bound(&error, "uncompressed page length"), "{column}: {error}");
    }
}

#[test]
fn one_long_text_that_all_rows_name_is_refused() {
    let long = "a".repeat(400_000);
    let texts: ArrayRef = Arc::new(StringArray::from(vec![long.as_str(); 100]));
    let error = part_with(100, "name", texts.clone(), true);
    assert!(page_bound(&error, "dictionary length"), "{error}");
    let error = dataset_with(100, "path", texts, true);
    assert!(page_bound(&error, "dictionary length"), "{error}");
}

#[test]
fn zeros_that_stand_for_group_values_are_refused() {
    let zeros = vec![0; 64 << 20];
    for rows in [1, 2] {
        let blobs = blob_array((0..rows).map(|_| zeros.as_slice()));
        let error = dataset_with(rows, "groups", blobs, false);
        assert!(page_bound(&error, "uncompressed page length"), "{rows} rows: {error}");
    }
}

#[test]
fn runs_that_stand_for_millions_of_values_are_refused() {
    let runs = vec![1; 2_000_000];
    for column in ["global_shape", "global_offsets", "sizes"] {
        let error = part_with(1, column, numbers_array([runs.as_slice()].into_iter()), true);
        assert!(too_large(&error, "values of a column"), "{column}: {error}");
    }
    // More row groups than one file may have; and as many as each may have, of more files than share a row group.
    for (files, groups) in [(1, 70_000), (20, 1 << 16)] {
        let lists = (0..files).map(|_| vec![[0, 0, 0]; groups]);
        let error = dataset_with(files, "row_groups", records_array(["offset", "len", "rows"], lists), true);
        assert!(too_large(&error, "values of a column"), "{files} files: {error}");
    }
}

/// Appends a second schema, of one leaf, and a second list of row groups, of one column, to the footer of a file.
fn with_second_schema(file: &[u8]) -> Bytes {
    let (data, end) = file.split_at(file.len() - 8);
    let len = u32::from_le_bytes(end[..4].try_into().unwrap());
    assert_eq!(data.last(), Some(&0), "the end of the footer's structure");
    let schema = [[0x09, 4, 0x2c].as_slice(), &[0x48, 1, b'r', 0x15, 2, 0], &[0x15, 4, 0x25, 0, 0x18, 1, b'x', 0]];
    // One row group without rows, its one column at byte 4.
    let column = [0x3c, 0x45, 0, 0x16, 0, 0x26, 0, 0x26, 8, 0, 0];
    let groups = [[0x09, 8, 0x1c].as_slice(), &[0x19, 0x1c], &column, &[0x26, 0, 0]];
    let more = [schema.concat(), groups.concat(), vec![0]].concat();
    let len = len + more.len() as u32 - 1;
    [&data[..data.len() - 1], &more, &len.to_le_bytes(), b"PAR1"].concat().into()
}

#[test]
fn a_second_schema_is_refused() {
    let part = with_second_schema(&write_part(&PartMeta::of_rank(0, 1), &[part_row("w", 0)]).unwrap());
    let dataset = file_row("a", b"content", Vec::new());
    let dataset = with_second_schema(&write_dataset(&dataset_meta(), &[dataset]).unwrap());
    let refused = |error: &FooterError| *error == FooterError::Repeated("schema");
    assert!(matches!(read_part(&part), Err(ManifestError::Footer(error)) if refused(&error)));
    assert!(matches!(read_dataset(&dataset), Err(ManifestError::Footer(error)) if refused(&error)));
    assert!(ParquetFacts::of(&part).is_err_and(|error| refused(&error)));
}

#[test]
fn honest_rows_that_repeat_are_read() {
    // Names of the greatest length that outgrow the dictionary, then one of them for thousands of slices.
    let name = |i: u64| format!("{}{i:06}", "n".repeat(1018));
    let mut rows: Vec<PartRow> = (0..400).map(|i| part_row(&name(i), 0)).collect();
    rows.extend((0..7_000).map(|i| part_row(&name(400), i)));
    assert_eq!(read_part(&write_part(&PartMeta::of_rank(0, 1), &rows).unwrap().into()).unwrap().rows, rows);
    // Thousands of files with the same content and row groups, each with many group values; and one with as many row
    // groups as there may be, all alike.
    let content = vec![7; 16 << 18];
    let groups = |count| (0..count).map(|i| RowGroup { offset: 4 + i * 50, len: 50, rows: 1000 }).collect();
    let alike = file_row("", &content, groups(20));
    let mut rows: Vec<FileRow> = (0..6_000).map(|i| FileRow { path: format!("{i:06}"), ..alike.clone() }).collect();
    rows.push(file_row("many", &content, groups(1 << 16)));
    assert_eq!(read_dataset(&write_dataset(&dataset_meta(), &rows).unwrap().into()).unwrap().rows, rows);
}
