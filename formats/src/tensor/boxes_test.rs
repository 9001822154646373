//! Tests of boxes against element-by-element copies.

use proptest::prelude::*;

use super::*;

/// A shape of 1 to 4 dimensions and two boxes inside it.
fn shape_and_boxes() -> impl Strategy<Value = (Vec<u64>, TensorBox, TensorBox)> {
    let dim = (1u64..9).prop_flat_map(|n| {
        let part = (0..n, 1u64..9).prop_map(move |(o, s)| (o, s.min(n - o)));
        (Just(n), part.clone(), part)
    });
    prop::collection::vec(dim, 0..5).prop_map(|dims| {
        let shape = dims.iter().map(|d| d.0).collect();
        type Dim = (u64, (u64, u64), (u64, u64));
        let make = |f: fn(&Dim) -> (u64, u64)| {
            let (offsets, sizes) = dims.iter().map(f).unzip();
            TensorBox::new(offsets, sizes).unwrap()
        };
        (shape, make(|d| d.1), make(|d| d.2))
    })
}

/// The global index of every element of a box, row-major.
fn elements(shape: &[u64], of: &TensorBox) -> Vec<u64> {
    let mut list = vec![0u64];
    for (d, size) in shape.iter().enumerate() {
        list = list.iter().flat_map(|&base| (of.offsets()[d]..of.end(d)).map(move |i| base * size + i)).collect();
    }
    list
}

proptest! {
    #[test]
    fn runs_copy_what_an_element_by_element_copy_would((shape, saved, wanted) in shape_and_boxes(), cut in 1u64..64) {
        let from: Vec<u8> = elements(&shape, &saved).iter().flat_map(|&e| (e as u16).to_le_bytes()).collect();
        let want = elements(&shape, &wanted);
        let have = elements(&shape, &saved);
        let mut to = vec![0xff; want.len() * 2];
        match CopyPlan::new(Dtype::U16, &saved, &wanted).unwrap() {
            None => prop_assert!(want.iter().all(|e| !have.contains(e))),
            Some(plan) => {
                let mut copied = 0;
                // In windows of `cut` bytes, as groups are.
                for start in (0..from.len() as u64).step_by(cut as usize) {
                    let window = ByteRange::new(start, (start + cut).min(from.len() as u64)).unwrap();
                    let runs: Vec<Run> = plan.within(window).collect();
                    prop_assert_eq!(!runs.is_empty(), plan.touches(window));
                    for run in runs {
                        prop_assert!(run.from >= window.start() && run.from + run.len <= window.end());
                        let (a, b, n) = (run.from as usize, run.to as usize, run.len as usize);
                        to[b..b + n].copy_from_slice(&from[a..a + n]);
                        copied += run.len;
                    }
                }
                prop_assert_eq!(copied, plan.bytes());
                for (i, element) in want.iter().enumerate() {
                    let expected = if have.contains(element) { (*element as u16).to_le_bytes() } else { [0xff; 2] };
                    prop_assert_eq!(&to[2 * i..2 * i + 2], &expected[..]);
                }
            }
        }
    }

    #[test]
    fn splits_are_in_order_and_whole((shape, saved, _) in shape_and_boxes(), max in 1u64..200) {
        let pieces = saved.split(Dtype::F32, max).unwrap();
        let all: Vec<u64> = pieces.iter().flat_map(|p| elements(&shape, p)).collect();
        prop_assert_eq!(all, elements(&shape, &saved));
        for piece in &pieces {
            prop_assert!(piece.bytes(Dtype::F32).unwrap() <= max || piece.sizes().first().is_none_or(|n| *n == 1));
        }
    }

    #[test]
    fn text_round_trips((_, saved, _) in shape_and_boxes()) {
        prop_assert_eq!(saved.to_string().parse::<TensorBox>(), Ok(saved));
    }
}

#[test]
fn sub_byte_elements_are_cut_only_at_bytes() {
    let boxed = |o: u64, n: u64| TensorBox::new(vec![o], vec![n]).unwrap();
    assert!(CopyPlan::new(Dtype::F4, &boxed(0, 8), &boxed(2, 4)).unwrap().is_some());
    assert!(matches!(CopyPlan::new(Dtype::F4, &boxed(0, 8), &boxed(3, 4)), Err(BoxError::SubByte { .. })));
    let rows = TensorBox::new(vec![0, 0], vec![8, 3]).unwrap();
    assert!(rows.split(Dtype::F4, 4).unwrap().iter().all(|p| p.sizes()[0] % 2 == 0));
}

#[test]
fn hostile_numbers_are_refused() {
    assert_eq!(TensorBox::new(vec![u64::MAX], vec![1]), Err(BoxError::Overflow));
    assert_eq!(TensorBox::new(vec![0; 2], vec![1 << 40; 2]), Err(BoxError::Overflow));
    assert!(TensorBox::new(vec![0; 17], vec![1; 17]).is_err());
    assert!(TensorBox::new(vec![0], vec![]).is_err());
    for text in ["", "[", "[1]", "[2:1]", "[0:1,]", "[0:18446744073709551616]", "0:1"] {
        assert!(text.parse::<TensorBox>().is_err(), "{text} was taken for a box");
    }
    assert!(TensorBox::whole(&[4]).unwrap().check_within(&[3]).is_err());
}
