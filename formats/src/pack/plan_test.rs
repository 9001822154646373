//! Tests of plans: every slice once, the same packs for any order, and headers that stay below their limit.

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::limits::{MAX_DIMENSIONS, MAX_SLICE_BYTES, MAX_TENSOR_NAME_BYTES};
use crate::pack::codec::MAX_FRAME_BYTES;
use crate::pack::sample::whole;
use crate::pack::{Coding, PackHeader, PackSlice};
use crate::tensor::boxes::TensorBox;
use crate::tensor::dtype::Dtype;
use crate::verified::GroupTree;

/// The names of each pack's slices.
fn named(slices: &[SliceId], target: u64) -> Vec<Vec<String>> {
    let packs = plan_packs(slices, target);
    packs.iter().map(|pack| pack.iter().map(|&i| format!("{} {:?}", slices[i], slices[i].kind())).collect()).collect()
}

/// A slice coded as badly as can be: its header is as long as its shape allows.
fn longest(slice: &SliceId) -> PackSlice {
    let groups = slice.bytes().div_ceil(GROUP_BYTES);
    let tree = match groups {
        0 | 1 => GroupTree::single(slice.bytes(), Digest::of(b"x")).unwrap(),
        _ => GroupTree::merged(slice.bytes(), vec![[255; 32]; groups as usize]).unwrap(),
    };
    let most = |i| crate::pack::codec::frame_bound(tree.group_range(i).len());
    let coding = match groups {
        0 => Coding::Raw,
        _ => Coding::ZstdPlanes { stored: Digest::of(b"y"), frames: (0..groups).map(most).collect() },
    };
    PackSlice { slice: slice.clone(), tree, coding }
}

#[test]
fn packs_are_cut_at_the_target() {
    let slices: Vec<SliceId> =
        [("b", 6), ("a", 5), ("d", 20), ("c", 5), ("e", 0)].map(|(name, len)| whole(name, Dtype::U8, &[len])).into();
    assert_eq!(plan_packs(&slices, 11), [vec![1, 0], vec![3], vec![2], vec![4]]);
    assert_eq!(plan_packs(&slices, u64::MAX), [[1, 0, 3, 2, 4]]);
    assert_eq!(plan_packs(&slices, 0).len(), 5);
    assert_eq!(plan_packs(&[], 11), Vec::<Vec<usize>>::new());
}

#[test]
fn a_pack_has_at_most_its_number_of_slices() {
    let count = 2 * MAX_PACK_SLICES as u64 + 1;
    let slices: Vec<SliceId> = (0..count).map(|i| whole(&format!("{i:05}"), Dtype::U8, &[1])).collect();
    let sizes: Vec<usize> = plan_packs(&slices, u64::MAX).iter().map(Vec::len).collect();
    assert_eq!(sizes, [MAX_PACK_SLICES, MAX_PACK_SLICES, 1]);
}

#[test]
fn slices_of_equal_entry_names_go_to_different_packs() {
    let tensor = whole("config", Dtype::U8, &[3]);
    let slices = [SliceId::file("config", 3).unwrap(), tensor.clone(), tensor];
    assert_eq!(named(&slices, 100), [["config[0:3] Tensor"], ["config[0:3] Tensor"], ["config[0:3] File"]]);
}

#[test]
fn the_longest_headers_stay_below_the_bound() {
    let quotes = "\"".repeat(MAX_TENSOR_NAME_BYTES - 8);
    let far = 1 << 59;
    let mut slices: Vec<SliceId> = (0..MAX_PACK_SLICES)
        .map(|i| {
            let (mut offsets, mut shape) = (vec![0; MAX_DIMENSIONS], vec![1; MAX_DIMENSIONS]);
            (offsets[0], shape[0]) = (far, far + 70_000);
            let mut sizes = vec![1; MAX_DIMENSIONS];
            sizes[0] = 65_537;
            let area = TensorBox::new(offsets, sizes).unwrap();
            SliceId::tensor(&format!("{quotes}{i:08}"), Dtype::F8_E4M3FNUZ, &shape, area).unwrap()
        })
        .collect();
    slices.extend((0..40).map(|i| whole(&format!("long {i}"), Dtype::U8, &[MAX_SLICE_BYTES])));
    let packs = plan_packs(&slices, u64::MAX);
    assert!((2..16).contains(&packs.len()), "{} packs", packs.len());
    for pack in &packs {
        let bound: u64 = pack.iter().map(|&i| header_bound(&slices[i])).sum();
        let (header, _) = PackHeader::build(pack.iter().map(|&i| longest(&slices[i])).collect()).unwrap();
        assert!(header.header_len() <= bound + LARGE_ALIGNMENT + 128, "{} over {bound}", header.header_len());
    }
    const { assert!(MAX_FRAME_BYTES < 10_000_000, "the length of a frame has at most 7 digits") };
}

/// Slices with repeats of name, of whole slices, and of file and tensor names.
fn slices() -> impl Strategy<Value = Vec<SliceId>> {
    let one = (0u64..6, 0u64..3, 0u64..90, any::<bool>());
    let one = one.prop_map(|(name, row, len, file)| {
        let area = TensorBox::new(vec![row, 0], vec![1, len]).unwrap();
        match file {
            true => SliceId::file(&format!("n{name}"), len).unwrap(),
            false => SliceId::tensor(&format!("n{name}"), Dtype::U8, &[3, 90], area).unwrap(),
        }
    });
    prop::collection::vec(one, 0..40)
}

proptest! {
    #[test]
    fn every_slice_comes_once_and_in_the_same_pack_for_any_order(
        (slices, other) in slices().prop_flat_map(|list| (Just(list.clone()), Just(list).prop_shuffle())),
        target in 0u64..300,
    ) {
        let packs = plan_packs(&slices, target);
        let mut seen: Vec<usize> = packs.concat();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..slices.len()).collect::<Vec<_>>());
        prop_assert_eq!(named(&slices, target), named(&other, target));
        for pack in &packs {
            let bytes: u64 = pack.iter().map(|&i| slices[i].bytes()).sum();
            prop_assert!(bytes <= target || pack.len() == 1);
            prop_assert!(PackHeader::build(pack.iter().map(|&i| longest(&slices[i])).collect()).is_ok());
        }
    }

    #[test]
    fn the_bound_holds_for_any_slice(
        name in "[a\"\\\\é ]{1,40}", dims in prop::collection::vec(0u64..9, 0..6), dtype in 0..Dtype::ALL.len(),
    ) {
        let shape: Vec<u64> = dims.into_iter().chain([4]).collect();
        let slice = whole(&name, Dtype::ALL[dtype], &shape);
        let metadata = std::collections::BTreeMap::from([("format".to_owned(), "gigastore-pack-2".to_owned())]);
        let around = crate::tensor::header::write_header(&metadata, &[], 1).len() as u64;
        prop_assert!(around <= 128);
        let (_, bytes) = PackHeader::build(vec![longest(&slice)]).unwrap();
        let needed = bytes.iter().rposition(|byte| *byte != b' ').unwrap() as u64 + 1;
        prop_assert!(needed <= around + header_bound(&slice));
    }
}
