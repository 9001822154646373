//! Tests of the light index: it says what the whole manifest says, and reads little of it.

use super::super::dataset::{FileRow, read_dataset, write_dataset};
use super::super::dataset_test_rows::{meta, token_file};
use super::*;
use crate::object::Stored;
use crate::table::RowGroup;
use crate::verified::{GroupSize, GroupTree};

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

#[test]
fn group_trees_are_not_read() {
    let values: Vec<[u8; 32]> = (0..4096u32).map(|i| *Digest::of(&i.to_le_bytes()).as_bytes()).collect();
    let tree = GroupTree::merged(GroupSize::File, 4096 * GroupSize::File.bytes(), values).unwrap();
    let row = |i: u64| FileRow {
        path: format!("{i:04}.parquet"),
        blob: Stored { digest: tree.root(), epoch: 0 },
        bytes: tree.len(),
        rows: 64_000,
        row_groups: (0..64).map(|i| RowGroup { offset: 4 + i, len: 1, rows: 1000 }).collect(),
        tree: tree.clone(),
        tokens: (0..64).map(|group| 1_000_000 + i * group).collect(),
        lengths: [vec![0; 10], vec![64_000 - i, i]].concat(),
        ..token_file("", 0)
    };
    let row = |i| FileRow { lengths: [vec![0; 10], vec![48_000, 16_000]].concat(), ..row(i) };
    let manifest = Bytes::from(write_dataset(&meta(), &(0..100).map(row).collect::<Vec<_>>()).unwrap());
    let (index, asked) = read(&manifest).unwrap();
    assert_eq!(index.rows.len(), 6400);
    assert!(asked < 200_000 && manifest.len() > 13 << 20, "{asked} of {}", manifest.len());
}

#[test]
fn damage_is_refused_and_never_panics() {
    let rows: Vec<FileRow> = (0..4).map(|i| token_file(&format!("{i:03}.parquet"), i)).collect();
    super::super::samples::damaged(&write_dataset(&meta(), &rows).unwrap(), read);
}
