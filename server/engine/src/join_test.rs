//! Tests of the join: replicas merge, and every disagreement names both ranks.

use gigastore_formats::manifest::part::PartMeta;
use gigastore_formats::order::{ALGORITHM, CURSOR_FORMAT, Seen, Unit};
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::Codec;

use super::*;

type Row = SliceRow<Option<Place<Digest>>>;

fn row(name: &str, dtype: Dtype, shape: &[u64], area: &str, content: &str, pack: Option<&str>) -> Row {
    let slice = SliceId::tensor(name, dtype, shape, area.parse().unwrap()).unwrap();
    let stored_len = slice.bytes();
    let place = pack.map(|text| Place {
        pack: Digest::of(text.as_bytes()),
        header_len: 4096,
        offset: 4096,
        stored_len,
        codec: Codec::Raw,
    });
    SliceRow { slice, blake3: Digest::of(content.as_bytes()), place }
}

fn part(rank: u32, rows: Vec<Row>) -> Part {
    Part { meta: PartMeta::of_rank(rank, 2), content: Digest::of(b""), rows }
}

fn cursor(samples: u64) -> Cursor {
    let (format, algorithm, unit) = (CURSOR_FORMAT.to_owned(), ALGORITHM, Unit::Samples);
    Cursor { format, algorithm, samples, unit, counted: samples, sources: vec![], seen: Seen::default() }
}

fn joined(a: Vec<Row>, b: Vec<Row>) -> Result<Merged, JoinError> {
    merge(vec![part(0, a), part(1, b)], 2, JoinedCursors::default())
}

#[test]
fn shards_and_replicas_merge() {
    let shard = |area, pack| row("w", Dtype::F32, &[4, 2], area, area, Some(pack));
    let replica = |pack| row("b", Dtype::F32, &[2], "[0:2]", "b", pack);
    let merged =
        joined(vec![replica(None), shard("[0:2,0:2]", "p0")], vec![replica(Some("p1")), shard("[2:4,0:2]", "p1")])
            .unwrap();
    let names: Vec<String> = merged.rows.iter().map(|row| row.slice.to_string()).collect();
    assert_eq!(names, ["b[0:2]", "w[0:2,0:2]", "w[2:4,0:2]"]);
    assert_eq!(merged.rows[0].place.as_ref().unwrap().pack, Digest::of(b"p1"));
}

#[test]
fn disagreement_names_both_ranks() {
    let base = || vec![row("w", Dtype::F32, &[4], "[0:4]", "x", Some("p"))];
    let with = |dtype, shape: &[u64], area, content| vec![row("w", dtype, shape, area, content, Some("q"))];
    let cases = [
        (with(Dtype::F32, &[4], "[0:4]", "y"), "content"),
        (with(Dtype::I32, &[4], "[0:4]", "x"), "element type"),
        (with(Dtype::F32, &[8], "[0:4]", "x"), "global shape"),
        (with(Dtype::F32, &[4], "[2:4]", "x"), "overlap"),
    ];
    for (other, expected) in cases {
        let text = joined(base(), other).unwrap_err().to_string();
        assert!(text.contains(expected) && text.contains('0') && text.contains('1'), "{text}");
    }
    let text = joined(with(Dtype::F32, &[4], "[0:1]", "x"), with(Dtype::F32, &[4], "[3:4]", "z")).unwrap_err();
    assert!(matches!(text, JoinError::Gap { .. }), "{text}");
}

#[test]
fn metadata_and_world_size_must_agree() {
    let rows = || vec![row("w", Dtype::F32, &[1], "[0:1]", "x", Some("p"))];
    let (mut a, mut b) = (part(0, rows()), part(1, rows()));
    a.meta.metadata.insert("lr".into(), "1".into());
    b.meta.metadata.insert("lr".into(), "2".into());
    assert!(matches!(
        merge(vec![a, b], 2, JoinedCursors::default()),
        Err(JoinError::Disagree { what: "metadata", .. })
    ));
    assert!(matches!(merge(vec![part(0, rows())], 3, JoinedCursors::default()), Err(JoinError::WorldSize { .. })));
    assert!(matches!(merge(vec![part(0, vec![])], 2, JoinedCursors::default()), Err(JoinError::Empty { .. })));
}

#[test]
fn compared_parts_count_only_where_all_agree() {
    let rows = || vec![row("w", Dtype::F32, &[1], "[0:1]", "x", None)];
    let (mut a, mut b) = (part(0, rows()), part(1, rows()));
    a.meta.compared_to = Some(Digest::of(b"c"));
    assert_eq!(merge(vec![a.clone(), b.clone()], 2, JoinedCursors::default()).unwrap().compared_to, None);
    b.meta.compared_to = a.meta.compared_to;
    assert_eq!(merge(vec![a, b], 2, JoinedCursors::default()).unwrap().compared_to, Some(Digest::of(b"c")));
}

#[test]
fn cursors_of_one_place_add_up_and_others_name_both_ranks() {
    let rows = || vec![row("w", Dtype::F32, &[1], "[0:1]", "x", Some("p"))];
    let with = |rank, samples: &[(&str, u64)], seen: u64| {
        let mut part = part(rank, rows());
        let cursor = |samples| Cursor { seen: Seen { samples: seen, tokens: 7, ..Seen::default() }, ..cursor(samples) };
        part.meta.cursors = samples.iter().map(|(name, samples)| ((*name).to_owned(), cursor(*samples))).collect();
        part
    };
    let merged =
        merge(vec![with(0, &[("data", 9)], 5), with(1, &[("data", 9), ("eval", 2)], 4)], 2, JoinedCursors::default())
            .unwrap();
    assert_eq!(merged.cursors.keys().collect::<Vec<_>>(), ["data", "eval"]);
    assert_eq!((merged.cursors["data"].seen.samples, merged.cursors["data"].seen.tokens), (9, 14));
    assert_eq!(merged.cursors["eval"].seen.samples, 4);
    let error =
        merge(vec![with(0, &[("data", 9)], 5), with(1, &[("data", 8)], 4)], 2, JoinedCursors::default()).unwrap_err();
    assert!(matches!(&error, JoinError::Disagree { first_rank: 0, second_rank: 1, .. }), "{error}");
    assert!(error.to_string().ends_with(r#"position of data stream "data": 9 samples and 8 samples"#), "{error}");
}
