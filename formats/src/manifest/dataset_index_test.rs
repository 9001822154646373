//! Tests of the light index: it says what the whole manifest says, and reads little of it.

use super::super::dataset::{FileRow, read_dataset, write_dataset};
use super::super::dataset_test_rows::{meta, token_file};
use super::*;
use crate::limits::GROUP_BYTES;
use crate::object::Stored;
use crate::table::RowGroup;
use crate::verified::GroupTree;

/// Reads an index as a client would; returns also how many bytes were asked for.
fn read(manifest: &Bytes) -> Result<(DatasetIndex, u64), ManifestError> {
    let mut reader = IndexReader::new(manifest.len() as u64)?;
    let mut asked = 0;
    loop {
        match reader.step()? {
            Step::Done(index) => return Ok((index, asked)),
            Step::Need(ranges) => {
                for range in ranges {
                    asked += range.len();
                    reader.give(range, manifest.slice(range.start() as usize..range.end() as usize))?;
                }
            }
        }
    }
}

#[test]
fn an_index_says_what_the_manifest_says() {
    let rows: Vec<FileRow> = (0..40).map(|i| token_file(&format!("{i:03}.parquet"), i % 5)).collect();
    let manifest = Bytes::from(write_dataset(&meta(), &rows).unwrap());
    let (index, _) = read(&manifest).unwrap();
    let whole = read_dataset(&manifest).unwrap();
    assert_eq!((&index.meta, index.content), (&whole.meta, whole.content));
    for (i, row) in whole.rows.iter().enumerate() {
        assert_eq!(index.files[i].path, row.path);
        let rows: Vec<u64> = row.row_groups.iter().map(|group| group.rows).collect();
        assert_eq!(index.rows[index.groups(i)], rows);
        assert_eq!(index.tokens[index.groups(i)], row.tokens);
    }
    assert_eq!((index.groups(39).end, index.groups(40)), (index.rows.len(), index.rows.len()..index.rows.len()));
}

#[test]
fn an_index_of_an_older_manifest_has_no_tokens() {
    let fixture = Bytes::from_static(include_bytes!("../../fixtures/dataset-1.parquet"));
    let (index, _) = read(&fixture).unwrap();
    assert_eq!(index.files.len(), 5);
    assert_eq!(index.rows, [10, 10, 11, 10, 11, 12, 10, 11, 12, 13]);
    assert_eq!(index.tokens, [0; 10]);
}

/// A file of 64 row groups whose group values shrink to nothing less.
fn large_file(number: u64) -> FileRow {
    let value = |i: u64| *Digest::of(&(number * 1024 + i).to_le_bytes()).as_bytes();
    let len = 1024 * GROUP_BYTES;
    let tree = GroupTree::merged(len, (0..1024).map(value).collect()).unwrap();
    FileRow {
        path: format!("{number:04}.parquet"),
        blob: Stored { digest: tree.root(), epoch: 0 },
        bytes: len,
        rows: 64 * 1000,
        row_groups: (0..64).map(|i| RowGroup { offset: 4 + i, len: 1, rows: 1000 }).collect(),
        tree,
        tokens: (0..64).map(|group| 600_000 + group * number).collect(),
        lengths: [vec![0; 10], vec![64_000]].concat(),
        ..token_file("", 0)
    }
}

#[test]
fn group_trees_are_not_read() {
    let rows: Vec<FileRow> = (0..100).map(large_file).collect();
    let manifest = Bytes::from(write_dataset(&meta(), &rows).unwrap());
    let (index, asked) = read(&manifest).unwrap();
    assert_eq!(index.rows.len(), 6400);
    // Of 32 KiB a file, the footer and 64 + 64 numbers.
    assert!(asked < 400 << 10 && manifest.len() > 3 << 20, "{asked} of {}", manifest.len());
}

#[test]
fn damage_is_refused_and_never_panics() {
    let rows: Vec<FileRow> = (0..4).map(|i| token_file(&format!("{i:03}.parquet"), i)).collect();
    super::super::samples::damaged(&write_dataset(&meta(), &rows).unwrap(), read);
}
