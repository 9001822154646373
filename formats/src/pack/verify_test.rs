//! Tests of the check of packs: what was built passes in pieces of any size, and no damage does.

use proptest::prelude::*;

use super::*;
use crate::limits::GROUP_BYTES;
use crate::pack::PackError;
use crate::pack::codec::encode_group;
use crate::pack::sample::{coded, content, object, one_of_each, raw, samples, whole, with_frames};
use crate::tensor::dtype::Dtype;

/// Checks what follows the header in pieces of `step` bytes.
fn check(header: &PackHeader, object: &[u8], step: usize) -> Result<(), PackDamage> {
    let mut check = PackCheck::new(header.clone());
    for piece in object[header.header_len() as usize..].chunks(step) {
        check.update(piece)?;
    }
    check.finish()
}

/// A receiver that knows nothing but the pack's name.
fn receive(name: Digest, object: &[u8]) -> Result<(), String> {
    let prefix = object.first_chunk().ok_or("cut")?;
    let len = PackHeader::len_from_prefix(*prefix).map_err(|e| e.to_string())? as usize;
    let header = PackHeader::parse(name, object.get(..len).ok_or("cut")?).map_err(|e: PackError| e.to_string())?;
    check(&header, object, 64).map_err(|e| e.to_string())
}

#[test]
fn a_pack_of_everything_passes_in_pieces_of_any_size() {
    let (header, object) = object(&one_of_each());
    for step in [1, 63, 4096, 100_000, object.len()] {
        assert_eq!(check(&header, &object, step), Ok(()), "pieces of {step}");
    }
}

#[test]
fn every_changed_byte_of_a_pack_is_seen() {
    let part = whole("b", Dtype::F32, &[60]);
    let (header, object) = object(&[
        raw(whole("a", Dtype::U8, &[5]), b"hello"),
        coded(part, &content(3, 240)),
        raw(whole("c", Dtype::F4, &[10]), &[1, 2, 3, 4, 5]),
        raw(whole("d", Dtype::F64, &[0]), &[]),
    ]);
    assert_eq!(receive(header.name(), &object), Ok(()));
    let mut damaged = object.clone();
    for at in 0..object.len() {
        for bit in if at < header.header_len() as usize { 0..1 } else { 0..8 } {
            damaged[at] ^= 1 << bit;
            assert!(receive(header.name(), &damaged).is_err(), "bit {bit} of byte {at}");
            damaged[at] ^= 1 << bit;
        }
    }
    for len in 0..object.len() {
        assert!(receive(header.name(), &object[..len]).is_err(), "cut at {len}");
    }
    let long = [object.as_slice(), &[0]].concat();
    assert!(receive(header.name(), &long).is_err());
}

#[test]
fn damage_says_where_it_is() {
    let (header, object) = object(&one_of_each());
    let place = |name: &str| header.entries().iter().find(|e| e.slice.slice.name() == name).unwrap();
    let damage = |at: u64| {
        let mut damaged = object.clone();
        damaged[at as usize] ^= 1;
        check(&header, &damaged, 1000).unwrap_err()
    };
    let groups = place("groups");
    let found = damage(groups.stored.end() - 1);
    assert_eq!(found.slice.as_deref(), Some("groups[0:66560]"));
    assert_eq!(found.range, groups.stored_groups(1..2));
    let PackFault::Group { index: 1, expected, actual } = *found.fault else { panic!("{found}") };
    assert_eq!(expected.as_bytes(), &groups.slice.tree.values()[1]);
    assert_ne!(expected, actual);
    let text = found.to_string();
    assert!(text.contains(&header.name().to_string()) && text.contains("\"groups[0:66560]\""), "{text}");

    let frames = place("coded.groups");
    let found = damage(frames.stored_groups(1..2).start());
    assert_eq!((found.range, found.slice.is_some()), (frames.stored_groups(1..2), true));
    assert!(matches!(*found.fault, PackFault::Frame { index: 1, .. }), "{found}");

    let pad = header.pads()[0];
    let found = damage(pad.start());
    assert_eq!((found.slice, found.range), (None, pad));
    assert_eq!(*found.fault, PackFault::Pad { position: pad.start(), found: 1 });
}

