//! Ten times more clients than the service admits: what is admitted finishes, the others are told when to come again,
//! each has its turn, and the service needs no more memory than for those it has let in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gigastore_formats::digest::Digest;
use gigastore_formats::object::Stored;
use gigastore_tests::model::XorShift;
use gigastore_tests::raw::{Wire, ask, head};

use crate::process::Service;
use crate::run::Desk;

/// Memory of bodies in MiB, the least that a service takes: an eighth is for short ones, each file needs eight.
const MEMORY_MIB: &str = "64";
const ADMITTED: usize = 7;
const CLIENTS: usize = 10 * ADMITTED;

/// A file, sent so slowly that the last clients would have to wait for longer than the service lets them.
const FILE_BYTES: usize = 8 << 20;
const PIECE_BYTES: usize = 1 << 20;
const PAUSE: Duration = Duration::from_millis(400);

/// Anonymous memory that the service may need beyond what it had before the first client came.
const MOST_KIB: u64 = 112 << 10;

/// Times that a client may be sent away: the queue is ten times what is admitted, and each turn takes seconds.
const MOST_REFUSALS: u64 = 12;

/// Sends a file until it is taken; returns how often it was sent away.
async fn upload(address: SocketAddr, target: String, bytes: Arc<Vec<u8>>) -> u64 {
    for refused in 0..=MOST_REFUSALS {
        let mut wire = Wire::connect(address).await.unwrap();
        let mut sent = wire.send(&head("PUT", &target, &[], bytes.len())).await;
        for piece in bytes.chunks(PIECE_BYTES) {
            if sent.is_err() {
                break;
            }
            sent = wire.send(piece).await;
            tokio::time::sleep(PAUSE).await;
        }
        let pause = match wire.answer("PUT").await {
            Ok(Some(answer)) if answer.status == 201 => return refused,
            Ok(Some(answer)) => {
                assert_eq!((answer.status, answer.code()), (503, "unavailable".to_owned()), "{target}: {answer:?}");
                let after = answer.header("retry-after").unwrap_or_else(|| panic!("{target}: {answer:?}"));
                after.parse().unwrap()
            }
            // Sent away before the body was read: the answer may be lost with what was still on its way.
            broken => {
                assert!(sent.is_err() || broken.is_err(), "{target}: {broken:?}");
                1
            }
        };
        tokio::time::sleep(Duration::from_secs(pause)).await;
    }
    panic!("{target} was sent away more than {MOST_REFUSALS} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_more_clients_than_are_admitted_each_get_their_turn() {
    let desk = Desk::new();
    let service = Arc::new(Service::start(&desk, &["--memory", MEMORY_MIB]));
    let bytes = Arc::new(XorShift::new(5).bytes(FILE_BYTES).to_vec());
    let blob = Stored { digest: Digest::of(&bytes), epoch: 0 };
    let before = service.memory_kib("RssAnon");
    let watch = service.watch_memory();
    let started = Instant::now();
    let target = |i: usize| format!("/v1/projects/p{i}/blobs/{blob}");
    let uploads: Vec<_> =
        (0..CLIENTS).map(|i| tokio::spawn(upload(service.address, target(i), Arc::clone(&bytes)))).collect();
    let (mut refused, mut most, mut slowest) = (0, 0, Duration::ZERO);
    for upload in uploads {
        // Whoever watches the service is answered all the while.
        let asked = Instant::now();
        assert_eq!(ask(service.address, "GET", "/healthz", &[], b"").await.unwrap().status, 200);
        slowest = slowest.max(asked.elapsed());
        let times = upload.await.unwrap();
        (refused, most) = (refused + times, most.max(times));
    }
    let took = started.elapsed();
    let grown = watch.peak_kib().saturating_sub(before);
    println!(
        "{CLIENTS} clients, {ADMITTED} at once: {took:.1?}, sent away {refused} times, one at most {most}; memory grew \
         by {} MiB; slowest look {slowest:.1?}",
        grown / 1024
    );
    assert!(refused > 0, "nobody was sent away: the service was not overloaded");
    assert!(grown < MOST_KIB, "{} MiB", grown / 1024);
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    for i in 0..CLIENTS {
        let there = ask(service.address, "HEAD", &target(i), &[], b"").await.unwrap();
        assert_eq!(there.header("content-length"), Some(FILE_BYTES.to_string().as_str()), "{}", target(i));
    }
}
