//! Tests of log records: one stored form, frozen, and every damage seen.

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// One entry of each kind.
fn entries() -> Vec<Entry> {
    let object = Stored { digest: Digest::of(b"manifest"), epoch: 3 };
    let commit = Commit {
        sort: Sort::Checkpoint,
        name: name("run"),
        number: 100,
        manifest: Index { object, len: 4096, groups: String::new() },
        packs: Some(Index { object, len: 512, groups: String::new() }),
        timeline: None,
        content: Digest::of(b"content"),
        bytes: 1 << 40,
        items: 12,
        world_size: 4,
    };
    let (run, tag) = (name("run"), name("best"));
    let actions = [
        Action::Commit(Box::new(commit)),
        Action::Tag { name: run.clone(), tag, number: 100 },
        Action::Pin { name: run.clone(), number: 100 },
        Action::Unpin { name: run.clone(), number: 100 },
        Action::Drop { name: run.clone(), number: 100 },
        Action::Policy { name: run, policy: "last 5".to_owned() },
        Action::Fence { epoch: 4 },
    ];
    let entry =
        |(i, action): (usize, Action)| Entry { txn: TxnId::derive(&[&[i as u8]]), time: 1_700_000_000_000, action };
    actions.into_iter().enumerate().map(entry).collect()
}

#[test]
fn every_kind_round_trips() {
    let record = Record { seq: 7, prev: Digest::of(b"before"), entries: entries() };
    let (bytes, digest) = record.seal();
    let (again, same) = Record::unseal(&bytes, 7, record.prev).unwrap();
    assert_eq!((again, same), (record, digest));
}

#[test]
fn a_record_of_version_1_is_still_read() {
    let frozen = include_bytes!("../fixtures/record-1.json");
    let record = Record { seq: 7, prev: Digest::of(b"before"), entries: entries() };
    assert_eq!(Record::unseal(frozen, 7, record.prev).unwrap().0, record);
    assert_eq!(String::from_utf8(record.seal().0).unwrap(), String::from_utf8(frozen.to_vec()).unwrap());
}

#[test]
fn a_record_with_a_timeline_is_still_read() {
    let frozen = include_bytes!("../fixtures/record-timed-1.json");
    let mut entries = entries();
    let Action::Commit(commit) = &mut entries[0].action else { panic!("the first is a commit") };
    let object = Stored { digest: Digest::of(b"timeline"), epoch: 3 };
    commit.timeline = Some(Index { object, len: 2048, groups: String::new() });
    assert_eq!(commit.indexes().map(|index| index.len).collect::<Vec<_>>(), [4096, 512, 2048]);
    let record = Record { seq: 7, prev: Digest::of(b"before"), entries };
    assert_eq!(Record::unseal(frozen, 7, record.prev).unwrap().0, record);
    assert_eq!(String::from_utf8(record.seal().0).unwrap(), String::from_utf8(frozen.to_vec()).unwrap());
}

#[test]
fn moved_swapped_and_unknown_records_are_refused() {
    let record = Record { seq: 7, prev: Digest::of(b"before"), entries: entries() };
    let (bytes, _) = record.seal();
    assert!(matches!(Record::unseal(&bytes, 8, record.prev), Err(RecordError::Seq { .. })));
    assert!(matches!(Record::unseal(&bytes, 7, Digest::of(b"other")), Err(RecordError::Chain { .. })));
    let text = String::from_utf8(bytes).unwrap().replace("\"kind\":\"fence\"", "\"kind\":\"merge\"");
    let line = text.lines().next().unwrap().to_owned() + "\n";
    let sealed = format!("{line}{{\"blake3\":\"{}\"}}\n", Digest::of(line.as_bytes()));
    let refused = Record::unseal(sealed.as_bytes(), 7, record.prev).unwrap_err();
    assert!(matches!(refused, RecordError::Seal(SealError::Content(_))), "{refused}");
}

#[test]
fn too_many_entries_are_refused() {
    let one = entries().remove(6);
    let record = Record { seq: 1, prev: Record::origin(), entries: vec![one; MAX_RECORD_ENTRIES + 1] };
    let refused = Record::unseal(&record.seal().0, 1, Record::origin()).unwrap_err();
    assert!(matches!(refused, RecordError::Entries { .. }), "{refused}");
}

#[test]
fn transaction_ids_do_not_depend_on_where_parts_are_cut() {
    assert_ne!(TxnId::derive(&[b"ab", b"c"]), TxnId::derive(&[b"a", b"bc"]));
    let id = SaveBegin::id(&name("p"), &name("r"), 5, "job-1");
    assert_ne!(id, SaveBegin::id(&name("p"), &name("r"), 5, "job-2"));
    assert_ne!(id, SaveBegin::id(&name("p"), &name("r"), 6, "job-1"));
}

