//! What is not let in: bodies without memory for them, writes to a full disk; and that clients hear of it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use gigastore_client::transport::{PackBytes, Pieces, Transport};
use gigastore_formats::digest::Digest;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::pack::{Coding, PackHeader, PackSlice};
use gigastore_formats::range::ByteRange;
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::SliceId;
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::FaultCode;
use gigastore_server::{Access, Limits};
use gigastore_tests::model::XorShift;
use gigastore_tests::raw::{Answer, Wire, ask, head};
use serde_json::json;

use crate::served::{Served, Setup, pack_of, token};

/// 8 MiB for long bodies, and an eighth of all for short ones; with a cache, as for a store on another machine: what
/// is sent of a folder passes through no memory.
fn small() -> Limits {
    Limits { cache: 16 << 20, memory: 146 << 16, admission: Duration::from_millis(300), ..Limits::default() }
}

/// Begins an upload that takes all memory, and does not go on with it.
async fn held(served: &Served) -> (Wire, Vec<u8>, String) {
    let (pack, bytes) = pack_of("held", &XorShift::new(1).bytes((8 << 20) - (32 << 10)));
    let target = format!("/v1/projects/p/packs/{pack}");
    let mut wire = Wire::connect(served.address).await.unwrap();
    wire.send(&head("PUT", &target, &[], bytes.len())).await.unwrap();
    wire.send(&bytes[..1000]).await.unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while served.metric("gigastore_memory_bytes").await < 8 << 20 {
        assert!(Instant::now() < until, "the memory was not given");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (wire, bytes, target)
}

fn check_busy(answer: &Answer, what: &str) {
    assert_eq!((answer.status, answer.code()), (503, "unavailable".to_owned()), "{what}: {answer:?}");
    let after: u64 = answer.header("retry-after").unwrap_or_else(|| panic!("{what}: no Retry-After")).parse().unwrap();
    assert!((1..60).contains(&after), "{what}: {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_nothing_of_a_body_is_read() {
    let served = Served::with(Setup { limits: small(), ..Setup::default() }).await;
    let (other, content) = pack_of("other", b"other");
    let stored = format!("/v1/projects/p/packs/{other}");
    assert_eq!(served.ask("PUT", &stored, &[], &content).await.status, 201);
    let (mut wire, bytes, target) = held(&served).await;
    let blob = format!("/v1/projects/p/blobs/{}.0", Digest::of(b"blob"));
    for (method, target) in [
        ("PUT", stored.as_str()),
        ("PUT", &blob),
        ("POST", "/v1/projects/p/checkpoints/run/1/plan"),
        ("PUT", "/v1/probe"),
    ] {
        // Who waits to be asked for the body is not asked.
        let mut asking = Wire::connect(served.address).await.unwrap();
        let length = if target == blob || target == stored { "4" } else { "2000000" };
        let headers = [("Content-Length", length), ("Expect", "100-continue")];
        asking.send(&head(method, target, &headers, 0)).await.unwrap();
        let received = served.metric("gigastore_received_bytes_total").await;
        check_busy(&asking.answer(method).await.unwrap().unwrap(), target);
        assert_eq!(served.metric("gigastore_received_bytes_total").await, received, "{target}: a body was read");
    }
    check_busy(&served.get(&stored).await, "an answer needs memory too");
    for open in ["/healthz", "/readyz", "/metrics", "/v1/projects"] {
        assert_eq!(served.get(open).await.status, 200, "{open} needs none");
    }
    let exists = json!({ "kind": "pack", "objects": [other.to_string()] }).to_string();
    let save = json!({ "project": "p", "run": "run", "step": 9, "attempt": "a", "world_size": 1 }).to_string();
    for (target, body) in [("/v1/projects/p/exists", exists), ("/v1/projects/p/saves", save)] {
        let answer = served.ask("POST", target, &[], body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{target} has memory of its own: {answer:?}");
    }
    let most = served.ask("POST", "/v1/projects/p/exists", &[("Content-Length", "5000000")], b"").await;
    assert_eq!(most.status, 413, "more than fits is not waited for: {most:?}");
    wire.send(&bytes[1000..]).await.unwrap();
    assert_eq!(wire.answer("PUT").await.unwrap().unwrap().status, 201, "who had memory goes on");
    assert_eq!(served.metric("gigastore_memory_bytes").await, 0);
    assert!(served.get(&target).await.body == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_sent_away_comes_again() {
    let served = Served::with(Setup { limits: small(), ..Setup::default() }).await;
    let (wire, ..) = held(&served).await;
    let (pack, bytes) = pack_of("late", &[7; 5000]);
    let (header, body) = bytes.split_at(bytes.len() - 5000);
    let http = served.http(None);
    let (project, body) = ("p".parse().unwrap(), PackBytes::Hashed(vec![Bytes::copy_from_slice(body)]));
    let put = http.put_pack(&project, pack, Bytes::copy_from_slice(header), body);
    let release = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        drop(wire);
    };
    let (stored, ()) = tokio::join!(put, release);
    stored.unwrap();
    let busy = served.get("/metrics").await.text();
    assert!(busy.lines().any(|line| line.contains("status=\"503\"")), "it was never sent away: {busy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_with_little_room_takes_no_writes_and_gives_all_reads() {
    let first = Served::new().await;
    first.fill(None).await;
    let limits = Limits { keep_free: u64::MAX, ..Limits::default() };
    let (address, _) = Served::another(&first.store_folder(), None, limits, true).await;
    let files = first.files();
    let save = json!({ "project": "p", "run": "run", "step": 9, "attempt": "a", "world_size": 1 }).to_string();
    let hex = "ab".repeat(32);
    let (pack, bytes) = pack_of("w", b"new");
    let writes = [
        ("PUT", format!("/v1/projects/p/packs/{pack}"), bytes),
        ("PUT", format!("/v1/projects/p/blobs/{}.0", Digest::of(b"new")), b"new".to_vec()),
        ("POST", "/v1/projects/p/saves".to_owned(), save.into_bytes()),
        ("PUT", format!("/v1/projects/p/saves/{hex}/parts/0"), b"part".to_vec()),
        ("POST", format!("/v1/projects/p/datasets?txn={hex}&epoch=0"), b"manifest".to_vec()),
    ];
    for (method, target, body) in writes {
        let answer = ask(address, method, &target, &[], &body).await.unwrap();
        assert_eq!((answer.status, answer.code()), (507, "store_full".to_owned()), "{target}: {answer:?}");
        let body = answer.json();
        assert!(body["hint"].is_string() && body["expected"].is_string() && body["actual"].is_string(), "{body}");
    }
    assert_eq!(first.files(), files, "something was written");
    for target in ["/v1/projects/p", "/v1/projects/p/checkpoints/run/best/files/sub/config.json", "/readyz"] {
        assert_eq!(ask(address, "GET", target, &[], b"").await.unwrap().status, 200, "{target}");
    }
    let exists = json!({ "kind": "pack", "objects": [] }).to_string();
    let asked = ask(address, "POST", "/v1/projects/p/exists", &[], exists.as_bytes()).await.unwrap();
    assert_eq!(asked.status, 200);
}

/// A pack of 48 MiB, longer than what a socket takes in: its name, its header, its bytes.
fn long() -> (Stored, Bytes, Bytes) {
    let data = XorShift::new(8).bytes(48 << 20);
    let area = TensorBox::whole(&[data.len() as u64]).unwrap();
    let slice = SliceId::tensor("w", Dtype::U8, &[data.len() as u64], area).unwrap();
    let tree = GroupTree::of(&data);
    let (header, bytes) = PackHeader::build(vec![PackSlice { slice, tree, coding: Coding::Raw }]).unwrap();
    (Stored { digest: header.name(), epoch: 0 }, bytes, data)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_a_client_in_the_middle_of_a_long_body() {
    let (reader, reading) = token(1, "p", Access::Read, None);
    let (writer, writing) = token(2, "p", Access::Write, None);
    let served = Served::with(Setup { tokens: vec![reader, writer], ..Setup::default() }).await;
    let full = Limits { keep_free: u64::MAX, ..Limits::default() };
    let (full, _) = Served::another(&served.store_folder(), None, full, true).await;
    let full = gigastore_client::transport::http::Http::new(
        &format!("http://{full}"),
        None,
        gigastore_client::ambient::SystemAmbient::shared(),
    );
    let project = "p".parse().unwrap();
    let (name, header, data) = long();
    let mut flipped = data.to_vec();
    flipped[1 << 20] ^= 1;
    let flipped = Bytes::from(flipped);
    let cases = [
        (served.http(Some(&reading)), &data, FaultCode::Denied),
        (served.http(Some("gst_00000001_no")), &data, FaultCode::Denied),
        (full.unwrap(), &data, FaultCode::StoreFull),
        (served.http(Some(&writing)), &flipped, FaultCode::BadUpload),
    ];
    for (http, data, code) in cases {
        for streamed in [false, true] {
            let pieces: Vec<Bytes> = (0..48).map(|i| data.slice(i << 20..(i + 1) << 20)).collect();
            let body = match streamed {
                false => PackBytes::Hashed(pieces),
                true => PackBytes::Reread(Pieces::new(move || futures::stream::iter(pieces.clone()).map(Ok).boxed())),
            };
            let started = Instant::now();
            let refused = http.put_pack(&project, name, header.clone(), body).await.unwrap_err();
            assert_eq!(refused.code, code, "{refused:?}");
            assert!(started.elapsed() < Duration::from_secs(20), "{code:?} took {:?}", started.elapsed());
        }
    }
    let writer = served.http(Some(&writing));
    for _ in 0..2 {
        // The second time it is there already, which is known before its body came.
        let body = PackBytes::Hashed(vec![data.clone()]);
        writer.put_pack(&project, name, header.clone(), body).await.unwrap();
    }
    let range = ByteRange::new(header.len() as u64, header.len() as u64 + 5).unwrap();
    let read = writer.read(&project, ObjectKind::Pack, &name, range, false).await.unwrap();
    assert_eq!(read, data[..5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn trials_that_are_not_read_hold_no_memory() {
    let served = Served::with(Setup { limits: small(), ..Setup::default() }).await;
    let mut wires = Vec::new();
    for _ in 0..8 {
        let mut wire = Wire::connect(served.address).await.unwrap();
        wire.request("GET", "/v1/probe?bytes=16777216", &[], b"").await.unwrap();
        wires.push(wire);
    }
    assert_eq!(served.metric("gigastore_memory_bytes").await, 0);
    for mut wire in wires {
        let answer = wire.answer("GET").await.unwrap().unwrap();
        assert_eq!((answer.status, answer.body.len(), answer.whole), (200, 16 << 20, true));
    }
    assert_eq!(served.get("/v1/probe?bytes=100000").await.body, vec![0x5a; 100_000]);
}
