//! Tests of ranges of files against files that are put together whole, from slices that are cut out by hand.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::manifest::checkpoint::{Checkpoint, CheckpointMeta, CheckpointRow};
use crate::object::Stored;
use crate::tensor::boxes::TensorBox;
use crate::tensor::files::WHOLE;
use crate::tensor::slice::{Codec, Place, SliceId, SliceRow};

/// A tensor, and the numbers of parts that each of its dimensions is cut into.
type Made = (Dtype, Vec<(u64, u64)>);

fn tensors() -> impl Strategy<Value = Vec<Made>> {
    let dtypes = [Dtype::F4, Dtype::F6_E3M2, Dtype::U8, Dtype::BF16, Dtype::F32];
    // Of elements below a byte the sizes are such that every cut is at whole bytes.
    let tensor = (prop::sample::select(dtypes.to_vec()), prop::collection::vec((0u64..5, 1u64..4), 0..4));
    let whole = |(dtype, mut dims): Made| {
        if let (true, Some(last)) = (dtype.bits() < 8, dims.last_mut()) {
            *last = (last.0 * 4, 1 + last.1 % 2);
        }
        let scalar = dims.is_empty() && dtype.bits() < 8;
        (if scalar { Dtype::U8 } else { dtype }, dims)
    };
    prop::collection::vec(tensor.prop_map(whole), 1..6)
}

fn row(slice: SliceId) -> CheckpointRow {
    let pack = Stored { digest: Digest::of(b"pack"), epoch: 0 };
    let place = Place { pack, header_len: 0, offset: 0, stored_len: slice.bytes(), codec: Codec::Raw };
    SliceRow { slice, blake3: Digest::of(b"slice"), place }
}

/// The boxes of a grid.
fn grid(dims: &[(u64, u64)], multiple: u64) -> Vec<TensorBox> {
    let mut all = vec![(Vec::new(), Vec::new())];
    for (d, (size, parts)) in dims.iter().enumerate() {
        let step = size.div_ceil(*parts).max(1);
        let step = if d + 1 == dims.len() { step.next_multiple_of(multiple) } else { step };
        let cuts: Vec<u64> = (0..(*size).max(1)).step_by(step as usize).collect();
        let next = |(offsets, sizes): (Vec<u64>, Vec<u64>)| {
            cuts.iter()
                .map(move |at| {
                    let with = |list: &[u64], last| list.iter().copied().chain([last]).collect();
                    (with(&offsets, *at), with(&sizes, step.min(size - at)))
                })
                .collect::<Vec<_>>()
        };
        all = all.into_iter().flat_map(next).collect();
    }
    all.into_iter().map(|(offsets, sizes)| TensorBox::new(offsets, sizes).unwrap()).collect()
}

/// Bytes that differ from their neighbours.
fn content(seed: usize, len: u64) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251 + seed as u64 * 31) as u8).collect()
}

/// A checkpoint, the bytes of its slices by row, and of its whole tensors.
fn saved(made: &[Made]) -> (Planner, Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut rows, mut parts, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for (i, (dtype, dims)) in made.iter().enumerate() {
        let shape: Vec<u64> = dims.iter().map(|(size, _)| *size).collect();
        let all = TensorBox::whole(&shape).unwrap();
        let data = content(i, all.bytes(*dtype).unwrap());
        let mut boxes = grid(dims, dtype.whole_bytes());
        boxes.sort_by(|a, b| (a.offsets(), a.sizes()).cmp(&(b.offsets(), b.sizes())));
        for area in boxes {
            let slice = SliceId::tensor(&format!("t{i}"), *dtype, &shape, area.clone()).unwrap();
            let mut bytes = vec![0; slice.bytes() as usize];
            if let Some(copy) = CopyPlan::new(*dtype, &all, &area).unwrap() {
                for run in (0..copy.runs()).map(|i| copy.run(i)) {
                    let (from, to, len) = (run.from as usize, run.to as usize, run.len as usize);
                    bytes[to..to + len].copy_from_slice(&data[from..from + len]);
                }
            }
            rows.push(row(slice));
            parts.push(bytes);
        }
        whole.push(data);
    }
    rows.push(row(SliceId::file("config.json", 5).unwrap()));
    rows.push(row(SliceId::file("model-00001-of-00001.safetensors", 6).unwrap()));
    let metadata = BTreeMap::from([("safetensors:format".to_owned(), "pt".to_owned())]);
    let meta = CheckpointMeta {
        run: "run".parse().unwrap(),
        step: 1,
        world_size: 1,
        parent: None,
        metadata,
        cursors: Default::default(),
    };
    (Planner::new(Checkpoint { meta, content: Digest::of(b"content"), rows }), parts, whole)
}

/// Reads a range as a reader does.
fn read(planner: &Planner, layout: &FileLayout, file: &TensorFile, range: ByteRange, slices: &[Vec<u8>]) -> Vec<u8> {
    let mut left = Unplanned::from(range);
    let (mut bytes, mut at) = (Vec::new(), range.start());
    while let Some(FileRead { range, header, parts }) = planner.read_file(layout, file, &mut left).unwrap() {
        assert_eq!(range.start(), at);
        assert!(parts.iter().map(|part| part.copies.len()).sum::<usize>() <= MAX_COPIES);
        at = range.end();
        let mut piece = vec![0xee; range.len() as usize];
        piece[..header.len()].copy_from_slice(&header);
        let mut counted = header.len() as u64;
        for SlicePart { row, range: part, copies } in parts {
            for run in copies.iter().flat_map(|copy| copy.within(part)) {
                let (from, to, len) = (run.from as usize, run.to as usize, run.len as usize);
                piece[to..to + len].copy_from_slice(&slices[row][from..from + len]);
                counted += run.len;
            }
        }
        assert_eq!(counted, range.len());
        bytes.extend(piece);
    }
    assert_eq!(at, range.end());
    bytes
}