fn begin() -> SaveBegin {
    SaveBegin { run: name("run"), step: 100, attempt: "job-17".to_owned(), world_size: 4, epoch: 3 }
}

#[test]
fn the_announcement_of_a_save_of_version_1_is_still_read() {
    let frozen = include_bytes!("../fixtures/begin-1.json");
    let (read, _): (SaveBegin, _) = unseal(frozen, 8192).unwrap();
    assert_eq!(read, begin());
    assert_eq!(String::from_utf8(seal(&begin()).0).unwrap(), String::from_utf8(frozen.to_vec()).unwrap());
}

#[test]
fn the_marker_and_the_end_of_a_save_of_version_1_are_still_read() {
    let marker = include_str!("../fixtures/marker-1.json");
    assert_eq!(unseal::<Marker>(marker.as_bytes(), 4096).unwrap().0, Marker::current());
    assert_eq!(String::from_utf8(seal(&Marker::current()).0).unwrap(), marker);
    // A committed save ends with the number of its record, one that was given up with none.
    let [committed, aborted] = [include_str!("../fixtures/ended-1.json"), include_str!("../fixtures/aborted-1.json")];
    for (frozen, ended) in [(committed, Some(42)), (aborted, None)] {
        assert_eq!(unseal::<Option<u64>>(frozen.as_bytes(), 8192).unwrap().0, ended);
        assert_eq!(String::from_utf8(seal(&ended).0).unwrap(), frozen);
    }
}

fn any_name() -> impl Strategy<Value = Name> {
    "[a-z0-9][a-z0-9_-]{0,20}".prop_map(|text| name(&text))
}

fn any_digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 8]>().prop_map(|bytes| Digest::of(&bytes))
}

fn any_index() -> impl Strategy<Value = Index> {
    (any_digest(), any::<(u64, u64)>(), "([0-9a-f]{64}){0,3}").prop_map(|(digest, (epoch, len), groups)| {
        let object = Stored { digest, epoch };
        Index { object, len, groups }
    })
}

fn any_commit() -> impl Strategy<Value = Commit> {
    let others = || prop::option::of(any_index());
    let objects = (any_index(), others(), others(), any_digest());
    (any::<bool>(), any_name(), objects, any::<(u64, u64, u64, u32)>()).prop_map(|(data, name, objects, numbers)| {
        let sort = if data { Sort::Dataset } else { Sort::Checkpoint };
        let ((manifest, packs, timeline, content), (number, bytes, items, world_size)) = (objects, numbers);
        Commit { sort, name, number, manifest, packs, timeline, content, bytes, items, world_size }
    })
}

fn any_action() -> impl Strategy<Value = Action> {
    let target = || (any_name(), any::<u64>());
    prop_oneof![
        any_commit().prop_map(|commit| Action::Commit(Box::new(commit))),
        (target(), any_name()).prop_map(|((name, number), tag)| Action::Tag { name, tag, number }),
        target().prop_map(|(name, number)| Action::Pin { name, number }),
        target().prop_map(|(name, number)| Action::Unpin { name, number }),
        target().prop_map(|(name, number)| Action::Drop { name, number }),
        (any_name(), any::<String>()).prop_map(|(name, policy)| Action::Policy { name, policy }),
        any::<u64>().prop_map(|epoch| Action::Fence { epoch }),
    ]
}

proptest! {
    #[test]
    fn any_record_round_trips(
        (seq, prev) in (any::<u64>(), any_digest()),
        entries in prop::collection::vec((any_digest(), any::<u64>(), any_action()), 0..8),
    ) {
        let entries = entries.into_iter().map(|(txn, time, action)| Entry { txn: TxnId(txn), time, action }).collect();
        let record = Record { seq, prev, entries };
        let (bytes, digest) = record.seal();
        prop_assert_eq!(Record::unseal(&bytes, seq, prev).unwrap(), (record, digest));
    }

    #[test]
    fn markers_and_ends_round_trip(format in any::<String>(), version: u32, ended: Option<u64>) {
        let marker = Marker { format, version };
        prop_assert_eq!(unseal::<Marker>(&seal(&marker).0, 1 << 20).unwrap().0, marker);
        prop_assert_eq!(unseal::<Option<u64>>(&seal(&ended).0, 8192).unwrap().0, ended);
    }

    #[test]
    fn announcements_of_saves_round_trip(
        run in "[a-z][a-z0-9]{0,20}",
        attempt in any::<String>(),
        (step, world_size, epoch) in any::<(u64, u32, u64)>(),
    ) {
        let begin = SaveBegin { run: name(&run), step, attempt, world_size, epoch };
        let (bytes, digest) = seal(&begin);
        let again: (SaveBegin, _) = unseal(&bytes, bytes.len() as u64).unwrap();
        prop_assert_eq!(again, (begin, digest));
    }
}
