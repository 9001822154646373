//! Tests of safetensors headers: one written form, and every hostile one refused.

use proptest::prelude::*;

use super::*;

const LIMIT: u64 = 1 << 20;

fn info(dtype: Dtype, shape: &[u64], start: u64, end: u64) -> TensorInfo {
    TensorInfo { dtype, shape: shape.to_vec(), data: ByteRange::new(start, end).unwrap() }
}

fn with_prefix(json: &[u8]) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes(), json].concat()
}

fn parse(json: &str) -> Result<SafetensorsHeader, HeaderError> {
    SafetensorsHeader::parse(&with_prefix(json.as_bytes()), LIMIT)
}

/// One entry of the JSON.
fn entry(name: &str, dtype: &str, shape: &str, start: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

fn refused(json: &str) -> HeaderError {
    parse(json).expect_err(json)
}

#[test]
fn the_written_form_is_frozen_and_aligned() {
    let metadata = BTreeMap::from([("format".to_owned(), "pt\"x".to_owned())]);
    let tensors = [
        ("a".to_owned(), info(Dtype::F32, &[2, 3], 0, 24)),
        ("é\\".to_owned(), info(Dtype::F4, &[6], 24, 27)),
        ("s".to_owned(), info(Dtype::BOOL, &[], 27, 28)),
    ];
    let bytes = write_header(&metadata, &tensors, 64);
    let json = concat!(
        r#"{"__metadata__":{"format":"pt\"x"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"#,
        r#""é\\":{"dtype":"F4","shape":[6],"data_offsets":[24,27]},"#,
        r#""s":{"dtype":"BOOL","shape":[],"data_offsets":[27,28]}}"#,
    );
    let text = std::str::from_utf8(&bytes[8..]).unwrap();
    assert_eq!(text.trim_end_matches(' '), json);
    assert_eq!(bytes.len() % 64, 0);
    let header = SafetensorsHeader::parse(&bytes, LIMIT).unwrap();
    assert_eq!(header, SafetensorsHeader { tensors: tensors.to_vec(), metadata, header_len: bytes.len() as u64 });
    assert_eq!(header.data_len(), 28);
    assert!(header.check_file_len(bytes.len() as u64 + 28).is_ok());
    for wrong in [27, 29] {
        let refused = header.check_file_len(bytes.len() as u64 + wrong).unwrap_err();
        assert!(matches!(refused, HeaderError::FileLength { .. }), "{refused}");
    }
}

#[test]
fn tensors_come_in_the_order_of_their_data() {
    let json =
        [entry("z", "U8", "[3]", 4, 7), entry("b", "F32", "[]", 0, 4), entry("e", "F32", "[0,7]", 4, 4)].join(",");
    let header = parse(&format!("{{{json}}}  ")).unwrap();
    assert_eq!(header.tensors.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b", "e", "z"]);
    assert_eq!(parse("{}").unwrap().data_len(), 0);
    assert_eq!(parse(r#"{"__metadata__":null}"#).unwrap().metadata.len(), 0);
}

#[test]
fn lengths_are_checked_before_anything_else() {
    assert!(matches!(header_len(u64::MAX.to_le_bytes(), LIMIT), Err(HeaderError::TooLong { .. })));
    assert!(matches!(header_len((LIMIT - 7).to_le_bytes(), LIMIT), Err(HeaderError::TooLong { .. })));
    assert_eq!(header_len((LIMIT - 8).to_le_bytes(), LIMIT).unwrap(), LIMIT);
    let whole = with_prefix(b"{}");
    for len in 0..whole.len() {
        let refused = SafetensorsHeader::parse(&whole[..len], LIMIT).unwrap_err();
        assert!(matches!(refused, HeaderError::Length { .. }), "{refused}");
    }
    let long = [whole.as_slice(), b" "].concat();
    assert!(matches!(SafetensorsHeader::parse(&long, LIMIT), Err(HeaderError::Length { expected: 10, actual: 11 })));
    assert!(matches!(SafetensorsHeader::parse(&whole, 9), Err(HeaderError::TooLong { limit: 9, actual: 10 })));
}

#[test]
fn what_is_not_json_of_the_form_is_refused() {
    let bytes = with_prefix(b"{\"\xff\":1}");
    assert!(matches!(SafetensorsHeader::parse(&bytes, LIMIT), Err(HeaderError::NotUtf8(_))));
    assert!(matches!(refused(""), HeaderError::Start { found: None }));
    assert!(matches!(refused(" {}"), HeaderError::Start { found: Some(' ') }));
    assert!(matches!(refused("[]"), HeaderError::Start { .. }));
    let deep = format!(r#"{{"a":{{"dtype":"U8","shape":{}"#, "[".repeat(400_000));
    for json in [
        "{",
        "{}{}",
        "{}x",
        r#"{"a":1}"#,
        r#"{"__metadata__":{"a":1}}"#,
        r#"{"a":{"dtype":"U8","shape":[1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":0}}"#,
        r#"{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
        &deep,
    ] {
        assert!(matches!(parse(json), Err(HeaderError::Json(_))), "{}", &json[..json.len().min(80)]);
    }
}

#[test]
fn names_that_stand_twice_are_refused() {
    let twice = [entry("a", "U8", "[1]", 0, 1), entry("a", "U8", "[1]", 1, 2)].join(",");
    assert!(matches!(refused(&format!("{{{twice}}}")), HeaderError::Duplicate { name } if name == "a"));
    let escaped = [entry("a", "U8", "[1]", 0, 1), entry("\\u0061", "U8", "[1]", 1, 2)].join(",");
    assert!(matches!(refused(&format!("{{{escaped}}}")), HeaderError::Duplicate { name } if name == "a"));
    let metadata = r#"{"__metadata__":{"k":"1","k":"2"}}"#;
    assert!(matches!(refused(metadata), HeaderError::Duplicate { name } if name == "k"));
    let both = r#"{"__metadata__":{},"__metadata__":{}}"#;
    assert!(matches!(refused(both), HeaderError::Duplicate { name } if name == METADATA_KEY));
}

#[test]
fn tensors_that_do_not_fit_their_bytes_are_refused() {
    let one = |dtype, shape, start, end| refused(&format!("{{{}}}", entry("a", dtype, shape, start, end)));
    assert!(matches!(one("F31", "[1]", 0, 4), HeaderError::Dtype { .. }));
    assert!(matches!(one("F32", "[4294967296,4294967296]", 0, 4), HeaderError::Shape { .. }));
    assert!(matches!(one("F64", "[2305843009213693952]", 0, 4), HeaderError::Shape { .. }));
    assert!(matches!(one("U8", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", 0, 1), HeaderError::Shape { .. }));
    assert!(matches!(one("F4", "[3]", 0, 2), HeaderError::Shape { .. }));
    assert!(matches!(one("F32", "[2]", 0, 7), HeaderError::Size { expected: 8, start: 0, end: 7, .. }));
    assert!(matches!(one("U8", "[1]", 1, 0), HeaderError::Size { .. }));
    assert!(matches!(one("U8", "[1]", 1, 2), HeaderError::Place { expected: 0, actual: 1, .. }));
    let most = u64::MAX / 8;
    let huge = |i: u64| entry(&i.to_string(), "U8", &format!("[{most}]"), i * most, (i + 1) * most);
    let nearly: Vec<String> = (0..8).map(huge).chain([entry("z", "U8", "[7]", u64::MAX - 7, u64::MAX)]).collect();
    assert!(matches!(refused(&format!("{{{}}}", nearly.join(","))), HeaderError::Overflow));
    let two =
        |start, end| refused(&format!("{{{},{}}}", entry("a", "U8", "[4]", 0, 4), entry("b", "U8", "[4]", start, end)));
    assert!(matches!(two(5, 9), HeaderError::Place { expected: 4, actual: 5, .. }), "a hole");
    assert!(matches!(two(3, 7), HeaderError::Place { expected: 4, actual: 3, .. }), "an overlap");
    assert!(matches!(two(0, 4), HeaderError::Place { expected: 4, actual: 0, .. }), "the same bytes");
}

/// Tensors that lie one after the other, with names that need escapes.
fn tensors() -> impl Strategy<Value = Vec<(String, TensorInfo)>> {
    let one = (0..Dtype::ALL.len(), prop::collection::vec(0u64..5, 0..4), "[a\"\\\\é]{0,6}");
    prop::collection::vec(one, 0..12).prop_map(|list| {
        let mut at = 0;
        let each = list.into_iter().enumerate().map(|(i, (dtype, mut shape, name))| {
            let dtype = Dtype::ALL[dtype];
            shape.push(4);
            let start = at;
            at += TensorBox::whole(&shape).unwrap().bytes(dtype).unwrap();
            (format!("{name}.{i}"), info(dtype, &shape, start, at))
        });
        each.collect()
    })
}

proptest! {
    #[test]
    fn headers_round_trip(
        tensors in tensors(), align in 0u64..100, metadata in prop::collection::btree_map(".{0,6}", ".{0,9}", 0..4),
    ) {
        let bytes = write_header(&metadata, &tensors, align);
        prop_assert!((bytes.len() as u64).is_multiple_of(align.max(1)));
        let header = SafetensorsHeader::parse(&bytes, LIMIT).unwrap();
        prop_assert_eq!(&header.metadata, &metadata);
        prop_assert_eq!(&header.tensors, &tensors);
    }

    #[test]
    fn damaged_headers_never_panic(
        tensors in tensors(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = write_header(&BTreeMap::new(), &tensors, 8);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = SafetensorsHeader::parse(&bytes, LIMIT);
        let _ = SafetensorsHeader::parse(&bytes[..cut.index(bytes.len())], LIMIT);
    }
}
