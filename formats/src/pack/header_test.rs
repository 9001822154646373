//! Tests of pack headers: one frozen form of each version, and every other one refused.

use proptest::prelude::*;

use super::*;
use crate::limits::MAX_SLICE_BYTES;
use crate::pack::Frames;
use crate::pack::sample::{Sample, coded, content, object, one_of_each, raw, samples, whole};
use crate::verified::{GroupTree, StreamHasher};

/// A pack of each version, and its name: header text, spaces at its end left out.
const FROZEN: [(PackVersion, &str, &str); 2] = [
    (
        PackVersion::One,
        include_str!("../../fixtures/pack-1.json"),
        "9dd4d9b38f05785083586fc72b2d7fd655c0a7a020544c24dcbe9151f76331d6",
    ),
    (
        PackVersion::Two,
        include_str!("../../fixtures/pack-2.json"),
        "0396820cfd176a5c691d23dac213659806b20299b6915a9cd109e327734d6169",
    ),
];

/// The slices of the frozen packs. Their frames are fixed bytes, for the compressor's may change with its version.
fn frozen(version: PackVersion) -> Vec<PackSlice> {
    let raw = |slice, content: &[u8]| {
        let mut hasher = StreamHasher::in_groups(version.group_bytes());
        hasher.update(content);
        PackSlice { slice, tree: hasher.finish(), coding: Coding::Raw }
    };
    let plain = raw(whole("a", Dtype::F32, &[3]), &[7; 12]);
    let groups = raw(whole("b \"q\"", Dtype::U8, &[(1 << 20) + 1]), &[1; (1 << 20) + 1]);
    let file = raw(SliceId::file("config.json", 2).unwrap(), b"{}");
    let coding = Coding::ZstdPlanes { stored: Digest::of(b"frames"), frames: [6].into_iter().collect() };
    let short = PackSlice { coding, ..raw(whole("c", Dtype::BF16, &[2, 8]), &[9; 32]) };
    vec![file, short, groups, plain]
}

/// Parses a header of this JSON under the name that its bytes have.
fn parse(json: &str) -> Result<PackHeader, PackError> {
    let mut bytes = [&[0; 8], json.as_bytes()].concat();
    bytes.resize(bytes.len().next_multiple_of(4096), b' ');
    let len = bytes.len() as u64 - 8;
    bytes[..8].copy_from_slice(&len.to_le_bytes());
    PackHeader::parse(Digest::of(&bytes), &bytes)
}

/// The JSON of a pack's header.
fn json(slices: Vec<PackSlice>) -> String {
    let (_, bytes) = PackHeader::build(slices).unwrap();
    std::str::from_utf8(&bytes[8..]).unwrap().trim_end_matches(' ').to_owned()
}

/// What parsing says of a pack of one small coded slice after a change of its text.
fn changed(from: &str, to: &str) -> PackError {
    let text = json(vec![coded(whole("w", Dtype::BF16, &[4, 8]), &content(1, 64)).0]);
    assert!(text.contains(from), "{from} is not in {text}");
    parse(&text.replace(from, to)).expect_err(from)
}

#[test]
fn packs_of_every_version_are_read_and_made() {
    for (version, text, name) in FROZEN {
        let (built, bytes) = PackHeader::build_as(version, frozen(version)).unwrap();
        assert_eq!(std::str::from_utf8(&bytes[8..]).unwrap().trim_end_matches(' '), text.trim_end());
        assert_eq!((built.name().to_string().as_str(), bytes.len()), (name, 4096));
        assert_eq!(parse(text.trim_end()).unwrap(), built);
    }
    assert_eq!(PackHeader::build(frozen(PackVersion::Two)).unwrap().0.name().to_string(), FROZEN[1].2);
}

