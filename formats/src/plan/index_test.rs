//! Tests of the search: it finds what looking at every row finds, whatever the boxes are.

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::object::Stored;
use crate::tensor::dtype::Dtype;
use crate::tensor::slice::{Codec, Place, SliceId, SliceRow};

fn row(name: &str, shape: &[u64], area: TensorBox) -> CheckpointRow {
    let slice = SliceId::tensor(name, Dtype::U8, shape, area).unwrap();
    let pack = Stored { digest: Digest::of(b"pack"), epoch: 0 };
    let place = Place { pack, header_len: 0, offset: 0, stored_len: slice.bytes(), codec: Codec::Raw };
    SliceRow { slice, blake3: Digest::of(b"slice"), place }
}

fn sorted(mut rows: Vec<CheckpointRow>) -> Vec<CheckpointRow> {
    rows.sort_by(|a, b| a.slice.order().cmp(&b.slice.order()));
    rows.dedup_by(|a, b| a.slice.order() == b.slice.order());
    rows
}

/// Positions of the rows of `name` that have elements of `wanted`, by looking at all.
fn looked_up(rows: &[CheckpointRow], name: &str, wanted: &TensorBox) -> Vec<usize> {
    let has = |row: &CheckpointRow| row.slice.name() == name && row.slice.area().intersect(wanted).is_some();
    (0..rows.len()).filter(|i| has(&rows[*i])).collect()
}

fn searched(rows: &[CheckpointRow], name: &str, wanted: &TensorBox) -> (Vec<usize>, u64) {
    let index = RowIndex::new(rows);
    let (mut found, looks) = index.find(rows, SliceKind::Tensor, name).unwrap().touching(wanted, u64::MAX);
    found.retain(|i| rows[*i].slice.area().intersect(wanted).is_some());
    (found, looks)
}

#[test]
fn tensors_are_found_by_kind_and_name() {
    let one = TensorBox::whole(&[4]).unwrap();
    let mut rows: Vec<CheckpointRow> = ["a", "b", "d"].map(|name| row(name, &[4], one.clone())).into();
    let file = SliceId::file("b", 4).unwrap();
    rows.push(SliceRow { slice: file, ..rows[0].clone() });
    let index = RowIndex::new(&rows);
    let find = |kind, name| index.find(&rows, kind, name).map(|tensor| (tensor.start, tensor.rows.len()));
    let starts = ["a", "b", "c", "d", "e"].map(|name| find(SliceKind::Tensor, name));
    assert_eq!(starts, [Some((0, 1)), Some((1, 1)), None, Some((2, 1)), None]);
    assert_eq!([find(SliceKind::File, "b"), find(SliceKind::File, "a")], [Some((3, 1)), None]);
    assert_eq!(RowIndex::new(&[]).find(&[], SliceKind::Tensor, "a").map(|tensor| tensor.start), None);
}

#[test]
fn of_a_grid_few_rows_are_looked_at() {
    // 40 x 30 boxes of 5 x 7, the last of each row and column shorter.
    let shape = [198, 205];
    let bricks = (0..40).flat_map(|y| (0..30).map(move |x| (y * 5, x * 7)));
    let boxed = |(y, x): (u64, u64)| TensorBox::new(vec![y, x], vec![5.min(198 - y), 7.min(205 - x)]).unwrap();
    let rows = sorted(bricks.map(|at| row("w", &shape, boxed(at))).collect());
    for (offsets, sizes, most) in [([17, 33], [1, 1], 50), ([0, 0], [198, 1], 1000), ([0, 204], [198, 1], 1000)] {
        let wanted = TensorBox::new(offsets.into(), sizes.into()).unwrap();
        let (found, looks) = searched(&rows, "w", &wanted);
        assert_eq!(found, looked_up(&rows, "w", &wanted));
        assert!(looks <= most, "{looks} looks for {wanted}");
    }
}

#[test]
fn rows_of_other_dimensions_are_all_looked_at() {
    // No save writes this; a stranger's manifest may have it.
    let mut rows: Vec<CheckpointRow> =
        (0..20).map(|i| row("w", &[40], TensorBox::new(vec![i * 2], vec![2]).unwrap())).collect();
    rows.push(row("w", &[40, 1], TensorBox::new(vec![3, 0], vec![1, 1]).unwrap()));
    let rows = sorted(rows);
    for wanted in ["[5:6]", "[3:4,0:1]", "[]"] {
        let wanted = wanted.parse().unwrap();
        assert_eq!(searched(&rows, "w", &wanted).0, looked_up(&rows, "w", &wanted));
    }
}

proptest! {
    #[test]
    fn the_search_leaves_no_row_out(
        boxes in prop::collection::vec((0u64..30, 0u64..30, 0u64..12, 0u64..12), 1..80),
        (y, x, h, w) in (0u64..30, 0u64..30, 0u64..31, 0u64..31),
    ) {
        // They overlap and leave gaps as they like.
        let boxed = |y: u64, x: u64, h: u64, w: u64| {
            TensorBox::new(vec![y, x], vec![h.min(30 - y), w.min(30 - x)]).unwrap()
        };
        let rows = boxes.into_iter().map(|(y, x, h, w)| row("w", &[30, 30], boxed(y, x, h, w)));
        let other = |name| row(name, &[30, 30], boxed(0, 0, 30, 30));
        let rows = sorted(rows.chain([other("v"), other("x")]).collect());
        let wanted = boxed(y, x, h, w);
        prop_assert_eq!(searched(&rows, "w", &wanted).0, looked_up(&rows, "w", &wanted));
    }
}
