//! Saves by hand: parts that overlap, disagree, come twice or never, and steps repeated, out of order, or of no save.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::part::{PartMeta, PartRow, write_part};
use gigastore_formats::pack::PackHeader;
use gigastore_formats::record::SaveBegin;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::{Codec, Place, SliceId, SliceRow};
use gigastore_tests::raw::Answer;
use serde_json::{Value, json};

use crate::served::{Served, pack_of};

/// A save, step by step.
struct Save<'s> {
    served: &'s Served,
    request: Value,
    id: String,
}

impl<'s> Save<'s> {
    fn new(served: &'s Served, step: u64, attempt: &str, ranks: u32) -> Self {
        let request = json!({ "project": "p", "run": "run", "step": step, "attempt": attempt, "world_size": ranks });
        let id = SaveBegin::id(&"p".parse().unwrap(), &"run".parse().unwrap(), step, attempt).to_string();
        Self { served, request, id }
    }

    async fn begin(&self) -> Answer {
        self.served.ask("POST", "/v1/projects/p/saves", &[], self.request.to_string().as_bytes()).await
    }

    async fn part(&self, rank: impl std::fmt::Display, part: &[u8]) -> Answer {
        self.served.ask("PUT", &format!("/v1/projects/p/saves/{}/parts/{rank}", self.id), &[], part).await
    }

    async fn commit(&self, deadline_ms: u64) -> Answer {
        let finish = json!({ "save": self.request, "tag": null, "deadline_ms": deadline_ms }).to_string();
        self.served.ask("POST", &format!("/v1/projects/p/saves/{}/commit", self.id), &[], finish.as_bytes()).await
    }

    async fn abort(&self) -> Answer {
        self.served.ask("DELETE", &format!("/v1/projects/p/saves/{}", self.id), &[], b"").await
    }
}

fn check(answer: &Answer, status: u16, code: &str, texts: &[&str], what: &str) {
    assert_eq!((answer.status, answer.code()), (status, code.to_owned()), "{what}: {}", answer.text());
    for text in texts {
        assert!(answer.json()["message"].as_str().unwrap().contains(text), "{what}: no {text:?} in {}", answer.text());
    }
}

/// Uploads a pack of these bytes, and describes a box of a tensor as lying there.
async fn row(served: &Served, name: &str, dtype: Dtype, shape: &[u64], area: &str, content: &[u8]) -> PartRow {
    let slice = SliceId::tensor(name, dtype, shape, area.parse().unwrap()).unwrap();
    assert_eq!(slice.bytes(), content.len() as u64);
    let (pack, bytes) = pack_of(&format!("{name}{area}"), content);
    let stored = served.ask("PUT", &format!("/v1/projects/p/packs/{pack}"), &[], &bytes).await;
    assert_eq!(stored.status, 201, "{stored:?}");
    let header_len = bytes.len() as u64 - content.len() as u64;
    let header = PackHeader::parse(pack.digest, &bytes[..header_len as usize]).unwrap();
    let place = Place {
        pack: pack.digest,
        header_len,
        offset: header.entries()[0].stored.start(),
        stored_len: content.len() as u64,
        codec: Codec::Raw,
    };
    SliceRow { slice, blake3: Digest::of(content), place: Some(place) }
}

fn part(rank: u32, ranks: u32, rows: &[PartRow]) -> Vec<u8> {
    part_with(rank, ranks, rows, &[])
}

fn part_with(rank: u32, ranks: u32, rows: &[PartRow], metadata: &[(&str, &str)]) -> Vec<u8> {
    let metadata: BTreeMap<String, String> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let meta = PartMeta { metadata, ..PartMeta::of_rank(rank, ranks) };
    write_part(&meta, rows).unwrap()
}