#[test]
fn groups_are_those_of_the_version() {
    for (version, text, _) in FROZEN {
        let tree = |name: &str| {
            let header = parse(text.trim_end()).unwrap();
            header.entries().iter().find(|entry| entry.slice.slice.name() == name).unwrap().slice.tree.clone()
        };
        let long = tree("b \"q\"");
        assert_eq!((long.group_bytes(), tree("a").group_bytes()), (version.group_bytes(), version.group_bytes()));
        assert_eq!(long.groups(), ((1 << 20) + 1_u64).div_ceil(version.group_bytes()));
        for other in PackVersion::ALL.into_iter().filter(|other| *other != version) {
            let mixed = PackHeader::build_as(other, frozen(version)).unwrap_err();
            let PackError::Slice { source: PackSliceError::Tree { group, .. }, .. } = mixed else { panic!("{mixed}") };
            assert_eq!(group, version.group_bytes());
            let renamed = parse(&text.trim_end().replace(version.format(), other.format())).unwrap_err();
            assert!(matches!(renamed, PackError::Slice { source: PackSliceError::Groups(_), .. }), "{renamed}");
        }
    }
}

#[test]
fn slices_lie_on_their_borders_in_their_order() {
    let (header, object) = object(&one_of_each());
    let names: Vec<&str> = header.entries().iter().map(|entry| entry.slice.slice.name()).collect();
    let expected = ["coded.groups", "empty", "groups", "nibbles", "none", "part \"\\é", "scalar", "rng/state.bin"];
    assert_eq!(names, expected);
    for entry in header.entries() {
        let border = if entry.stored.len() >= LARGE_SLICE_BYTES { LARGE_ALIGNMENT } else { SMALL_ALIGNMENT };
        assert!(entry.stored.start().is_multiple_of(border), "{entry:?}");
        assert_eq!(header.find(&entry.slice.slice), Some(entry));
    }
    assert_eq!(header.find(&whole("scalar", Dtype::U64, &[])), None, "of another type");
    assert_eq!(header.find(&whole("other", Dtype::I64, &[])), None);
    let plain = SafetensorsHeader::parse(&object[..header.header_len() as usize], MAX_PACK_HEADER_BYTES).unwrap();
    assert!(plain.check_file_len(object.len() as u64).is_ok());
    let prefix = *object.first_chunk().unwrap();
    assert_eq!(PackHeader::len_from_prefix(prefix).unwrap(), header.header_len());
    assert!(matches!(PackHeader::len_from_prefix([255; 8]), Err(PackError::Header(HeaderError::TooLong { .. }))));
}

#[test]
fn stored_groups_are_found() {
    let (header, _) = object(&one_of_each());
    for entry in header.entries() {
        let count = entry.slice.tree.groups();
        assert_eq!(entry.stored_groups(0..count), entry.stored);
        let mut end = entry.stored.start();
        for group in 0..count {
            let range = entry.stored_groups(group..group + 1);
            assert_eq!(range.start(), end);
            end = range.end();
        }
        assert_eq!(end, entry.stored.end());
        assert!(entry.stored_groups(count..u64::MAX).is_empty());
        #[expect(clippy::reversed_empty_ranges, reason = "what a careless caller might ask for")]
        let backwards = entry.stored_groups(1..0);
        assert!(backwards.is_empty());
    }
}

