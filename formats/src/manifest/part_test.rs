//! Tests of the part manifest: round trips, the frozen fixture, and hostile bytes.

use proptest::prelude::*;

use super::super::samples::{any_cursors, any_metadata, any_rows, cursor, damaged, digest, note, rows, written};
use super::*;
use crate::manifest::checkpoint::CheckpointRow;
use crate::timeline::{Phase, Span};

fn meta() -> PartMeta {
    PartMeta {
        rank: 3,
        world_size: 4,
        bases: vec![80, 90],
        compared_to: Some(digest(7)),
        metadata: note("host", "gpu-3"),
        cursors: Cursors::new(),
        timeline: None,
    }
}

fn timed() -> PartMeta {
    let spans = [Phase::Total, Phase::Hash, Phase::Upload].into_iter().enumerate();
    let spans = spans.map(|(i, phase)| {
        let i = i as u64;
        Span { phase, begin_us: i, wall_us: 10, busy_us: 20, bytes: 4096, count: 2, retries: (i == 0).then_some(1) }
    });
    PartMeta { timeline: Some(RankTimeline { began_ms: 1_700_000_000_000, spans: spans.collect() }), ..meta() }
}

/// Takes the epochs away, and every fifth place.
fn opened(rows: Vec<CheckpointRow>) -> Vec<PartRow> {
    let rows = rows.into_iter().enumerate();
    rows.map(|(i, SliceRow { slice, blake3, place })| {
        let Place { pack, header_len, offset, stored_len, codec } = place;
        let place = Place { pack: pack.digest, header_len, offset, stored_len, codec };
        SliceRow { slice, blake3, place: (i % 5 != 0).then_some(place) }
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trips(
        rows in any_rows(), metadata in any_metadata(), cursors in any_cursors(), bases: Vec<u64>, compared: bool,
    ) {
        let rows = opened(rows);
        let meta = PartMeta { bases, metadata, cursors, compared_to: compared.then(|| digest(1)), ..meta() };
        let file = Bytes::from(write_part(&meta, &rows).unwrap());
        prop_assert_eq!(&write_part(&meta, &rows).unwrap(), &file);
        prop_assert_eq!(read_part(&file).unwrap(), Part { content: content_of(&rows), meta, rows });
    }
}

#[test]
fn version_1_is_still_read_and_still_written() {
    let fixture = Bytes::from_static(include_bytes!("../../fixtures/part-1.parquet"));
    let part = read_part(&fixture).unwrap();
    assert_eq!(part.meta, meta());
    assert_eq!(part.rows, opened(rows(10)));
    assert_eq!(part.rows.iter().filter(|row| row.place.is_none()).count(), 3);
    assert_eq!(write_part(&meta(), &opened(rows(10))).unwrap(), written!("part-1"), "the same rows gave other bytes");
}

#[test]
fn a_part_with_times_is_still_read_and_still_written() {
    let fixture = Bytes::from_static(include_bytes!("../../fixtures/part-timed-1.parquet"));
    assert_eq!(read_part(&fixture).unwrap().meta, timed());
    assert_eq!(
        write_part(&timed(), &opened(rows(10))).unwrap(),
        written!("part-timed-1"),
        "the same rows gave other bytes"
    );
    let mut twice = timed();
    twice.timeline.as_mut().unwrap().spans.extend(timed().timeline.unwrap().spans);
    let error = write_part(&twice, &[]).unwrap_err();
    assert!(matches!(error, ManifestError::Bounds(MetaError::Spans { actual: 6, .. })), "{error}");
}

#[test]
fn a_part_with_cursors_is_still_read_and_still_written() {
    let fixture = Bytes::from_static(include_bytes!("../../fixtures/part-cursors-1.parquet"));
    let meta = PartMeta { cursors: [("data".to_owned(), cursor(1))].into(), ..meta() };
    assert_eq!(read_part(&fixture).unwrap().meta, meta);
    assert_eq!(
        write_part(&meta, &opened(rows(10))).unwrap(),
        written!("part-cursors-1"),
        "the same rows gave other bytes"
    );
    let named = PartMeta { cursors: [("a b".to_owned(), cursor(1))].into(), ..meta };
    let error = write_part(&named, &[]).unwrap_err();
    assert!(matches!(error, ManifestError::Bounds(MetaError::CursorName(_))), "{error}");
}

#[test]
fn what_can_not_be_a_part_is_refused() {
    let mut twice = opened(rows(4));
    twice.push(twice[5].clone());
    assert!(matches!(write_part(&meta(), &twice), Err(ManifestError::Order { .. })));
    let rank = PartMeta { rank: 4, ..meta() };
    assert!(matches!(write_part(&rank, &[]), Err(ManifestError::Bounds(MetaError::World { rank: 4, world_size: 4 }))));
    let checkpoint = crate::manifest::packs::write_packs(&[]).unwrap();
    assert!(matches!(read_part(&checkpoint.into()), Err(ManifestError::Format { .. })));
}

#[test]
fn damage_is_refused_and_never_panics() {
    let file = write_part(&meta(), &opened(rows(16))).unwrap();
    damaged(&file, read_part);
}