proptest! {
    #[test]
    fn any_range_of_any_file_is_that_of_the_file_put_together(
        made in tensors(), view in prop::sample::select(vec![View::Whole, View::Sharded(40)]),
        cuts in prop::collection::vec((0u64..1 << 40, 0u64..1 << 40), 20),
    ) {
        let (planner, slices, whole) = saved(&made);
        let layout = planner.layout(view).unwrap();
        let mut seen = 0;
        for file in layout.files() {
            let data: Vec<u8> = whole[file.tensors.clone()].concat();
            let all = [&file.header[..], &data].concat();
            prop_assert_eq!(all.len() as u64, file.len);
            seen += file.tensors.len();
            for (a, b) in cuts.iter().map(|(a, b)| (a % (file.len + 1), b % (file.len + 1))) {
                // Half of the ranges are in the data, which is short beside the header.
                let from = if a % 2 == 0 { 0 } else { file.header.len() as u64 };
                let (a, b) = (a.max(from), b.max(from));
                let range = ByteRange::new(a.min(b), a.max(b)).unwrap();
                let expected = &all[range.start() as usize..range.end() as usize];
                prop_assert!(read(&planner, &layout, file, range, &slices) == expected, "{range} of {}", file.name);
            }
        }
        prop_assert_eq!(seen, made.len());
    }
}

#[test]
fn what_was_saved_is_listed_before_what_tensors_make() {
    let (planner, ..) = saved(&[(Dtype::F32, vec![(4, 2)]), (Dtype::U8, vec![])]);
    assert_eq!(planner.listed(), View::Whole);
    let names = |view| {
        let layout = planner.layout(view).unwrap();
        planner.files(Some(&layout)).into_iter().map(|file| (file.path, file.bytes)).collect::<Vec<_>>()
    };
    let saved = [("config.json".to_owned(), 5), ("model-00001-of-00001.safetensors".to_owned(), 6)];
    let len = planner.layout(View::Whole).unwrap().file(WHOLE).unwrap().len;
    assert_eq!(names(View::Whole), [&saved[..], &[(WHOLE.to_owned(), len)]].concat());
    assert_eq!(planner.files(None).len(), saved.len());
    let sharded = names(View::Sharded(SHARD_BYTES));
    assert_eq!((&sharded[..2], sharded[2].0.as_str()), (&saved[..], INDEX));
}

#[test]
fn what_no_slice_has_is_an_error_and_no_hole() {
    let (planner, ..) = saved(&[(Dtype::F32, vec![(40, 20)])]);
    for spoiled in 0..2 {
        let mut checkpoint = planner.checkpoint().clone();
        match spoiled {
            0 => drop(checkpoint.rows.remove(7)),
            _ => {
                let area = TensorBox::new(vec![14], vec![2]).unwrap();
                checkpoint.rows[7].slice = SliceId::tensor("t0", Dtype::U16, &[40], area).unwrap();
            }
        }
        let planner = Planner::new(checkpoint);
        let layout = planner.layout(View::Whole).unwrap();
        let file = &layout.files()[0];
        let data = |from, to| {
            let start = file.header.len() as u64;
            planner.read_file(&layout, file, &mut ByteRange::new(start + from, start + to).unwrap().into())
        };
        assert!(data(0, 56).is_ok() && data(64, 160).is_ok());
        for (from, to) in [(0, 160), (56, 57), (50, 100)] {
            assert!(matches!(data(from, to), Err(PlanError::Uncovered { .. })), "{from}..{to}");
        }
    }
}

#[test]
fn many_tiny_slices_are_planned_a_part_at_a_time() {
    // Two tensors of 5,000 slices of a byte, and one of 3,000 rows of which each of two slices has a half.
    let (planner, slices, whole) = saved(&[
        (Dtype::U8, vec![(5000, 5000)]),
        (Dtype::U8, vec![(3000, 1), (2, 2)]),
        (Dtype::U8, vec![(50, 50), (100, 100)]),
    ]);
    let layout = planner.layout(View::Whole).unwrap();
    let file = &layout.files()[0];
    let all = ByteRange::new(0, file.len).unwrap();
    assert!(read(&planner, &layout, file, all, &slices) == [&file.header[..], &whole.concat()].concat());
}

#[test]
fn slices_of_uneven_sizes_are_refused_and_not_searched_for_ever() {
    // One slice as long as all others together: no search tells which of those before a byte end before it.
    let count = 2 * MAX_LOOKS;
    let slice = |start, len| {
        let area = TensorBox::new(vec![start], vec![len]).unwrap();
        row(SliceId::tensor("t", Dtype::U8, &[2 * count], area).unwrap())
    };
    let (planner, ..) = saved(&[]);
    let mut checkpoint = planner.checkpoint().clone();
    checkpoint.rows = (0..count).map(|i| slice(i, 1)).chain([slice(count, count)]).collect();
    let planner = Planner::new(checkpoint);
    let layout = planner.layout(View::Whole).unwrap();
    let file = &layout.files()[0];
    let end = file.len - count;
    let mut left = ByteRange::new(end - 1, end).unwrap().into();
    assert!(matches!(planner.read_file(&layout, file, &mut left), Err(PlanError::Scattered { .. })));
    let mut left = ByteRange::new(file.len - 9, file.len).unwrap().into();
    assert_eq!(planner.read_file(&layout, file, &mut left).unwrap().unwrap().parts.len(), 1);
}
