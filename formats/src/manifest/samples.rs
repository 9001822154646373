//! Rows for the tests of manifests: fixed ones that fixtures hold, and drawn ones.
//!
//! Must never change the fixed ones: the fixtures of version 1 were written from them.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use crate::digest::Digest;
use crate::object::Stored;
use crate::tensor::boxes::TensorBox;
use crate::tensor::dtype::Dtype;
use crate::tensor::slice::{Codec, Place, SliceId, SliceRow};

/// A digest of nothing in particular.
pub(super) fn digest(number: u64) -> Digest {
    Digest::of(&number.to_le_bytes())
}

/// A map of one entry.
pub(super) fn note(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

fn place(slice: &SliceId, number: u64) -> Place<Stored> {
    let codec = if number.is_multiple_of(3) { Codec::ZstdPlanes } else { Codec::Raw };
    let stored_len = if codec == Codec::Raw { slice.bytes() } else { slice.bytes() / 2 };
    let pack = Stored { digest: digest(number / 100), epoch: number / 1000 };
    Place { pack, header_len: 4096, offset: 4096 + 64 * number, stored_len, codec }
}

/// `count` rows of matrices that are cut in four, one scalar and one file, sorted.
pub(super) fn rows(count: u64) -> Vec<SliceRow<Place<Stored>>> {
    let mut slices: Vec<SliceId> = (0..count)
        .map(|i| {
            let area = TensorBox::new(vec![2 * (i % 4), 0], vec![2, 16]).unwrap();
            SliceId::tensor(&format!("layers.{:06}.weight", i / 4), Dtype::BF16, &[8, 16], area).unwrap()
        })
        .collect();
    slices.push(SliceId::tensor("scalar", Dtype::F32, &[], TensorBox::whole(&[]).unwrap()).unwrap());
    slices.push(SliceId::file("tokenizer/config.json", 321).unwrap());
    let rows = slices.into_iter().enumerate();
    rows.map(|(i, slice)| SliceRow { blake3: digest(i as u64), place: place(&slice, i as u64), slice }).collect()
}

/// Any valid slice.
fn any_slice() -> impl Strategy<Value = SliceId> {
    let dims = prop::collection::vec((0u64..5, 1u64..4, 0u64..3), 0..4);
    let tensor = ("[a-zäß0-9. ]{1,12}", prop::sample::select(vec![Dtype::F32, Dtype::BOOL, Dtype::F8_E4M3]), dims)
        .prop_map(|(name, dtype, dims)| {
            let (offsets, sizes) = dims.iter().map(|(offset, size, _)| (*offset, *size)).unzip();
            let shape: Vec<u64> = dims.iter().map(|(offset, size, more)| offset + size + more).collect();
            SliceId::tensor(&name, dtype, &shape, TensorBox::new(offsets, sizes).unwrap()).unwrap()
        });
    prop_oneof![8 => tensor, 1 => ("[a-z]{1,6}", 0u64..1000).prop_map(|(path, len)| SliceId::file(&path, len).unwrap())]
}

/// Any sorted rows, with numbers to make places of.
pub(super) fn any_rows() -> impl Strategy<Value = Vec<SliceRow<Place<Stored>>>> {
    let row = (any_slice(), any::<u32>());
    prop::collection::vec(row, 0..40).prop_map(|list| {
        let mut rows: Vec<_> = list
            .into_iter()
            .map(|(slice, n)| SliceRow { blake3: digest(n.into()), place: place(&slice, n.into()), slice })
            .collect();
        rows.sort_by(|a, b| a.slice.order().cmp(&b.slice.order()));
        rows.dedup_by(|a, b| a.slice.order() == b.slice.order());
        rows
    })
}

/// Any user metadata.
pub(super) fn any_metadata() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(".{0,8}", ".{0,20}", 0..4)
}

/// Calls `read` with the file cut at every length, and with every byte changed: one bit of most, all bits of every
/// third. A cut file must be refused; what a changed one gives is `read`'s to check.
pub(super) fn damaged<T, E>(file: &[u8], mut read: impl FnMut(&Bytes) -> Result<T, E>) {
    for len in 0..file.len() {
        assert!(read(&Bytes::copy_from_slice(&file[..len])).is_err(), "cut at {len}");
    }
    for at in 0..file.len() {
        let mut bytes = file.to_vec();
        bytes[at] ^= if at % 3 == 0 { 0xff } else { 1 << (at % 8) };
        let _ = read(&bytes.into());
    }
}
