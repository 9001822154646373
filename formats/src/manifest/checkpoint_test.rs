//! Tests of the checkpoint manifest: round trips, the frozen fixture, and hostile bytes.

use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use proptest::prelude::*;

use super::super::samples::{any_cursors, any_metadata, any_rows, cursor, damaged, note, rows, written};
use super::super::{PageError, RowError};
use super::*;
use crate::object::Stored;
use crate::order::Cursor;
use crate::tensor::slice::Codec;

fn meta() -> CheckpointMeta {
    CheckpointMeta {
        run: "minilm".parse().unwrap(),
        step: 100,
        world_size: 4,
        parent: Some(90),
        metadata: note("loss", "0.25"),
        cursors: Cursors::new(),
    }
}

/// Serves a reader from `file`; returns what it read, the bytes it asked for, and how often it asked.
fn serve(file: &Bytes, selection: Selection) -> Result<(Checkpoint, u64, usize), ManifestError> {
    let mut reader = CheckpointReader::new(file.len() as u64, selection)?;
    let (mut asked, mut times) = (0, 0);
    loop {
        match reader.step()? {
            Step::Done(checkpoint) => return Ok((checkpoint, asked, times)),
            Step::Need(ranges) => {
                assert!(!ranges.is_empty());
                times += 1;
                for range in ranges {
                    asked += range.len();
                    reader.give(range, file.slice(range.start() as usize..range.end() as usize))?;
                }
            }
        }
    }
}

fn names(names: &[&str]) -> Selection {
    Selection::Names(names.iter().map(|name| (*name).to_owned()).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trips(
        rows in any_rows(), metadata in any_metadata(), cursors in any_cursors(), step: u64, parent: Option<u64>,
    ) {
        let meta = CheckpointMeta { step, parent, metadata, cursors, ..meta() };
        let file = Bytes::from(write_checkpoint(&meta, &rows).unwrap());
        prop_assert_eq!(&write_checkpoint(&meta, &rows).unwrap(), &file);
        let read = read_checkpoint(&file).unwrap();
        prop_assert_eq!(&read.content, &content_of(&rows));
        let some: BTreeSet<String> = rows.iter().step_by(3).map(|row| row.slice.name().to_owned()).collect();
        let (selected, ..) = serve(&file, Selection::Names(some.clone())).unwrap();
        let expected: Vec<_> = rows.iter().filter(|row| some.contains(row.slice.name())).cloned().collect();
        prop_assert_eq!(selected, Checkpoint { meta: meta.clone(), content: read.content, rows: expected });
        prop_assert_eq!(read, Checkpoint { content: content_of(&rows), meta, rows });
    }
}

#[test]
fn version_1_is_still_read_and_still_written() {
    let fixture = Bytes::from_static(include_bytes!("../../fixtures/checkpoint-1.parquet"));
    let checkpoint = read_checkpoint(&fixture).unwrap();
    assert_eq!(checkpoint.meta, meta());
    assert_eq!(checkpoint.rows, rows(10));
    assert_eq!(checkpoint.content.to_string(), "68b45f0f8c4c4d9815f04c2fe6aef06970011f4ce998fc495f8db55fe19843c7");
    assert_eq!(
        write_checkpoint(&meta(), &rows(10)).unwrap(),
        written!("checkpoint-1"),
        "the same rows gave other bytes"
    );
}

#[test]
fn the_content_digest_is_that_of_its_lines() {
    let rows = rows(1);
    let lines: String = [
        format!("tensor\tlayers.000000.weight\tBF16\t[8,16]\t[0:2,0:16]\t{}\n", rows[0].blake3),
        format!("tensor\tscalar\tF32\t[]\t[]\t{}\n", rows[1].blake3),
        format!("file\ttokenizer/config.json\tU8\t[321]\t[0:321]\t{}\n", rows[2].blake3),
    ]
    .concat();
    assert_eq!(content_of(&rows), Digest::of(lines.as_bytes()));
}

#[test]
fn a_selection_reads_only_row_groups_that_can_hold_it() {
    let rows = rows(20_000);
    let file = Bytes::from(write_checkpoint(&meta(), &rows).unwrap());
    let (all, whole, _) = serve(&file, Selection::All).unwrap();
    assert_eq!(all.rows, rows);
    let (one, asked, times) = serve(&file, names(&["layers.002500.weight", "absent"])).unwrap();
    assert_eq!(one.rows, rows[10_000..10_004]);
    assert_eq!(one.content, all.content);
    assert!(asked < whole / 3 && times <= 2, "{asked} of {whole} bytes in {times} reads");
    let (none, asked, _) = serve(&file, names(&["absent", "zzz"])).unwrap();
    assert!(none.rows.is_empty() && asked < whole / 3);
    let (ends, ..) = serve(&file, names(&["layers.000000.weight", "tokenizer/config.json"])).unwrap();
    assert_eq!(ends.rows, [&rows[..4], &rows[20_001..]].concat());
    assert!(serve(&file, names(&[])).unwrap().0.rows.is_empty());
}

#[test]
fn other_readers_find_pages_by_name() {
    let file = Bytes::from(write_checkpoint(&meta(), &rows(9_000)).unwrap());
    let metadata =
        ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional).parse_and_finish(&file);
    let metadata = metadata.unwrap();
    let columns = metadata.file_metadata().schema_descr().columns();
    for (group, rows) in metadata.row_groups().iter().zip([4096, 4096, 810]) {
        assert_eq!(group.num_rows(), rows);
        for (chunk, column) in group.columns().iter().zip(columns) {
            let found_by = column.path().string() == "name";
            assert_eq!(chunk.column_index_offset().is_some(), found_by);
            assert_eq!(chunk.statistics().is_some(), found_by);
            assert!(chunk.offset_index_offset().is_some());
        }
    }
    for pages in metadata.offset_index().unwrap().iter().flatten() {
        let firsts: Vec<i64> = pages.page_locations().iter().map(|page| page.first_row_index).collect();
        assert!(firsts.len() <= 8 && firsts.windows(2).all(|pair| pair[1] - pair[0] <= 1024), "{firsts:?}");
    }
}