#[test]
fn slices_that_can_not_be_stored_are_refused() {
    let build = |slices| PackHeader::build(slices).map(|_| ()).unwrap_err();
    let refused = |slice| match build(vec![slice]) {
        PackError::Slice { source, .. } => source,
        other => panic!("{other}"),
    };
    assert!(matches!(build(vec![]), PackError::Empty));
    let one = raw(whole("w", Dtype::U8, &[1]), &[0]).0;
    assert!(matches!(build(vec![one.clone(); MAX_PACK_SLICES + 1]), PackError::TooMany { .. }));
    assert!(matches!(build(vec![one.clone(), one.clone()]), PackError::Duplicate { entry } if entry == "w[0:1]"));
    let file = raw(SliceId::file("w", 1).unwrap(), &[0]).0;
    assert!(matches!(build(vec![one.clone(), file]), PackError::Duplicate { .. }));

    let long = PackSlice { slice: whole("w", Dtype::U8, &[MAX_SLICE_BYTES + 1]), ..one.clone() };
    assert!(matches!(refused(long), PackSliceError::TooLong { .. }));
    let other = PackSlice { tree: GroupTree::of(&[0; 2]), ..one.clone() };
    assert!(matches!(refused(other), PackSliceError::Tree { expected: 1, actual: 2, .. }));
    let small = PackSlice { tree: StreamHasher::in_groups(1024).finish(), ..raw(whole("w", Dtype::U8, &[0]), &[]).0 };
    assert!(matches!(refused(small), PackSliceError::Tree { .. }));
    let frames = |lens: Vec<u64>| {
        let frames = lens.into_iter().collect();
        PackSlice { coding: Coding::ZstdPlanes { stored: Digest::of(b""), frames }, ..one.clone() }
    };
    assert!(matches!(refused(frames(vec![])), PackSliceError::FrameCount { expected: 1, actual: 0 }));
    assert!(matches!(refused(frames(vec![9, 9])), PackSliceError::FrameCount { .. }));
    assert!(matches!(refused(frames(vec![0])), PackSliceError::FrameLength { .. }));
    assert!(matches!(refused(frames(vec![u64::MAX])), PackSliceError::FrameLength { .. }));
    let two = PackSlice { slice: whole("w", Dtype::U8, &[GROUP_BYTES + 1]), ..frames(vec![1, u64::MAX]) };
    let two = PackSlice { tree: GroupTree::of(&vec![0; GROUP_BYTES as usize + 1]), ..two };
    assert!(matches!(refused(two), PackSliceError::FrameLength { index: 1, .. }), "their sum is over 2^64");
    let none = raw(whole("w", Dtype::U8, &[0]), &[]).0;
    let none = PackSlice { coding: Coding::ZstdPlanes { stored: Digest::of(b""), frames: Frames::default() }, ..none };
    assert!(matches!(refused(none), PackSliceError::FrameCount { .. }));
}

#[test]
fn a_header_over_the_limit_is_refused() {
    let quotes = "\"".repeat(1000);
    let many = (0..1200).map(|i| raw(whole(&format!("{quotes}{i}"), Dtype::U8, &[1]), &[0]).0).collect();
    let refused = PackHeader::build(many).unwrap_err();
    assert!(matches!(refused, PackError::Header(HeaderError::TooLong { .. })), "{refused}");
}

