//! Hostile connections, byte by byte: each ends in time, costs nobody else anything, and stores nothing.

use std::time::{Duration, Instant};

use gigastore_formats::digest::Digest;
use gigastore_server::Limits;
use gigastore_tests::model::XorShift;
use gigastore_tests::raw::{Answer, Wire, head};
use tokio::net::TcpSocket;

use crate::served::{Served, Setup, pack_of};

/// Limits short enough to be waited for.
fn short() -> Limits {
    let limits = Limits::default();
    Limits { head: Duration::from_millis(800), pace: Duration::from_secs(1), write: Duration::from_secs(1), ..limits }
}

async fn served() -> Served {
    Served::with(Setup { limits: short(), ..Setup::default() }).await
}

/// Long enough for a connection to be closed by any of the limits, on a machine that is busy.
const SOON: Duration = Duration::from_secs(8);

fn blob() -> (String, Vec<u8>) {
    let content = XorShift::new(3).bytes(1000).to_vec();
    (format!("/v1/projects/p/blobs/{}.0", Digest::of(&content)), content)
}

/// Checks that nothing is stored, and that the service goes on.
async fn check_nothing(served: &Served, target: &str, what: &str) {
    let there = served.ask("HEAD", target, &[], b"").await;
    assert_eq!(there.status, 404, "{what} left something");
    let stored = |path: &std::path::Path| path.to_string_lossy().contains("/projects/");
    let files: Vec<_> = served.files().into_keys().filter(|path| stored(path)).collect();
    assert!(files.is_empty(), "{what} left {files:?}");
    served.check_alive().await;
}

type Headers<'h> = &'h [(&'h str, &'h str)];

