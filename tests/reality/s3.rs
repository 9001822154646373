//! What else is only true of a real S3 server: copies to it and from it, and uploads that were never finished.

use std::time::Duration;

use gigastore_client::ambient::SystemAmbient;
use gigastore_client::checkpoint::SaveSpec;
use gigastore_client::store::{self, Store};
use gigastore_engine::Engine;
use gigastore_engine::store::OpenMode;
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_server::Limits;
use gigastore_tests::model::{Size, Tensor, transformer};
use gigastore_tests::opened::{save, serve};
use gigastore_tests::raw;
use object_store::ObjectStoreExt as _;
use object_store::multipart::MultipartStore as _;
use serde_json::Value;

use crate::place::Place;
use crate::run::{Desk, Said};

/// Longer than the clock of a store differs from ours, and than the whole seconds in which it tells when an upload
/// began.
const LONG_AGO: Duration = Duration::from_secs(4);

/// Runs a command that must succeed, with the settings of the bucket; returns the document that it prints.
fn json(desk: &Desk, place: &Place, arguments: &[&str]) -> Value {
    let mut command = desk.command(&[&["--quiet", "--format", "json"], arguments].concat());
    let said = Said::of(command.envs(place.settings().iter().cloned()).output().unwrap());
    assert_eq!(said.code, Some(0), "{arguments:?}: {said:?}");
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", said.stdout))
}

fn sent(report: &Value) -> u64 {
    report["mirrored"].as_array().unwrap().iter().map(|one| one["objects_sent"].as_u64().unwrap()).sum()
}

#[test]
fn copies_go_there_and_back() {
    let (desk, place) = (Desk::new(), Place::bucket());
    desk.model("m", 1);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/run@1", "--ranks", "2", "--tag", "best"]);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/run@2"]);
    let there = json(&desk, &place, &["mirror", "demo", place.url()]);
    assert!(sent(&there) > 0, "{there:#}");
    assert_eq!(sent(&json(&desk, &place, &["mirror", "demo", place.url()])), 0, "all of it is there");
    let back = format!("file://{}", desk.path("back").display());
    let from = format!("{}#demo", place.url());
    assert_eq!(sent(&json(&desk, &place, &["mirror", &from, &back])), sent(&there));
    desk.ok(&["ckpt", "restore", "demo/run@best", "--out", "mine"]);
    desk.ok(&["--store", &back, "ckpt", "restore", "demo/run@best", "--out", "theirs"]);
    assert!(desk.files("mine").iter().map(|(_, bytes)| bytes).eq(desk.files("theirs").iter().map(|(_, bytes)| bytes)));
    assert!(desk.ok(&["--store", &back, "verify"]).contains("demo: sound"));
}

#[test]
fn uploads_that_nobody_finished_go_with_a_collection() {
    let (desk, place) = (Desk::new(), Place::bucket());
    desk.model("m", 1);
    let store = ["--store", place.url()];
    json(&desk, &place, &[&store[..], &["ckpt", "save", "m.safetensors", "--to", "demo/run@1"]].concat());
    let (s3, prefix) = place.s3();
    let keys = ["projects/demo/packs/aa/x.0.safetensors", "projects/other/packs/aa/x.0.safetensors"];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begun: Vec<_> = keys
        .map(|key| format!("{prefix}/{key}").into())
        .map(|key| (runtime.block_on(s3.create_multipart(&key)).unwrap(), key))
        .into();
    std::thread::sleep(LONG_AGO);
    let collect = |more: &[&str]| {
        let report = json(&desk, &place, &[&store[..], &["gc", "demo", "--save-timeout"], more].concat());
        report[0]["report"]["uploads"].as_u64().unwrap_or_else(|| panic!("{report:#}"))
    };
    assert_eq!(collect(&["1h"]), 0, "they may still go on");
    assert_eq!((collect(&["1s", "--dry-run"]), collect(&["1s"]), collect(&["1s"])), (1, 1, 0));
    // The one of the other project is there still, and can be given up; the other one can't any more.
    runtime.block_on(s3.abort_multipart(&begun[1].1, &begun[1].0)).unwrap();
    let part = s3.put_part(&begun[0].1, &begun[0].0, 0, "late".into());
    assert!(runtime.block_on(part).is_err(), "a part of an upload that was given up is taken");
    assert!(runtime.block_on(s3.head(&begun[0].1)).is_err());
    json(&desk, &place, &[&store[..], &["verify", "demo"]].concat());
}

/// Saves tensors through a service over the bucket and restores them; returns the bytes that the service sent.
async fn sent_by_service(place: &Place, direct: bool, step: u64, tensors: &[Tensor]) -> u64 {
    let (settings, ambient) = (place.settings().to_vec(), SystemAmbient::shared());
    let engine = Engine::open(&place.url().parse().unwrap(), OpenMode::Create, settings, ambient).await.unwrap();
    let url = serve(engine, None, Limits { direct, ..Limits::default() }).await.unwrap();
    let store = Store::open(&url, store::OpenMode::Create).await.unwrap();
    let spec = SaveSpec::new("p".parse().unwrap(), "run".parse().unwrap(), step, 2);
    save(&store, spec, tensors).await.unwrap();
    let checkpoint = store.checkpoint(&format!("p/run@{step}").parse().unwrap()).await.unwrap();
    for tensor in tensors {
        assert!(
            checkpoint.read_whole(SliceKind::Tensor, &tensor.name).await.unwrap() == tensor.data,
            "{}",
            tensor.name
        );
    }
    assert_eq!(store.refetched(), 0);
    let address = url.trim_start_matches("http://").parse().unwrap();
    let metrics = raw::ask(address, "GET", "/metrics", &[], b"").await.unwrap().text();
    let sent = metrics.lines().find_map(|line| line.strip_prefix("gigastore_sent_bytes_total "));
    sent.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

#[test]
fn urls_that_are_signed_are_read_past_the_service() {
    let place = Place::bucket();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for (step, direct) in [(1, false), (2, true)] {
        let tensors = transformer(step, Size::SMALL);
        let bytes: u64 = tensors.iter().map(|tensor| tensor.data.len() as u64).sum();
        let sent = runtime.block_on(sent_by_service(&place, direct, step, &tensors));
        assert_eq!(sent < bytes / 2, direct, "{sent} of {bytes} bytes came from the service, direct reads {direct}");
    }
}
