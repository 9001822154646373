//! Tests of codecs: every group comes back, and no frame yields more than was asked for.

use proptest::prelude::*;

use super::*;

/// Bytes that look random to zstd, from a seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// F32 elements of like magnitude: random low bytes under repeating high ones.
fn weights(len: usize) -> Vec<u8> {
    let mut bytes = noise(7, len);
    bytes.as_chunks_mut::<4>().0.iter_mut().for_each(|element| element[3] = 0x3c);
    bytes
}

/// Chooses as a save does.
fn choose(dtype: Dtype, content: &[u8]) -> Codec {
    let groups: Vec<&[u8]> = content.chunks(GROUP_BYTES as usize).collect();
    let sample = sampled_groups(content.len() as u64).into_iter().map(|index| groups[index as usize]);
    let (logical, stored) = sample.fold((0, 0), |(logical, stored), group| {
        (logical + group.len() as u64, stored + encode_group(dtype, group).len() as u64)
    });
    if worth_coding(logical, stored) { Codec::ZstdPlanes } else { Codec::Raw }
}

#[test]
fn a_codec_is_chosen_by_what_it_gains() {
    let group = GROUP_BYTES as usize;
    assert_eq!(choose(Dtype::F32, &weights(2 * group)), Codec::ZstdPlanes);
    assert_eq!(choose(Dtype::F32, &noise(1, 2 * group)), Codec::Raw);
    assert_eq!(choose(Dtype::F32, &[]), Codec::Raw);
    assert_eq!(choose(Dtype::F32, &[0; MIN_CODED_BYTES as usize - 1]), Codec::Raw);
    assert_eq!(choose(Dtype::F32, &[0; MIN_CODED_BYTES as usize]), Codec::ZstdPlanes);
    // Two of the three sampled groups are noise, one is zeros: 67 % pays.
    let mixed = [noise(1, group), vec![0; group], noise(2, group)].concat();
    assert_eq!(choose(Dtype::U8, &mixed), Codec::ZstdPlanes);
    assert_eq!(sampled_groups(10 * GROUP_BYTES + 1), [0, 5, 10]);
    assert_eq!(sampled_groups(2 * GROUP_BYTES), [0, 1]);
}

#[test]
fn a_frame_never_yields_more_than_its_group_has() {
    let zeros = vec![0; 64 << 20];
    let bomb = zstd::bulk::compress(&zeros, 1).unwrap();
    assert!(bomb.len() < 8192, "64 MiB of zeros shrink to {}", bomb.len());
    for len in [0, 1, 100_000, PACK_1_GROUP_BYTES] {
        let refused = decode_group(&bomb, Dtype::U8, len).unwrap_err();
        assert!(matches!(refused, CodecError::Zstd { .. } | CodecError::FrameLength { .. }), "{refused}");
    }
    let refused = decode_group(&bomb, Dtype::U8, u64::MAX).unwrap_err();
    assert_eq!(refused, CodecError::GroupLength { actual: u64::MAX });
}

#[test]
fn frames_of_version_1_are_still_decoded() {
    // An encoder may make other frames of the same group one day; what is stored must decode for ever.
    // The first is all compressed, the second has its planes of noise as they are.
    let all: &[u8] = include_bytes!("../../fixtures/coded-1.zst");
    let some: &[u8] = include_bytes!("../../fixtures/coded-1-stored.zst");
    for frozen in [all, some] {
        assert!(decode_group(frozen, Dtype::F32, 4002) == Ok(weights(4002)), "planes of noise, and one of a constant");
        let shorter = frozen.len() * 100 / 4002;
        assert!(shorter < 80, "{shorter} %");
    }
}

#[test]
fn noise_is_stored_and_what_repeats_is_not() {
    let half = 1 << 19;
    // BF16 with noise for low bytes: they stay as they are; the constant high ones take next to nothing.
    let noisy: Vec<u8> = noise(3, half).into_iter().flat_map(|low| [low, 0x3c]).collect();
    let frame = encode_group(Dtype::BF16, &noisy);
    assert!(frame.len() < half + 300, "{} bytes", frame.len());
    assert!(frame.windows(64).any(|window| *window == noise(3, 64)[..]), "the noise lies in it as it is");
    // Numbers that count up have even counts in their low bytes, and shrink all the same.
    let counted: Vec<u8> = (0..1u64 << 17).flat_map(u64::to_le_bytes).collect();
    assert!(encode_group(Dtype::I64, &counted).len() < 1 << 14);
    // Any reader of zstd reads the frame.
    for (dtype, group) in [(Dtype::BF16, &noisy), (Dtype::I64, &counted)] {
        let planes = zstd::bulk::decompress(&encode_group(dtype, group), group.len()).unwrap();
        assert_eq!(&join_planes(width(dtype), &planes), group, "{dtype}");
    }
}

#[test]
fn what_is_not_the_frame_of_the_group_is_refused() {
    let group = weights(4000);
    let frame = encode_group(Dtype::F32, &group);
    assert!(matches!(decode_group(&frame, Dtype::F32, 4001), Err(CodecError::Short { expected: 4001, actual: 4000 })));
    assert!(matches!(decode_group(&frame, Dtype::F32, 3999), Err(CodecError::Zstd { .. })));
    let two = [frame.clone(), encode_group(Dtype::F32, &[])].concat();
    assert!(matches!(decode_group(&two, Dtype::F32, 4000), Err(CodecError::NotOneFrame { .. })));
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9], frame.as_slice()].concat();
    assert!(matches!(decode_group(&skippable, Dtype::F32, 4000), Err(CodecError::NotOneFrame { actual: 9, .. })));
    let long = vec![0; frame_bound(4000) as usize + 1];
    assert!(matches!(decode_group(&long, Dtype::F32, 4000), Err(CodecError::FrameLength { .. })));
    for len in 0..frame.len() {
        assert!(decode_group(&frame[..len], Dtype::F32, 4000).is_err(), "cut at {len}");
    }
}

#[test]
fn the_bound_is_that_of_zstd() {
    for len in [0, 1, 1000, (128 << 10) - 1, 128 << 10, 500_000, 1 << 20] {
        assert_eq!(frame_bound(len), zstd_safe::compress_bound(len as usize) as u64, "length {len}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn groups_round_trip(seed in any::<u64>(), len in 0usize..70_000, dtype in 0..Dtype::ALL.len(), shift in 0u32..8) {
        let dtype = Dtype::ALL[dtype];
        let group: Vec<u8> = noise(seed, len).iter().map(|byte| byte >> shift).collect();
        let frame = encode_group(dtype, &group);
        prop_assert!(frame.len() as u64 <= frame_bound(len as u64));
        prop_assert_eq!(decode_group(&frame, dtype, len as u64), Ok(group));
    }

    #[test]
    fn damaged_frames_never_panic(
        seed in any::<u64>(), len in 1usize..3000, at in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let group: Vec<u8> = noise(seed, len).iter().map(|byte| byte >> 4).collect();
        let mut frame = encode_group(Dtype::BF16, &group);
        let at = at.index(frame.len());
        frame[at] ^= 1 << bit;
        if let Ok(decoded) = decode_group(&frame, Dtype::BF16, len as u64) {
            prop_assert_eq!(decoded.len(), len);
        }
        let _ = decode_group(&noise(seed, len), Dtype::BF16, PACK_1_GROUP_BYTES);
    }
}