async fn check_nothing_visible(served: &Served, what: &str) {
    let listed = served.get("/v1/projects/p/checkpoints").await;
    assert_eq!(listed.status, 404, "{what}: {listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_do_not_fit_together_name_both_ranks() {
    let served = Served::new().await;
    let w = async |shape: &[u64], area: &str, content: &[u8]| row(&served, "w", Dtype::U8, shape, area, content).await;
    let base = w(&[8], "[0:4]", b"abcd").await;
    let whole = w(&[4], "[0:4]", b"abcd").await;
    let cases = [
        ("an overlap", base.clone(), w(&[8], "[2:8]", b"cdefgh").await, 409, "conflict", "overlap"),
        ("other content", whole.clone(), w(&[4], "[0:4]", b"abcx").await, 409, "conflict", "content"),
        ("another shape", base.clone(), w(&[9], "[4:9]", b"efghi").await, 409, "conflict", "global shape"),
        ("another type", whole, row(&served, "w", Dtype::I8, &[4], "[0:4]", b"abcd").await, 409, "conflict", "type"),
        ("a gap", base.clone(), w(&[8], "[5:8]", b"fgh").await, 400, "invalid", "no rank saved all of tensor w"),
    ];
    for (step, (what, first, second, status, code, text)) in cases.into_iter().enumerate() {
        let save = Save::new(&served, step as u64, "a", 2);
        assert_eq!(save.begin().await.status, 200, "{what}");
        assert_eq!(save.part(0, &part(0, 2, &[first])).await.status, 201, "{what}");
        assert_eq!(save.part(1, &part(1, 2, &[second])).await.status, 201, "{what}");
        for _ in 0..2 {
            check(&save.commit(0).await, status, code, &[text], what);
        }
        check_nothing_visible(&served, what).await;
    }
    let meta = Save::new(&served, 20, "a", 2);
    meta.begin().await;
    meta.part(0, &part_with(0, 2, std::slice::from_ref(&base), &[("lr", "1")])).await;
    meta.part(1, &part_with(1, 2, &[w(&[8], "[4:8]", b"efgh").await], &[("lr", "2")])).await;
    check(&meta.commit(0).await, 409, "conflict", &["metadata", "lr", "ranks 0 and 1"], "metadata");
    let empty = Save::new(&served, 21, "a", 1);
    empty.begin().await;
    empty.part(0, &part(0, 1, &[])).await;
    check(&empty.commit(0).await, 400, "invalid", &["no slice among them"], "nothing saved");
    let worlds = Save::new(&served, 22, "a", 2);
    worlds.begin().await;
    worlds.part(0, &part(0, 2, &[base])).await;
    worlds.part(1, &part(1, 3, &[w(&[8], "[4:8]", b"efgh").await])).await;
    check(&worlds.commit(0).await, 409, "conflict", &["world of 3"], "another world");
    check_nothing_visible(&served, "all of it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_come_twice_count_once_or_are_told_apart() {
    let served = Served::new().await;
    let rows = [row(&served, "w", Dtype::U8, &[4], "[0:4]", b"abcd").await];
    let other = [row(&served, "w", Dtype::U8, &[4], "[0:4]", b"ABCD").await];
    let twice = Save::new(&served, 1, "a", 1);
    for _ in 0..3 {
        assert_eq!(twice.begin().await.status, 200);
        assert_eq!(twice.part(0, &part(0, 1, &rows)).await.status, 201);
    }
    let committed = twice.commit(0).await;
    assert_eq!((committed.status, &committed.json()["info"]["seq"]), (200, &json!(1)), "{committed:?}");
    for again in [twice.commit(0).await, twice.commit(500).await] {
        assert_eq!((again.status, again.json()), (200, committed.json()), "the same answer");
    }
    // What comes after the commit changes nothing.
    assert_eq!(twice.begin().await.json()["existing"]["seq"], 1);
    twice.part(0, &part(0, 1, &other)).await;
    assert_eq!(twice.commit(0).await.json(), committed.json());
    check(&twice.abort().await, 409, "conflict", &["committed"], "abort after the commit");
    let different = Save::new(&served, 2, "a", 1);
    different.begin().await;
    for rows in [&rows, &other] {
        assert_eq!(different.part(0, &part(0, 1, rows)).await.status, 201);
    }
    check(&different.commit(0).await, 409, "conflict", &["rank 0", "two different parts"], "two parts of a rank");
    // The same step with other content, under another attempt.
    let late = Save::new(&served, 1, "b", 1);
    late.begin().await;
    late.part(0, &part(0, 1, &other)).await;
    check(&late.commit(0).await, 409, "conflict", &[], "a step that is taken");
    let same = Save::new(&served, 1, "c", 1);
    same.begin().await;
    same.part(0, &part(0, 1, &rows)).await;
    let existed = same.commit(0).await.json();
    assert_eq!((&existed["existed"], &existed["info"]["seq"]), (&json!(true), &json!(1)), "{existed}");
    assert_eq!(served.get("/v1/projects/p").await.json()["seq"], 1, "one record of all this");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_ranks_are_named_after_the_deadline() {
    let served = Served::new().await;
    let save = Save::new(&served, 1, "a", 40);
    save.begin().await;
    let rows = [row(&served, "w", Dtype::U8, &[4], "[0:4]", b"abcd").await];
    save.part(0, &part(0, 40, &rows)).await;
    save.part(39, &part(39, 40, &[])).await;
    let started = Instant::now();
    let late = save.commit(700).await;
    assert!(started.elapsed() >= Duration::from_millis(700), "it did not wait");
    check(&late, 409, "missing_ranks", &["38 of 40", "ranks 1, 2, 3,", "16, …", "nothing was committed"], "38 ranks");
    for rank in (1..39).filter(|rank| *rank != 17) {
        assert_eq!(save.part(rank, &part(rank, 40, &[])).await.status, 201);
    }
    check(&save.commit(0).await, 409, "missing_ranks", &["1 of 40", "ranks 17;"], "one rank");
    // The last one comes while the others wait.
    let (waited, _) = tokio::join!(save.commit(15_000), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        save.part(17, &part(17, 40, &[])).await;
        assert_eq!(save.commit(0).await.status, 200);
    });
    assert_eq!(waited.status, 200, "{waited:?}");
    assert_eq!(waited.json()["info"]["seq"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_stays_so_and_what_was_never_begun_commits_nothing() {
    let served = Served::new().await;
    let rows = [row(&served, "w", Dtype::U8, &[4], "[0:4]", b"abcd").await];
    let save = Save::new(&served, 1, "a", 1);
    save.begin().await;
    save.part(0, &part(0, 1, &rows)).await;
    for _ in 0..2 {
        assert_eq!(save.abort().await.status, 204);
    }
    for _ in 0..2 {
        check(&save.commit(0).await, 409, "conflict", &["aborted"], "a save that was given up");
        save.part(0, &part(0, 1, &rows)).await;
        save.begin().await;
    }
    let unknown = Save::new(&served, 2, "never begun", 3);
    check(&unknown.commit(0).await, 409, "missing_ranks", &["3 of 3", "ranks 0, 1, 2"], "a save of no parts");
    check_nothing_visible(&served, "a save that was never begun").await;
    let other = Save { id: Save::new(&served, 3, "a", 1).id, ..Save::new(&served, 4, "a", 1) };
    check(&other.commit(0).await, 400, "invalid", &[&other.id], "a body of another save");
    let elsewhere = json!({ "project": "q", "run": "run", "step": 1, "attempt": "a", "world_size": 1 }).to_string();
    let answer = served.ask("POST", "/v1/projects/p/saves", &[], elsewhere.as_bytes()).await;
    check(&answer, 400, "invalid", &["project q", "about p"], "a body of another project");
    let again = Save::new(&served, 1, "b", 1);
    again.begin().await;
    again.part(0, &part(0, 1, &rows)).await;
    assert_eq!(again.commit(0).await.status, 200, "a new attempt goes through");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_and_requests_that_make_no_sense_are_refused() {
    let served = Served::new().await;
    let rows = [row(&served, "w", Dtype::U8, &[4], "[0:4]", b"abcd").await];
    let save = Save::new(&served, 1, "a", 2);
    save.begin().await;
    let good = part(1, 2, &rows);
    for rank in ["2", "3", "0", "-1", "4294967296", "x", "1e0", "01x", "%31x"] {
        let answer = save.part(rank, &good).await;
        assert!((400..500).contains(&answer.status), "rank {rank}: {answer:?}");
        assert!(answer.json()["message"].is_string(), "rank {rank}: {answer:?}");
    }
    for (what, bytes) in [
        ("nothing", &b""[..]),
        ("noise", b"PAR1 not really PAR1"),
        ("half", &good[..good.len() / 2]),
        ("all but a byte", &good[..good.len() - 1]),
        ("another manifest", include_bytes!("../../formats/fixtures/packs-1.parquet")),
    ] {
        check(&save.part(1, bytes).await, 422, "bad_upload", &["part of rank 1"], what);
    }
    check(&save.commit(0).await, 409, "missing_ranks", &["2 of 2"], "nothing of it was kept");
    let flips = Save::new(&served, 2, "a", 2);
    for at in (0..good.len()).step_by(good.len() / 64) {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        // A byte that nobody reads may be any: the rows have a digest of their own.
        let answer = flips.part(1, &flipped).await;
        assert!(matches!(answer.status, 201 | 400 | 422), "byte {at}: {answer:?}");
    }
    check(&flips.commit(0).await, 409, "missing_ranks", &["1 of 2"], "parts of one rank, however many, are not two");
    let mut other = Save::new(&served, 1, "a", 3);
    check(&other.begin().await, 409, "conflict", &["2 ranks, not 3"], "another world");
    for (key, value) in [
        ("world_size", json!(0)),
        ("world_size", json!((1 << 20) + 1)),
        ("world_size", json!(-1)),
        ("attempt", json!("")),
        ("attempt", json!("a".repeat(1025))),
        ("step", json!(-1)),
        ("step", json!("1")),
        ("run", json!(null)),
    ] {
        other.request = save.request.clone();
        other.request[key] = value.clone();
        let answer = other.begin().await;
        assert_eq!((answer.status, answer.code()), (400, "invalid".to_owned()), "{key} {value}: {answer:?}");
    }
    check_lying_places(&served, &rows[0]).await;
}

/// A part whose slices do not lie where it says.
async fn check_lying_places(served: &Served, row: &PartRow) {
    let place = row.place.clone().unwrap();
    let with = |place| [SliceRow { place: Some(place), ..row.clone() }];
    let elsewhere = Place { offset: place.offset + 64, ..place.clone() };
    let coded = Place { codec: Codec::ZstdPlanes, ..place.clone() };
    let absent = Place { pack: Digest::of(b"no pack"), ..place };
    let cases = [
        ("another offset", with(elsewhere), 422, "bad_upload"),
        ("another codec", with(coded), 422, "bad_upload"),
        ("no such pack", with(absent), 409, "conflict"),
        ("another digest", [SliceRow { blake3: Digest::of(b"x"), ..row.clone() }], 422, "bad_upload"),
        ("no place", [SliceRow { place: None, ..row.clone() }], 409, "conflict"),
    ];
    for (step, (what, rows, status, code)) in cases.into_iter().enumerate() {
        let save = Save::new(served, 50 + step as u64, "a", 1);
        save.begin().await;
        let taken = save.part(0, &part(0, 1, &rows)).await;
        if taken.status != 201 {
            check(&taken, 422, "bad_upload", &[], what);
            continue;
        }
        check(&save.commit(0).await, status, code, &[], what);
        check_nothing_visible(served, what).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_that_is_committed_is_not_counted_as_open_again() {
    let served = Served::new().await;
    served.fill(None).await;
    assert_eq!(served.metric("gigastore_open_saves").await, 0);
    for (step, open) in [(1, 0), (2, 1)] {
        let begin = json!({ "project": "p", "run": "run", "step": step, "attempt": "job", "world_size": 2 });
        let begin = begin.to_string();
        assert_eq!(served.ask("POST", "/v1/projects/p/saves", &[], begin.as_bytes()).await.status, 200);
        assert_eq!(served.metric("gigastore_open_saves").await, open, "step {step}");
    }
}