#[test]
fn rows_out_of_order_are_refused() {
    let mut twice = rows(4);
    twice.push(twice[5].clone());
    assert!(matches!(write_checkpoint(&meta(), &twice), Err(ManifestError::Order { .. })));
    let mut swapped = rows(4);
    swapped.swap(1, 2);
    let error = write_checkpoint(&meta(), &swapped).unwrap_err().to_string();
    assert!(error.contains("layers.000000.weight[2:4,0:16] comes after layers.000000.weight[4:6,0:16]"), "{error}");
}

#[test]
fn a_checkpoint_with_cursors_is_still_read_and_still_written() {
    let fixture = Bytes::from_static(include_bytes!("../../fixtures/checkpoint-cursors-1.parquet"));
    let cursors = Cursors::from([("data".to_owned(), cursor(1)), ("eval".to_owned(), cursor(2))]);
    let meta = CheckpointMeta { cursors, ..meta() };
    assert_eq!(read_checkpoint(&fixture).unwrap().meta, meta);
    assert_eq!(
        write_checkpoint(&meta, &rows(10)).unwrap(),
        written!("checkpoint-cursors-1"),
        "the same rows gave other bytes"
    );
}

#[test]
fn rows_and_heads_that_can_not_be_are_refused() {
    let refused = |change: fn(&mut Place<Stored>)| {
        let mut rows = rows(2);
        change(&mut rows[1].place);
        matches!(write_checkpoint(&meta(), &rows), Err(ManifestError::Row { row: 1, .. }))
    };
    assert!(refused(|place| place.offset = place.header_len - 1));
    assert!(refused(|place| place.offset = u64::MAX));
    assert!(refused(|place| place.header_len = 1 << 40));
    assert!(refused(|place| (place.codec, place.stored_len) = (Codec::Raw, 1)));
    let long = CheckpointMeta { metadata: note("k", &"v".repeat(1 << 20)), ..meta() };
    assert!(matches!(write_checkpoint(&long, &[]), Err(ManifestError::Bounds(_))));
    let named = |name: &str, cursor: Cursor| CheckpointMeta { cursors: [(name.to_owned(), cursor)].into(), ..meta() };
    for name in ["", "Data", "a b", "..", "a/b"] {
        let error = write_checkpoint(&named(name, cursor(1)), &[]).unwrap_err();
        assert!(matches!(error, ManifestError::Bounds(MetaError::CursorName(_))), "{name:?}: {error}");
    }
    let many = (0..65).map(|i| (format!("s{i}"), cursor(i))).collect();
    let error = write_checkpoint(&CheckpointMeta { cursors: many, ..meta() }, &[]).unwrap_err();
    assert!(matches!(error, ManifestError::Bounds(MetaError::Cursors { actual: 65 })), "{error}");
    let mut wide = cursor(1);
    wide.sources[0].lanes = vec![(u32::MAX, u32::MAX); 1 << 16];
    write_checkpoint(&named("data", wide.clone()), &[]).unwrap();
    wide.sources[0].lanes = vec![(u32::MAX, u32::MAX); 3 << 16];
    let error = write_checkpoint(&named("data", wide), &[]).unwrap_err();
    assert!(matches!(error, ManifestError::Bounds(MetaError::CursorsLong { actual }) if actual > 4 << 20), "{error}");
    let none = CheckpointMeta { world_size: 0, ..meta() };
    assert!(matches!(write_checkpoint(&none, &[]), Err(ManifestError::Bounds(_))));
}

#[test]
fn other_files_are_told_apart() {
    let part = crate::manifest::packs::write_packs(&[]).unwrap();
    let error = read_checkpoint(&part.into()).unwrap_err().to_string();
    assert!(error.contains("checkpoint-1") && error.contains("packs-1"), "{error}");
    assert!(matches!(read_checkpoint(&Bytes::from_static(b"{}")), Err(ManifestError::Footer(_))));
    assert!(matches!(CheckpointReader::new(1 << 40, Selection::All), Err(ManifestError::TooLong { .. })));
}

#[test]
fn damage_is_refused_and_never_panics() {
    let file = write_checkpoint(&meta(), &rows(16)).unwrap();
    let good = read_checkpoint(&file.clone().into()).unwrap();
    // What is not under the content digest (places, user metadata) may be changed unseen here: the manifest as a whole
    // is named by its own digest.
    damaged(&file, |bytes| read_checkpoint(bytes).inspect(|read| assert_eq!(read.content, good.content)));
    damaged(&file, |bytes| serve(bytes, names(&["layers.000003.weight"])));
}

#[test]
fn pages_that_unfold_too_far_are_refused() {
    let error = |source: PageError| ManifestError::Page { group: 0, column: "name".into(), source }.to_string();
    let text = error(PageError::Bound { what: "values of a page", limit: 3, actual: 1 << 30 });
    assert_eq!(text, "row group 0 of the manifest, column \"name\": values of a page is 1073741824, more than 3");
    assert!(RowError::HalfPlace.to_string().contains("codec"));
}
