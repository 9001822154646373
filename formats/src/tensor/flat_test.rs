//! Tests of ranges of tensors against a list of all their bytes.

use proptest::prelude::*;

use super::*;

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end).unwrap()
}

/// Positions, among all elements, of those of a box, in order.
fn positions(shape: &[u64], area: &TensorBox) -> Vec<u64> {
    let mut all = vec![0];
    for ((row, offset), size) in shape.iter().zip(area.offsets()).zip(area.sizes()) {
        all = all.into_iter().flat_map(|at| (0..*size).map(move |i| at * row + offset + i)).collect();
    }
    all
}

/// A tensor of a few elements that make whole bytes.
fn tensors() -> impl Strategy<Value = (Dtype, Vec<u64>)> {
    let dtypes = [Dtype::F4, Dtype::F6_E2M3, Dtype::U8, Dtype::BF16, Dtype::F32, Dtype::C64];
    let tensor = (prop::sample::select(dtypes.to_vec()), prop::collection::vec(1u64..6, 0..5));
    tensor.prop_filter("whole bytes", |(dtype, shape)| dtype.bytes_of(shape.iter().product()).is_some())
}

proptest! {
    #[test]
    fn a_range_is_its_boxes_one_after_the_other((dtype, shape) in tensors(), a in 0u64..10_000, b in 0u64..10_000) {
        let flat = FlatTensor::new(dtype, &shape).unwrap();
        let len = flat.len();
        prop_assert_eq!(Some(len), dtype.bytes_of(shape.iter().product()));
        let (a, b) = (a % (len + 1), b % (len + 1));
        let wanted = range(a.min(b), a.max(b));
        let boxes = flat.boxes(wanted);
        prop_assert!(boxes.len() <= (2 * shape.len()).saturating_sub(1).max(1), "{} boxes", boxes.len());
        let bytes: Vec<u64> = boxes.iter().flat_map(|one| positions(&flat.bytes, one)).collect();
        prop_assert_eq!(bytes, (wanted.start()..wanted.end()).collect::<Vec<_>>());
        for one in &boxes {
            let elements = positions(&shape, &flat.around(one));
            let touched = positions(&flat.bytes, one);
            let has = |byte: &u64| (byte * 8..byte * 8 + 8).all(|bit| elements.contains(&(bit / dtype.bits())));
            prop_assert!(touched.iter().all(has), "{one} is not in {}", flat.around(one));
        }
    }

    #[test]
    fn a_box_of_elements_is_the_box_of_their_bytes(
        (dtype, shape) in tensors(), cuts in prop::collection::vec((0u64..6, 0u64..6), 5),
    ) {
        let flat = FlatTensor::new(dtype, &shape).unwrap();
        let offsets: Vec<u64> = shape.iter().zip(&cuts).map(|(size, (offset, _))| offset % size).collect();
        let rest = shape.iter().zip(&offsets).map(|(size, offset)| size - offset);
        let sizes = rest.zip(&cuts).map(|(rest, (_, count))| 1 + count % rest);
        let area = TensorBox::new(offsets.clone(), sizes.collect()).unwrap();
        let bits: Vec<u64> =
            positions(&shape, &area).into_iter().flat_map(|i| i * dtype.bits()..(i + 1) * dtype.bits()).collect();
        match flat.box_of(&area) {
            Ok(bytes) => {
                let expected: Vec<u64> =
                    positions(&flat.bytes, &bytes).into_iter().flat_map(|byte| byte * 8..byte * 8 + 8).collect();
                prop_assert_eq!(bits, expected);
            }
            Err(error) => {
                let narrow = dtype.bits() < 8 && matches!(error, BoxError::SubByte { .. });
                prop_assert!(narrow, "{error}");
            }
        }
    }
}

#[test]
fn a_range_of_a_huge_tensor_reads_no_more_than_it_asks_for() {
    let shape = [2, 1_000_000_000];
    let flat = FlatTensor::new(Dtype::F32, &shape).unwrap();
    let boxes = flat.boxes(range(3_999_999_990, 4_000_000_010));
    let texts: Vec<String> = boxes.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["[0:1,3999999990:4000000000]", "[1:2,0:10]"]);
    assert_eq!(flat.around(&boxes[0]).to_string(), "[0:1,999999997:1000000000]");
    // Rows that end inside a byte are joined, and a range is exact all the same.
    let odd = [2, 999_999_999];
    let flat = FlatTensor::new(Dtype::F4, &odd).unwrap();
    assert_eq!(flat.boxes(range(499_999_990, 500_000_010))[0].to_string(), "[499999990:500000010]");
    assert_eq!(flat.box_of(&TensorBox::whole(&odd).unwrap()).unwrap().to_string(), "[0:999999999]");
    let column = TensorBox::new(vec![0, 0], vec![2, 2]).unwrap();
    assert!(matches!(flat.box_of(&column), Err(BoxError::SubByte { .. })));
}

#[test]
fn scalars_and_tensors_without_elements() {
    let scalar = FlatTensor::new(Dtype::F32, &[]).unwrap();
    assert_eq!(scalar.boxes(range(1, 9))[0].to_string(), "[1:4]");
    assert_eq!(scalar.around(&scalar.boxes(range(1, 2))[0]).to_string(), "[]");
    for shape in [&[0, 1 << 63, 1 << 63][..], &[7, 0], &[0]] {
        let empty = FlatTensor::new(Dtype::F64, shape).unwrap();
        assert!(empty.is_empty() && empty.boxes(range(0, 10)).is_empty());
        assert_eq!(empty.box_of(&TensorBox::whole(shape).unwrap()).unwrap().elements(), 0);
    }
    assert!(FlatTensor::new(Dtype::F4, &[3]).is_err() && FlatTensor::new(Dtype::F64, &[1 << 62]).is_err());
}
