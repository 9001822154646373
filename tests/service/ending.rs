//! The end of a service: what is in flight is finished, nothing new is taken, and it says that all went well.

use std::time::{Duration, Instant};

use gigastore_formats::digest::Digest;
use gigastore_tests::model::XorShift;
use gigastore_tests::raw::{Wire, ask, head};
use tokio::net::TcpStream;

use crate::process::Service;
use crate::run::Desk;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_is_finished_and_nothing_new_is_taken() {
    let desk = Desk::new();
    let mut service = Service::start(&desk, &[]);
    let content = XorShift::new(1).bytes(32 << 20);
    let target = format!("/v1/projects/p/blobs/{}.0", Digest::of(&content));
    assert_eq!(ask(service.address, "PUT", &target, &[], &content).await.unwrap().status, 201);
    let other = XorShift::new(2).bytes(8 << 20);
    let upload = format!("/v1/projects/p/blobs/{}.0", Digest::of(&other));
    let (mut down, mut up) =
        (Wire::connect(service.address).await.unwrap(), Wire::connect(service.address).await.unwrap());
    let mut idle = Wire::connect(service.address).await.unwrap();
    idle.request("GET", "/healthz", &[], b"").await.unwrap();
    assert_eq!(idle.answer("GET").await.unwrap().unwrap().status, 200);
    down.request("GET", &target, &[], b"").await.unwrap();
    up.send(&head("PUT", &upload, &[], other.len())).await.unwrap();
    up.send(&other[..1 << 20]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    service.stop();
    let until = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(service.address).await.is_ok() {
        assert!(Instant::now() < until, "connections are still taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(idle.closed_within(Duration::from_secs(5)).await.unwrap().is_empty(), "an idle one is closed");
    for piece in other[1 << 20..].chunks(1 << 20) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        up.send(piece).await.unwrap();
    }
    assert_eq!(up.answer("PUT").await.unwrap().unwrap().status, 201, "the upload is finished");
    let answer = down.answer("GET").await.unwrap().unwrap();
    assert!(answer.whole && answer.body == content, "the download is finished");
    assert_eq!(service.ended().code(), Some(0));
    let service = Service::start_at(&desk, service.address, &[]);
    assert_eq!(ask(service.address, "GET", &upload, &[], b"").await.unwrap().body, other, "what was taken is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_finish_is_cut_off_after_the_drain() {
    let desk = Desk::new();
    let mut service = Service::start(&desk, &["--drain", "1"]);
    let mut stuck = Wire::connect(service.address).await.unwrap();
    let target = format!("/v1/projects/p/blobs/{}.0", Digest::of(b"x"));
    stuck.send(&head("PUT", &target, &[], 1000)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let started = Instant::now();
    service.stop();
    assert_eq!(service.ended().code(), Some(0));
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(20), "{took:?}");
}
