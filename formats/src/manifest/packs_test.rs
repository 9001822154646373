//! Tests of the packs manifest: round trips, the frozen fixture, and hostile bytes.

use proptest::prelude::*;

use super::super::samples::{damaged, digest, written};
use super::*;

fn packs(count: u64) -> Vec<PackRow> {
    let mut rows: Vec<PackRow> = (0..count)
        .map(|i| PackRow {
            pack: Stored { digest: digest(i / 2), epoch: 9 + i % 2 },
            header_len: 4096,
            bytes: 4096 + i * 1000,
            slices: i + 1,
            used: i * 999,
        })
        .collect();
    rows.sort_by_key(|row| row.pack);
    rows
}

proptest! {
    #[test]
    fn round_trips(count in 0u64..200, used: u64) {
        let rows: Vec<PackRow> = packs(count).into_iter().map(|row| PackRow { used: row.used ^ used, ..row }).collect();
        let file = Bytes::from(write_packs(&rows).unwrap());
        prop_assert_eq!(&write_packs(&rows).unwrap(), &file);
        prop_assert_eq!(read_packs(&file).unwrap(), rows);
    }
}

#[test]
fn version_1_is_still_read_and_still_written() {
    let fixture = Bytes::from_static(include_bytes!("../../fixtures/packs-1.parquet"));
    assert_eq!(read_packs(&fixture).unwrap(), packs(6));
    assert_eq!(write_packs(&packs(6)).unwrap(), written!("packs-1"), "the same rows gave other bytes");
}

#[test]
fn what_can_not_be_a_list_is_refused() {
    let mut twice = packs(4);
    twice.push(twice[3]);
    assert!(matches!(write_packs(&twice), Err(ManifestError::Order { .. })));
    let mut short = packs(1);
    short[0].bytes = 4095;
    assert!(matches!(write_packs(&short), Err(ManifestError::Row { row: 0, .. })));
}

#[test]
fn damage_is_refused_and_never_panics() {
    damaged(&write_packs(&packs(50)).unwrap(), read_packs);
}
