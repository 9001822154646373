//! Many clients at once: what they cost in memory, and that each is served.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gigastore_formats::object::Stored;
use gigastore_formats::pack::{Coding, PackHeader, PackSlice};
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::SliceId;
use gigastore_formats::verified::GroupTree;
use gigastore_tests::model::XorShift;
use gigastore_tests::raw::{Wire, ask, head};
use tokio::net::TcpStream;

use crate::process::{Service, has};
use crate::run::Desk;

/// Uploads at once, and the bytes of each.
const UPLOADS: usize = 64;
const UPLOAD_BYTES: usize = 64 << 20;

/// Anonymous memory that the service may have meanwhile.
const MOST_KIB: u64 = 256 << 10;

/// Sockets that idle.
const IDLE: u64 = 10_000;

fn pack(bytes: usize) -> (Stored, Arc<Vec<u8>>) {
    let data = XorShift::new(1).bytes(bytes);
    let area = TensorBox::whole(&[bytes as u64]).unwrap();
    let slice = SliceId::tensor("w", Dtype::U8, &[bytes as u64], area).unwrap();
    let tree = GroupTree::of(&data);
    let (header, head) = PackHeader::build(vec![PackSlice { slice, tree, coding: Coding::Raw }]).unwrap();
    (Stored { digest: header.name(), epoch: 0 }, Arc::new([&head[..], &data].concat()))
}

/// Uploads until it is taken; returns how often it was sent away.
async fn upload(address: SocketAddr, target: String, bytes: Arc<Vec<u8>>) -> u64 {
    let mut refused = 0;
    loop {
        assert!(refused < 500, "{target} was never taken");
        let Ok(mut wire) = Wire::connect(address).await else { continue };
        let sent = wire.request("PUT", &target, &[], &bytes).await;
        match wire.answer("PUT").await {
            Ok(Some(answer)) if answer.status == 201 => return refused,
            Ok(Some(answer)) => assert_eq!(answer.status, 503, "{target}: {answer:?}"),
            // Sent away before the body was read: the answer may be lost with what was still on its way.
            broken => assert!(sent.is_err() || broken.is_err(), "{target}: {broken:?}"),
        }
        refused += 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_uploads_of_64_mib_stay_below_256_mib() {
    let desk = Desk::new();
    let service = Arc::new(Service::start(&desk, &[]));
    let (pack, bytes) = pack(UPLOAD_BYTES);
    let watch = service.watch_memory();
    let started = Instant::now();
    let uploads: Vec<_> = (0..UPLOADS)
        .map(|i| {
            // A project each: the same bytes, stored anew.
            let target = format!("/v1/projects/p{i}/packs/{pack}");
            let stored = desk.path(&format!("store/projects/p{i}"));
            let (address, bytes) = (service.address, Arc::clone(&bytes));
            tokio::spawn(async move {
                let refused = upload(address, target, bytes).await;
                assert!(has(&stored, ".safetensors", 1));
                std::fs::remove_dir_all(stored).unwrap();
                refused
            })
        })
        .collect();
    let mut refused = 0;
    for upload in uploads {
        refused += upload.await.unwrap();
    }
    let took = started.elapsed();
    let peak = watch.peak_kib();
    let mib = peak / 1024;
    println!("64 uploads of 64 MiB: {took:.1?}, peak RssAnon {mib} MiB, sent away {refused} times");
    assert!(peak < MOST_KIB, "peak RssAnon {mib} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_sockets_cost_others_nothing() {
    let allowed = gigastore_server::allow_files(IDLE + 1024);
    let count = IDLE.min(allowed.saturating_sub(512));
    let desk = Desk::new();
    // As shells start it: with few files, of which it takes more by itself.
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -Sn 1024; exec \"$0\" serve --listen 127.0.0.1:0 --log quiet"]);
    command.arg(env!("CARGO_BIN_EXE_gigastore")).stdout(std::process::Stdio::piped());
    command.env("GIGASTORE_STORE", format!("file://{}", desk.path("store").display()));
    let service = Service::spawn(command);
    let before = service.memory_kib("RssAnon");
    let mut idle = Vec::new();
    for _ in 0..count {
        idle.push(TcpStream::connect(service.address).await.unwrap());
    }
    let until = Instant::now() + Duration::from_secs(20);
    while service.metric("gigastore_connections").await <= count {
        assert!(Instant::now() < until, "{} of {count}", service.metric("gigastore_connections").await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let started = Instant::now();
        assert_eq!(ask(service.address, "GET", "/v1/projects", &[], b"").await.unwrap().status, 200);
        slowest = slowest.max(started.elapsed());
    }
    let (anonymous, all) = (service.memory_kib("RssAnon") / 1024, service.memory_kib("VmRSS") / 1024);
    let before = before / 1024;
    println!("{count} idle sockets: RssAnon {before} to {anonymous} MiB, RSS {all} MiB, slowest request {slowest:.1?}");
    assert!(count >= 1000, "the system allows {allowed} files only");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(anonymous < 256, "{anonymous} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_one_byte_at_a_time_takes_no_more_memory() {
    let desk = Desk::new();
    let service = Service::start(&desk, &[]);
    let (pack, bytes) = pack(2 << 20);
    let target = format!("/v1/projects/p/packs/{pack}");
    let mut wire = Wire::connect(service.address).await.unwrap();
    wire.send(&head("PUT", &target, &[], bytes.len())).await.unwrap();
    let small = 100_000;
    for byte in &bytes[..small] {
        wire.send(std::slice::from_ref(byte)).await.unwrap();
    }
    wire.send(&bytes[small..]).await.unwrap();
    assert_eq!(wire.answer("PUT").await.unwrap().unwrap().status, 201);
    assert!(service.memory_kib("RssAnon") < MOST_KIB);
}