#[test]
fn hostile_descriptions_are_refused() {
    let slice = |error| match error {
        PackError::Slice { source, .. } => source,
        other => panic!("{other}"),
    };
    let newer = changed("gigastore-pack-2", "gigastore-pack-3");
    assert!(matches!(&newer, PackError::Format { found: Some(_), .. }) && newer.is_newer());
    assert!(!changed("gigastore-pack-2", "pt").is_newer() && !parse("{}").unwrap_err().is_newer());
    assert!(matches!(parse("{}"), Err(PackError::Format { found: None, .. })));
    assert!(matches!(parse(r#"{"__metadata__":{"format":"gigastore-pack-1"}}"#), Err(PackError::Empty)));
    assert!(matches!(changed(r#"\"name\":\"w\""#, r#"\"name\":\"v\""#), PackError::EntryName { .. }));
    assert!(matches!(slice(changed(r#"\"name\":\"w\""#, r#"\"name\":\"\""#)), PackSliceError::Slice(_)));
    assert!(matches!(slice(changed("tensor", "file")), PackSliceError::Slice(_)));
    assert!(matches!(slice(changed("tensor", "tensors")), PackSliceError::Json(_)));
    assert!(matches!(slice(changed(r#"{\"kind\""#, r#"{\"more\":1,\"kind\""#)), PackSliceError::Json(_)));
    assert!(matches!(
        slice(changed(r#"{\"kind\":\"tensor\""#, r#"{\"kind\":\"tensor\",\"kind\":\"tensor\""#)),
        PackSliceError::Json(_)
    ));
    assert!(matches!(
        slice(changed(r#"\"global_offsets\":[0,0]"#, r#"\"global_offsets\":[0,1]"#)),
        PackSliceError::Slice(_)
    ));
    assert!(matches!(
        slice(changed(r#"\"global_offsets\":[0,0]"#, r#"\"global_offsets\":[0]"#)),
        PackSliceError::Slice(_)
    ));
    assert!(matches!(slice(changed(r#"\"codec\""#, r#"\"groups\":\"00\",\"codec\""#)), PackSliceError::Groups(_)));
    assert!(matches!(
        slice(changed("zstd_planes", "raw")),
        PackSliceError::Fields { codec: crate::pack::codec::Codec::Raw }
    ));
    assert!(matches!(slice(changed(r#"\"frames\":["#, r#"\"frames\":[1,"#)), PackSliceError::FrameCount { .. }));
    assert!(matches!(slice(changed(r#"\"frames\":["#, r#"\"frames\":[1"#)), PackSliceError::FrameLength { .. }));
    assert!(matches!(changed(r#"{\"kind\""#, r#"{ \"kind\""#), PackError::Form));
}

#[test]
fn entries_that_the_slices_do_not_make_are_refused() {
    let (small, one) = (raw(whole("a", Dtype::U8, &[3]), &[1; 3]).0, raw(whole("b", Dtype::U8, &[1]), &[1]).0);
    let text = json(vec![small, one]);
    let refused = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} is not in {text}");
        parse(&text.replacen(from, to, 1)).expect_err(from)
    };
    let pad = r#""__pad__.0":{"dtype":"U8","shape":[61],"data_offsets":[3,64]},"#;
    let last = r#","b[0:1]":{"dtype":"U8","shape":[1],"data_offsets":[64,65]}"#;
    assert!(matches!(refused("__pad__.0", "__pad__.1"), PackError::Entry { index: 1, .. }));
    assert!(matches!(refused("__pad__.0", "hidden"), PackError::Entry { index: 1, .. }));
    assert!(matches!(refused(last, ""), PackError::Entry { index: 2, .. }));
    let more = format!(r#"{last},"more":{{"dtype":"U8","shape":[1],"data_offsets":[65,66]}}"#);
    assert!(matches!(refused(last, &more), PackError::Entry { index: 3, .. }));
    assert!(matches!(refused(pad, ""), PackError::Header(HeaderError::Place { .. })));
    let signed = r#""a[0:3]":{"dtype":"I8""#;
    assert!(matches!(refused(r#""a[0:3]":{"dtype":"U8""#, signed), PackError::Entry { index: 0, .. }));
    assert!(matches!(refused(r#"{"__metadata__""#, r#"{ "__metadata__""#), PackError::Form));
    let twice = format!("{pad}{pad}");
    assert!(parse(&text.replace(pad, &twice)).is_err());
    assert!(matches!(parse(&format!("{text}{}", " ".repeat(4096))), Err(PackError::Form)), "too many spaces");
}

#[test]
fn a_header_is_first_of_all_held_against_the_name() {
    let (header, bytes) = PackHeader::build(frozen(PackVersion::Two)).unwrap();
    for (at, byte) in [(0, 1), (100, 2), (4095, 4)] {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= byte;
        let refused = PackHeader::parse(header.name(), &damaged).unwrap_err();
        assert!(matches!(refused, PackError::Name { expected, .. } if expected == header.name()), "{refused}");
    }
    assert!(matches!(PackHeader::parse(header.name(), b""), Err(PackError::Name { .. })));
    assert!(matches!(PackHeader::parse(Digest::of(b""), b""), Err(PackError::Header(HeaderError::Length { .. }))));
}

proptest! {
    #[test]
    fn headers_round_trip_whatever_the_order_of_the_slices(
        (list, other) in samples().prop_flat_map(|list: Vec<Sample>| (Just(list.clone()), Just(list).prop_shuffle())),
    ) {
        let slices = |list: Vec<Sample>| list.into_iter().map(|sample| sample.0).collect();
        let (header, bytes) = PackHeader::build(slices(list)).unwrap();
        prop_assert_eq!(PackHeader::parse(header.name(), &bytes).unwrap(), header.clone());
        prop_assert_eq!(PackHeader::build(slices(other)).unwrap().0, header);
    }

    #[test]
    fn a_damaged_header_under_its_own_name_never_panics(
        list in samples(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let (header, bytes) = PackHeader::build(list.into_iter().map(|sample| sample.0).collect()).unwrap();
        let text = bytes.iter().rposition(|byte| *byte != b' ').unwrap();
        let mut damaged = bytes.to_vec();
        damaged[at.index(text)] = byte;
        if let Ok(other) = PackHeader::parse(Digest::of(&damaged), &damaged) {
            prop_assert_eq!(other.header_len(), header.header_len());
        }
    }
}