#[test]
fn objects_that_are_too_short_or_too_long_say_so() {
    let (header, object) =
        object(&[raw(whole("a", Dtype::U8, &[5]), b"hello"), raw(whole("b", Dtype::U8, &[1]), b"x")]);
    let expected = header.object_len();
    let short = check(&header, &object[..object.len() - 1], 7).unwrap_err();
    assert_eq!(*short.fault, PackFault::Short { expected, actual: expected - 1 });
    let none = PackCheck::new(header.clone()).finish().unwrap_err();
    assert_eq!(*none.fault, PackFault::Short { expected, actual: header.header_len() });
    let long = [object.as_slice(), &[0, 0]].concat();
    let long = check(&header, &long, 1000).unwrap_err();
    assert_eq!((long.range.len(), *long.fault), (2, PackFault::Long { expected }));
}

#[test]
fn slices_without_bytes_are_checked_too() {
    let (mut empty, _) = raw(whole("a", Dtype::U8, &[0]), &[]);
    let (header, whole_object) = object(&[(empty.clone(), Vec::new())]);
    assert_eq!(check(&header, &whole_object, 1), Ok(()));
    empty.tree = crate::verified::GroupTree::single(0, Digest::of(b"something")).unwrap();
    let (header, whole_object) = object(&[(empty, Vec::new())]);
    let found = check(&header, &whole_object, 1).unwrap_err();
    assert!(matches!(*found.fault, PackFault::Group { .. }), "{found}");
}

#[test]
fn a_bomb_is_stopped_at_the_size_of_its_group() {
    let bomb = zstd::bulk::compress(&vec![0; 16 << 20], 1).unwrap();
    let slice = whole("a", Dtype::U8, &[100_000]);
    let (header, object) = object(&[with_frames(slice, &[0; 100_000], &[bomb])]);
    let found = check(&header, &object, 100).unwrap_err();
    let PackFault::Frame { index: 0, source: CodecError::Zstd { expected: 100_000, .. } } = *found.fault else {
        panic!("{found}")
    };
}

#[test]
fn frames_of_other_content_are_refused() {
    let slice = whole("a", Dtype::BF16, &[500]);
    let right = content(1, 1000);
    let (header, whole_object) =
        object(&[with_frames(slice.clone(), &right, &[encode_group(Dtype::BF16, &content(2, 1000))])]);
    let found = check(&header, &whole_object, 100).unwrap_err();
    assert!(matches!(*found.fault, PackFault::Group { index: 0, .. }), "{found}");

    // The frame decodes to the right group, but is not the one whose digest the header has.
    let (mut other, stored) = coded(slice, &right);
    if let Coding::ZstdPlanes { stored, .. } = &mut other.coding {
        *stored = Digest::of(b"another frame");
    }
    let (header, whole_object) = object(&[(other, stored.clone())]);
    let found = check(&header, &whole_object, 100).unwrap_err();
    let expected = PackFault::Stored { expected: Digest::of(b"another frame"), actual: Digest::of(&stored) };
    assert_eq!(*found.fault, expected);
}

#[test]
fn damage_is_final() {
    let (header, object) = object(&one_of_each());
    let mut damaged = object.clone();
    damaged[header.header_len() as usize] ^= 1;
    let mut check = PackCheck::new(header.clone());
    let body = header.header_len() as usize..;
    let found = check.update(&damaged[body.clone()]).unwrap_err();
    assert_eq!(check.update(&object[body]), Err(found.clone()));
    assert_eq!(check.update(&[]), Err(found.clone()));
    assert_eq!(check.finish(), Err(found));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_pack_passes_and_no_change_of_it_does(
        list in samples(), step in 1usize..500, at in any::<prop::sample::Index>(), bit in 0u8..8,
        cut in any::<prop::sample::Index>(),
    ) {
        let (header, object) = object(&list);
        let parsed = PackHeader::parse(header.name(), &object[..header.header_len() as usize]).unwrap();
        prop_assert_eq!(check(&parsed, &object, step), Ok(()));
        let body = object.len() - header.header_len() as usize;
        if body > 0 {
            let start = header.header_len() as usize;
            let mut damaged = object.clone();
            damaged[start + at.index(body)] ^= 1 << bit;
            prop_assert!(check(&header, &damaged, step).is_err());
            prop_assert!(check(&header, &object[..start + cut.index(body)], step).is_err());
        }
    }

    #[test]
    fn any_bytes_at_all_never_panic(seed in any::<u64>(), len in 0u64..5000, step in 1usize..2000) {
        let slice = whole("a", Dtype::F32, &[GROUP_BYTES / 4 + 1]);
        let (header, object) = object(&[coded(slice, &content(1, GROUP_BYTES + 4))]);
        let header_bytes = &object[..header.header_len() as usize];
        prop_assert!(check(&header, &[header_bytes, &content(seed, len)].concat(), step).is_err());
    }
}