fn status_of(bytes: &[u8]) -> Option<u16> {
    std::str::from_utf8(bytes).ok()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_never_ends_is_closed_however_it_drips() {
    let served = served().await;
    let mut silent = Wire::connect(served.address).await.unwrap();
    let mut half = Wire::connect(served.address).await.unwrap();
    half.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A").await.unwrap();
    let mut dripping = Wire::connect(served.address).await.unwrap();
    dripping.send(b"GET /healthz HTTP/1.1\r\nX-Long: ").await.unwrap();
    let started = Instant::now();
    let mut broken = false;
    while !broken && started.elapsed() < SOON {
        broken = dripping.send(b"a").await.is_err();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(broken, "a head that drips was listened to for {:?}", started.elapsed());
    for (what, wire) in [("silence", &mut silent), ("half a head", &mut half)] {
        let said = wire.closed_within(SOON).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(said.is_empty() || status_of(&said).is_some_and(|status| status >= 400), "{what}: {said:?}");
    }
    served.check_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_idles_after_a_request_is_closed() {
    let served = served().await;
    let mut wire = Wire::connect(served.address).await.unwrap();
    for _ in 0..3 {
        wire.request("GET", "/healthz", &[], b"").await.unwrap();
        assert_eq!(wire.answer("GET").await.unwrap().unwrap().status, 200);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let started = Instant::now();
    assert!(wire.closed_within(SOON).await.unwrap().is_empty());
    assert!(started.elapsed() > Duration::from_millis(300), "it was closed at once, not when idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_without_measure_are_refused() {
    let served = served().await;
    let long = format!("GET /healthz HTTP/1.1\r\nX-Long: {}\r\n\r\n", "a".repeat(300 << 10));
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    let target = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(300 << 10));
    for (what, bytes) in [("a long header", long), ("many headers", many), ("a long target", target)] {
        let mut wire = Wire::connect(served.address).await.unwrap();
        // It may be closed while we still send.
        let _ = wire.send(bytes.as_bytes()).await;
        let said = wire.closed_within(SOON).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(said.is_empty() || matches!(status_of(&said), Some(400..500)), "{what}: {:?}", status_of(&said));
    }
    served.check_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_1_is_closed_in_time() {
    let served = served().await;
    let hello = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d";
    let cases: [(&str, Vec<u8>); 9] = [
        ("zeros", vec![0; 4096]),
        ("noise", XorShift::new(1).bytes(4096).to_vec()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec()),
        ("HTTP/3", b"GET / HTTP/3.0\r\n\r\n".to_vec()),
        ("TLS", hello.to_vec()),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
        ("a folded header", b"GET /healthz HTTP/1.1\r\nA: b\r\n c\r\n\r\n".to_vec()),
        ("a space before the colon", b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n".to_vec()),
        ("lines without an end", b"\r\n".repeat(100_000)),
    ];
    for (what, bytes) in cases {
        let mut wire = Wire::connect(served.address).await.unwrap();
        let _ = wire.send(&bytes).await;
        let said = wire.closed_within(SOON).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_ne!(status_of(&said), Some(200), "{what}");
    }
    served.check_alive().await;
}

/// Sends a head and a body of the test's own making, then lets the service end it; returns what it said.
async fn say(served: &Served, target: &str, headers: &[(&str, &str)], body: &[u8], end: bool) -> Option<Answer> {
    let mut wire = Wire::connect(served.address).await.unwrap();
    wire.send(&head("PUT", target, headers, body.len())).await.unwrap();
    wire.send(body).await.unwrap();
    if end {
        return None;
    }
    let answered = tokio::time::timeout(SOON, wire.answer("PUT")).await;
    answered.expect("the service waits for ever").unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_end_early_or_stop_leave_nothing() {
    let served = served().await;
    let (target, content) = blob();
    let (pack, bytes) = pack_of("w", &content);
    let pack = format!("/v1/projects/p/packs/{pack}");
    for (target, content) in [(&target, &content), (&pack, &bytes)] {
        let length = content.len().to_string();
        let headers = [("Content-Length", length.as_str())];
        for sent in [0, 1, 10, content.len() - 1] {
            let what = format!("{sent} of {length} bytes of {target}");
            say(&served, target, &headers, &content[..sent], true).await;
            if let Some(answer) = say(&served, target, &headers, &content[..sent], false).await {
                assert_eq!((answer.status, answer.code()), (422, "bad_upload".to_owned()), "{what}: {answer:?}");
            }
            check_nothing(&served, target, &what).await;
        }
    }
    let mut wire = Wire::connect(served.address).await.unwrap();
    wire.send(&head("PUT", &target, &[("Content-Length", "1000000")], 0)).await.unwrap();
    let started = Instant::now();
    while wire.send(b"a").await.is_ok() {
        assert!(started.elapsed() < SOON, "a body that drips was taken for {:?}", started.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    check_nothing(&served, &target, "a body that drips").await;
    assert_eq!(served.ask("PUT", &target, &[], &content).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_lie_are_refused() {
    let served = served().await;
    let (target, content) = blob();
    let wrong =
        ["-1", "+1000", "1000, 999", "1e3", "0x3e8", "1000;", "", " ", "18446744073709551616", "9".repeat(40).as_str()]
            .map(str::to_owned);
    for length in &wrong {
        let answer = say(&served, &target, &[("Content-Length", length)], &content, false).await;
        assert!(answer.as_ref().is_none_or(|answer| (400..500).contains(&answer.status)), "{length:?}: {answer:?}");
        check_nothing(&served, &target, &format!("Content-Length: {length}")).await;
    }
    let two = [("Content-Length", "1000"), ("Content-Length", "10")];
    let answer = say(&served, &target, &two, &content, false).await;
    assert!(answer.as_ref().is_none_or(|answer| answer.status == 400), "{answer:?}");
    check_nothing(&served, &target, "two lengths").await;
    let mut wire = Wire::connect(served.address).await.unwrap();
    wire.send(format!("PUT {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    let answer = wire.answer("PUT").await.unwrap().unwrap();
    assert_eq!((answer.status, answer.code()), (411, "invalid".to_owned()), "no length: {answer:?}");
    check_nothing(&served, &target, "no length").await;
    // A body of the right length and other bytes, and a right one that goes on.
    let mut flipped = content.clone();
    flipped[500] ^= 1;
    let answer = served.ask("PUT", &target, &[], &flipped).await;
    assert_eq!((answer.status, answer.code()), (422, "bad_upload".to_owned()), "{answer:?}");
    let longer = [&content[..], b"more"].concat();
    let answer = served.ask("PUT", &target, &[], &longer).await;
    assert_eq!((answer.status, answer.code()), (422, "bad_upload".to_owned()), "{answer:?}");
    let huge = served.ask("PUT", &target, &[("Content-Length", "9223372036854775807")], b"").await;
    assert_eq!(huge.status, 413, "{huge:?}");
    check_nothing(&served, &target, "other bytes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_in_chunks_are_refused_and_smuggle_nothing() {
    let served = served().await;
    let (target, content) = blob();
    let hidden = "GET /v1/projects HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let chunk = format!("{:x}\r\n", content.len()).into_bytes();
    let whole = [&chunk[..], &content, b"\r\n0\r\n\r\n"].concat();
    let cases: [(&str, Headers<'_>, Vec<u8>); 8] = [
        ("chunks", &[("Transfer-Encoding", "chunked")], whole.clone()),
        ("a chunk that never ends", &[("Transfer-Encoding", "chunked")], b"fffffff\r\nabc".to_vec()),
        ("a length, then chunks", &[("Content-Length", "5"), ("Transfer-Encoding", "chunked")], whole.clone()),
        ("chunks, then a length", &[("Transfer-Encoding", "chunked"), ("Content-Length", "5")], whole),
        (
            "a request behind the chunks",
            &[("Content-Length", "1000"), ("Transfer-Encoding", "chunked")],
            format!("0\r\n\r\n{hidden}").into_bytes(),
        ),
        (
            "a request in the chunks",
            &[("Transfer-Encoding", "chunked"), ("Content-Length", "4")],
            format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()).into_bytes(),
        ),
        ("a coding of its own", &[("Transfer-Encoding", "xchunked"), ("Content-Length", "1000")], content.clone()),
        ("two codings", &[("Transfer-Encoding", "chunked, identity"), ("Content-Length", "1000")], content.clone()),
    ];
    for (what, headers, body) in cases {
        for method in ["PUT", "GET"] {
            let mut wire = Wire::connect(served.address).await.unwrap();
            let target = if method == "GET" { "/healthz" } else { &target };
            wire.send(&head(method, target, headers, 0)).await.unwrap();
            let _ = wire.send(&body).await;
            let said = wire.closed_within(SOON).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            let text = String::from_utf8_lossy(&said).into_owned();
            assert!(matches!(status_of(&said), None | Some(400 | 411)), "{what}: {text}");
            assert!(text.matches("HTTP/1.1 ").count() <= 1, "{what}: another request was answered: {text}");
        }
        check_nothing(&served, &target, what).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_expects_to_be_told_to_go_on_is_told_or_refused() {
    let served = served().await;
    let (target, content) = blob();
    let mut wire = Wire::connect(served.address).await.unwrap();
    let headers = [("Content-Length", "1000"), ("Expect", "100-continue")];
    wire.send(&head("PUT", &target, &headers, 0)).await.unwrap();
    assert_eq!(wire.answer("PUT").await.unwrap().unwrap().status, 100);
    wire.send(&content).await.unwrap();
    assert_eq!(wire.answer("PUT").await.unwrap().unwrap().status, 201);
    let mut wire = Wire::connect(served.address).await.unwrap();
    let headers = [("Content-Length", "9223372036854775807"), ("Expect", "100-continue")];
    wire.send(&head("PUT", &target, &headers, 0)).await.unwrap();
    assert_eq!(wire.answer("PUT").await.unwrap().unwrap().status, 413, "refused before a byte of it is sent");
    // Requests that come before the answer to the last one are answered in order.
    let mut wire = Wire::connect(served.address).await.unwrap();
    let two = [head("HEAD", &target, &[], 0), head("GET", &target, &[], 0), head("GET", "/healthz", &[], 0)].concat();
    wire.send(&two).await.unwrap();
    let (first, second, third) =
        (wire.answer("HEAD").await.unwrap(), wire.answer("GET").await.unwrap(), wire.answer("GET").await.unwrap());
    assert_eq!(first.unwrap().header("content-length"), Some("1000"));
    assert_eq!((second.unwrap().body, third.unwrap().body), (content, b"ok\n".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_and_never_reads_is_closed_and_its_memory_comes_back() {
    // What is sent of a folder takes no memory; what comes from elsewhere does.
    never_read(short()).await;
    never_read(Limits { cache: 16 << 20, ..short() }).await;
}

async fn never_read(limits: Limits) {
    let held = limits.cache > 0;
    let served = Served::with(Setup { limits, ..Setup::default() }).await;
    let (pack, bytes) = pack_of("w", &XorShift::new(1).bytes(24 << 20));
    let target = format!("/v1/projects/p/packs/{pack}");
    assert_eq!(served.ask("PUT", &target, &[], &bytes).await.status, 201);
    assert_eq!(served.metric("gigastore_memory_bytes").await, 0);
    let mut wires = Vec::new();
    for _ in 0..8 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut wire = Wire::over(socket.connect(served.address).await.unwrap());
        wire.request("GET", &target, &[], b"").await.unwrap();
        wires.push(wire);
    }
    let until = Instant::now() + SOON;
    let (mut most, mut seen) = (0, 0);
    loop {
        let (memory, open) =
            (served.metric("gigastore_memory_bytes").await, served.metric("gigastore_connections").await);
        (most, seen) = (most.max(memory), seen.max(open));
        if (most > 0 || !held) && seen > 8 && memory == 0 && open == 1 {
            break;
        }
        assert!(Instant::now() < until, "{memory} bytes and {open} connections are still held");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let counted = if held { most >= 8 * (2 << 20) } else { most == 0 };
    assert!(counted, "{most} bytes for eight answers can't be right");
    drop(wires);
    // One that reads slowly, but reads, gets it all.
    let mut wire = Wire::connect(served.address).await.unwrap();
    wire.request("GET", &target, &[], b"").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(wire.answer("GET").await.unwrap().unwrap().body, bytes);
}
