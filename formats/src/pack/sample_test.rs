//! Packs that the tests of this folder work on.

use proptest::prelude::*;

use super::codec::encode_group;
use super::{Coding, PackHeader, PackSlice};
use crate::digest::Digest;
use crate::limits::GROUP_BYTES;
use crate::tensor::boxes::TensorBox;
use crate::tensor::dtype::Dtype;
use crate::tensor::slice::SliceId;
use crate::verified::GroupTree;

/// A slice and its stored bytes.
pub(super) type Sample = (PackSlice, Vec<u8>);

/// A slice of no offset that is the whole of its tensor.
pub(super) fn whole(name: &str, dtype: Dtype, shape: &[u64]) -> SliceId {
    SliceId::tensor(name, dtype, shape, TensorBox::whole(shape).unwrap()).unwrap()
}

/// Content of `len` bytes that shrinks, but not to nothing.
pub(super) fn content(seed: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.iter_mut().for_each(|byte| *byte >>= 3);
    bytes
}

pub(super) fn raw(slice: SliceId, content: &[u8]) -> Sample {
    let tree = GroupTree::of(content);
    (PackSlice { slice, tree, coding: Coding::Raw }, content.to_vec())
}

pub(super) fn coded(slice: SliceId, content: &[u8]) -> Sample {
    let frames: Vec<Vec<u8>> =
        content.chunks(GROUP_BYTES as usize).map(|group| encode_group(slice.dtype(), group)).collect();
    with_frames(slice, content, &frames)
}

/// A coded slice whose tree is of `content`, and whose frames are others.
pub(super) fn with_frames(slice: SliceId, content: &[u8], frames: &[Vec<u8>]) -> Sample {
    let tree = GroupTree::of(content);
    let stored = frames.concat();
    let coding = Coding::ZstdPlanes {
        stored: Digest::of(&stored),
        frames: frames.iter().map(|frame| frame.len() as u64).collect(),
    };
    (PackSlice { slice, tree, coding }, stored)
}

/// The header and the whole object of a pack.
pub(super) fn object(samples: &[Sample]) -> (PackHeader, Vec<u8>) {
    let (header, bytes) = PackHeader::build(samples.iter().map(|sample| sample.0.clone()).collect()).unwrap();
    let mut object = bytes.to_vec();
    object.resize(header.object_len() as usize, 0);
    for (slice, stored) in samples {
        let place = header.find(&slice.slice).unwrap().stored;
        object[place.start() as usize..place.end() as usize].copy_from_slice(stored);
    }
    (header, object)
}

/// One of each: several groups, large and small, raw and coded, narrower than a byte, a scalar, a file, no bytes at
/// all.
pub(super) fn one_of_each() -> Vec<Sample> {
    let groups = whole("groups", Dtype::F32, &[(GROUP_BYTES + 4096) / 4]);
    let part = TensorBox::new(vec![8, 0], vec![4, 6]).unwrap();
    let part = SliceId::tensor("part \"\\é", Dtype::BF16, &[16, 6], part).unwrap();
    let bytes = |slice: SliceId, seed| (slice.clone(), content(seed, slice.bytes()));
    let (a, a_bytes) = bytes(whole("coded.groups", Dtype::BF16, &[3, GROUP_BYTES / 4]), 1);
    let (b, b_bytes) = bytes(groups, 2);
    let (c, c_bytes) = bytes(part, 3);
    let (d, d_bytes) = bytes(whole("nibbles", Dtype::F4, &[3, 6]), 4);
    let (e, e_bytes) = bytes(whole("scalar", Dtype::I64, &[]), 5);
    let (f, f_bytes) = bytes(SliceId::file("rng/state.bin", 700).unwrap(), 6);
    vec![
        coded(a, &a_bytes),
        raw(b, &b_bytes),
        raw(c, &c_bytes),
        coded(d, &d_bytes),
        raw(e, &e_bytes),
        raw(f, &f_bytes),
        raw(whole("empty", Dtype::F64, &[0, 4]), &[]),
        raw(whole("none", Dtype::U8, &[0]), &[]),
    ]
}

/// Any small pack: up to a dozen slices of distinct names.
pub(super) fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let shape = prop::collection::vec((0u64..7, 0u64..3, 0u64..3), 0..3);
    let one = (0..Dtype::ALL.len(), shape, 0u64..300, any::<bool>(), any::<u64>(), "[a-z\"\\\\é]{0,5}");
    prop::collection::vec(one, 1..12).prop_map(|list| {
        let each = list.into_iter().enumerate().map(|(i, (dtype, dims, last, compress, seed, name))| {
            let dtype = Dtype::ALL[dtype];
            // The last dimension is a multiple of 4, so that elements narrower than a byte fill whole bytes.
            let (mut global, mut offsets, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
            for (size, before, after) in dims.into_iter().chain([(4 * last, 0, 4)]) {
                global.push(before + size + after);
                offsets.push(before);
                sizes.push(size);
            }
            let area = TensorBox::new(offsets, sizes).unwrap();
            let slice = SliceId::tensor(&format!("{name}{i}"), dtype, &global, area).unwrap();
            let bytes = content(seed, slice.bytes());
            if compress && !bytes.is_empty() { coded(slice, &bytes) } else { raw(slice, &bytes) }
        });
        each.collect()
    })
}
