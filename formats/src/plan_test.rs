//! Tests of plans: every wanted byte lies in a planned range, and no range holds a group that nobody wants.

use super::*;

/// A 6 MiB tensor of u8, saved as two slices of rows, 1 MiB a row of 1,024 x 1,024.
fn checkpoint() -> Checkpoint {
    let shape = [6, 1024, 1024];
    let rows = [(0, 2, 4096), (2, 4, 8192)].map(|(first, count, offset)| {
        let area = TensorBox::new(vec![first, 0, 0], vec![count, 1024, 1024]).unwrap();
        let slice = SliceId::tensor("w", Dtype::U8, &shape, area).unwrap();
        let pack = Stored { digest: Digest::of(&[first as u8]), epoch: 0 };
        let place = Place { pack, header_len: 4096, offset, stored_len: count << 20, codec: Codec::Raw };
        SliceRow { slice, blake3: Digest::of(b"slice"), place }
    });
    let run = "run".parse().unwrap();
    let meta = CheckpointMeta {
        run,
        step: 1,
        world_size: 2,
        parent: None,
        metadata: Default::default(),
        cursors: Default::default(),
    };
    Checkpoint { meta, content: Digest::of(b"content"), rows: rows.into() }
}

fn wanted(offsets: [u64; 3], sizes: [u64; 3]) -> PlanBox {
    let area = Some(Area { global_offsets: offsets.into(), sizes: sizes.into() });
    PlanBox { kind: SliceKind::Tensor, name: "w".to_owned(), area }
}

fn ranges_of(boxes: Vec<PlanBox>) -> Vec<Vec<(u64, u64)>> {
    Planner::new(checkpoint()).plan(&PlanRequest { boxes }).unwrap().into_iter().map(|slice| slice.ranges).collect()
}

#[test]
fn ranges_are_whole_groups_of_the_slices_that_a_box_touches() {
    const MIB: u64 = 1 << 20;
    let whole = PlanBox { area: None, ..wanted([0; 3], [0; 3]) };
    assert_eq!(ranges_of(vec![whole]), [vec![(4096, 4096 + 2 * MIB)], vec![(8192, 8192 + 4 * MIB)]]);
    let one = wanted([1, 5, 5], [1, 1, 1]);
    assert_eq!(ranges_of(vec![one.clone()]), [vec![(4096 + MIB, 4096 + 2 * MIB)]]);
    let across = wanted([1, 0, 0], [2, 1, 1]);
    let first_groups = [vec![(4096 + MIB, 4096 + 2 * MIB)], vec![(8192, 8192 + MIB)]];
    assert_eq!(ranges_of(vec![across.clone()]), first_groups);
    assert_eq!(ranges_of(vec![one, across]), first_groups, "a slice of two boxes is planned once");
    let apart = [wanted([2, 0, 0], [1, 1, 1]), wanted([5, 0, 0], [1, 1, 1])];
    assert_eq!(ranges_of(apart.into()), [vec![(8192, 8192 + MIB), (8192 + 3 * MIB, 8192 + 4 * MIB)]]);
    assert_eq!(ranges_of(vec![wanted([0; 3], [0, 1024, 1024])]), [Vec::new()], "an empty box needs no bytes");
}

#[test]
fn boxes_without_end_are_refused_and_equal_ones_cost_nothing() {
    let same = vec![wanted([0; 3], [6, 1024, 1024]); MAX_BOXES];
    assert_eq!(ranges_of(same).len(), 2);
    // Each of these looks at up to 4,096 groups of one slice of 4 GiB.
    let shape = [1 << 32];
    let slice = SliceId::tensor("w", Dtype::U8, &shape, TensorBox::whole(&shape).unwrap()).unwrap();
    let mut large = checkpoint();
    let place = Place { stored_len: 1 << 32, ..large.rows[0].place.clone() };
    large.rows = vec![SliceRow { slice, blake3: Digest::of(b"slice"), place }];
    let one = |i| PlanBox { area: Some(Area { global_offsets: vec![i], sizes: vec![1] }), ..wanted([0; 3], [0; 3]) };
    let boxes = (0..MAX_BOXES as u64).map(one).collect();
    assert_eq!(Planner::new(large).plan(&PlanRequest { boxes }).unwrap_err(), PlanError::TooMuch);
}

#[test]
fn a_planned_slice_is_the_row_of_the_manifest_again() {
    let checkpoint = checkpoint();
    let boxes = vec![PlanBox { area: None, ..wanted([0; 3], [0; 3]) }];
    let text = serde_json::to_vec(&Planner::new(checkpoint.clone()).plan(&PlanRequest { boxes }).unwrap()).unwrap();
    let read: Vec<PlannedSlice> = serde_json::from_slice(&text).unwrap();
    let rows: Vec<CheckpointRow> = read.into_iter().map(|slice| slice.row().unwrap()).collect();
    assert_eq!(rows, checkpoint.rows);
}

#[test]
fn what_can_not_be_planned_says_why() {
    let error = |boxes| Planner::new(checkpoint()).plan(&PlanRequest { boxes }).unwrap_err();
    let unknown = PlanBox { name: "v".to_owned(), ..wanted([0; 3], [1; 3]) };
    assert!(matches!(error(vec![unknown]), PlanError::Unknown { name } if name == "v"));
    assert!(matches!(error(vec![wanted([5, 0, 0], [2, 1, 1])]), PlanError::Box { .. }), "past the end");
    assert!(matches!(error(vec![wanted([u64::MAX, 0, 0], [2, 1, 1])]), PlanError::Box { .. }), "overflow");
    let flat = Area { global_offsets: vec![0], sizes: vec![1] };
    let flat = PlanBox { area: Some(flat), ..wanted([0; 3], [0; 3]) };
    assert!(matches!(error(vec![flat]), PlanError::Box { .. }), "other dimensions");
    let many = vec![wanted([0; 3], [1; 3]); MAX_BOXES + 1];
    assert!(matches!(error(many), PlanError::TooMany { actual } if actual == MAX_BOXES + 1));
}
