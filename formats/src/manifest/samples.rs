//! Rows for the tests of manifests: fixed ones that fixtures hold, and drawn ones.
//!
//! Must never change the fixed ones: the fixtures of version 1 were written from them.

/// The bytes that a fixture's rows are written as since lists of few rows are not compressed.
macro_rules! written {
    ($fixture:literal) => {
        bytes::Bytes::from_static(include_bytes!(concat!("../../fixtures/plain/", $fixture, ".parquet")))
    };
}

pub(super) use written;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::Cursors;
use crate::digest::Digest;
use crate::object::Stored;
use crate::order::{
    ALGORITHM, CURSOR_FORMAT, Cursor, OrderSpec, Packing, Seen, SeenDigest, SourceCursor, Unit, Weight,
};
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

/// The cursor of a stream that is `number` epochs on.
pub(super) fn cursor(number: u64) -> Cursor {
    let source = SourceCursor {
        dataset: "demo/web@3".to_owned(),
        order: digest(17).into(),
        spec: OrderSpec { seed: Some(7), lanes: 2, window: 4, packing: Packing::Concat { seq_len: 2048 } },
        weight: Weight::of(&[1.0]).unwrap()[0],
        weighed: 2_048_000 * number,
        samples: 1000 * number,
        counted: 2_048_000 * number,
        epoch: number,
        next: 1,
        lanes: vec![(3, 14), (3, 15)],
    };
    let digest = SeenDigest::try_from(digest(number).to_string()).unwrap();
    let seen = Seen { digest, samples: 1000 * number, tokens: 2_047_000 * number, documents: 9, missing: 1000 };
    Cursor {
        format: CURSOR_FORMAT.to_owned(),
        algorithm: ALGORITHM,
        samples: 1000 * number,
        unit: Unit::Tokens,
        counted: 2_048_000 * number,
        sources: vec![source],
        seen,
    }
}

/// Any cursors.
pub(super) fn any_cursors() -> impl Strategy<Value = Cursors> {
    let source = (".{0,8}", any::<Option<u64>>(), any::<[u64; 5]>(), prop::collection::vec(any::<(u32, u32)>(), 0..9));
    let source = source.prop_map(|(dataset, seed, [weighed, samples, counted, epoch, next], lanes)| {
        let spec = OrderSpec { seed, lanes: next as u32, window: 1, packing: Packing::Documents };
        let next = next as u32;
        SourceCursor { dataset, spec, weighed, samples, counted, epoch, next, lanes, ..cursor(1).sources[0].clone() }
    });
    let one = (prop::collection::vec(source, 0..3), any::<[u64; 6]>());
    let one = one.prop_map(|(sources, [samples, counted, seen, tokens, documents, missing])| {
        let seen = Seen { samples: seen, tokens, documents, missing, ..cursor(seen % 7).seen };
        Cursor { samples, counted, sources, seen, ..cursor(1) }
    });
    prop::collection::btree_map("[a-z0-9][a-z0-9_-]{0,9}", one, 0..3)
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
