//! Upkeep through a service: who may, what is answered, and what the service does by itself.

use std::time::Duration;

use gigastore_client::store::Store;
use gigastore_formats::collect::{CollectRequest, FenceFate, UsageRequest};
use gigastore_formats::name::Target;
use gigastore_formats::retention::{Policy, RetainRequest};
use gigastore_formats::wire::FaultCode;
use gigastore_server::{Access, Limits};
use gigastore_tests::model::{Size, transformer};
use gigastore_tests::opened::save;
use serde_json::json;

use crate::served::{Served, Setup, bearer, spec, token};

async fn steps(store: &Store, steps: u64) {
    for step in 1..=steps {
        save(store, spec("p", "run", step, 1), &transformer(step, Size::TINY)).await.unwrap();
    }
}

fn target(step: u64) -> Target {
    format!("p/run@{step}").parse().unwrap()
}

fn request(store: &Store) -> CollectRequest {
    CollectRequest { grace_ms: 0, ..CollectRequest::new("p".parse().unwrap(), store.new_txn("fence")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_a_service_keeps_drops_and_collects() {
    let served = Served::new().await;
    let store = served.store(None);
    steps(&store, 5).await;
    store.pin(&target(1)).await.unwrap();
    assert!(store.resolve(&target(1)).await.unwrap().pinned);
    assert_eq!(store.drop_commit(&target(1)).await.unwrap_err().code, FaultCode::Conflict);
    store.unpin(&target(1)).await.unwrap();
    store.drop_commit(&target(1)).await.unwrap();
    let fault = store.drop_commit(&"p/run@latest".parse().unwrap()).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Conflict);
    let policy = Policy::new(Some(2), None, None).unwrap();
    store.set_policy(&"p".parse().unwrap(), &"run".parse().unwrap(), Some(&policy)).await.unwrap();
    assert_eq!(store.policies(&"p".parse().unwrap()).await.unwrap()[0].policy, policy);
    let retain = RetainRequest {
        project: "p".parse().unwrap(),
        name: None,
        txn: store.new_txn("retain"),
        policy: None,
        dry_run: false,
    };
    assert_eq!(store.retain(&retain).await.unwrap().names[0].dropped, [2, 3]);
    let (collect, mut deleted) = (request(&store), 0);
    for _ in 0..2 {
        // The same request twice is one fence.
        let report = store.collect(&collect).await.unwrap();
        assert!(matches!(report.fence, FenceFate::Raised(fence) if fence.epoch == 1), "{report:?}");
        deleted += report.deleted().bytes;
    }
    let report = store.collect(&request(&store)).await.unwrap();
    assert!(report.packs.count >= 1 && report.live == 2, "{report:?}");
    let usage = store.usage(&UsageRequest { project: "p".parse().unwrap(), grace_ms: 0 }).await.unwrap();
    assert_eq!((usage.stored, usage.later.count), (usage.needed, 0));
    assert_eq!(served.metric("gigastore_collected_bytes_total").await, report.deleted().bytes + deleted);
    assert_eq!(served.metric("gigastore_retention_drops_total").await, 2);
    assert!(served.metric("gigastore_collection_age_seconds{project=\"p\"}").await < 60);
    let again = CollectRequest { project: "q".parse().unwrap(), ..request(&store) };
    assert_eq!(store.collect(&again).await.unwrap_err().code, FaultCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_and_collecting_need_more_than_writing() {
    let (writer, text) = token(1, "p", Access::Write, None);
    let served = Served::with(Setup { tokens: vec![writer], ..Setup::default() }).await;
    let store = served.store(Some(&text));
    steps(&store, 2).await;
    store.pin(&target(1)).await.unwrap();
    store.unpin(&target(1)).await.unwrap();
    assert_eq!(store.drop_commit(&target(1)).await.unwrap_err().code, FaultCode::Denied);
    assert_eq!(store.collect(&request(&store)).await.unwrap_err().code, FaultCode::Denied);
    let headers = [("Authorization", bearer(&text))];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let body = json!({ "policy": { "version": 1, "last": 1 } }).to_string();
    let answer = served.ask("PUT", "/v1/projects/p/policies/run", &headers, body.as_bytes()).await;
    assert_eq!(answer.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused() {
    let served = Served::new().await;
    steps(&served.store(None), 2).await;
    let ask = async |method: &str, path: &str, body: serde_json::Value| {
        let answer = served.ask(method, &format!("/v1/projects/p/{path}"), &[], body.to_string().as_bytes()).await;
        (answer.status, answer.code())
    };
    let invalid = (400, "invalid".to_owned());
    assert_eq!(ask("DELETE", "names/run/latest", json!(null)).await, invalid);
    assert_eq!(ask("DELETE", "names/run/1?txn=x", json!(null)).await, invalid);
    assert_eq!(ask("PUT", "pins/run/1", json!({ "x": 1 })).await, invalid);
    for policy in [json!({ "version": 1 }), json!({ "version": 1, "last": 0 }), json!({ "version": 2, "last": 1 })] {
        assert_eq!(ask("PUT", "policies/run", json!({ "policy": policy })).await, invalid);
    }
    let other = json!({ "project": "q", "txn": "0".repeat(64) });
    for path in ["collect", "retain", "usage"] {
        assert_eq!(ask("POST", path, other.clone()).await, invalid, "{path}");
    }
    assert_eq!(ask("DELETE", "names/run/7", json!(null)).await, (404, "not_found".to_owned()));
    assert_eq!(ask("DELETE", "names/run/1", json!(null)).await.0, 200, "one operation of its own");
    served.check_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_collects_by_itself() {
    let every = Some(Duration::from_secs(1));
    let limits = Limits { collect_every: every, collect_grace: Duration::ZERO, ..Limits::default() };
    let served = Served::with(Setup { limits, ..Setup::default() }).await;
    let store = served.store(None);
    steps(&store, 3).await;
    let policy = Policy::new(Some(1), None, None).unwrap();
    store.set_policy(&"p".parse().unwrap(), &"run".parse().unwrap(), Some(&policy)).await.unwrap();
    let packs = || served.files().into_keys().filter(|path| path.to_str().unwrap().contains("/packs/")).count();
    let before = packs();
    for _ in 0..200 {
        if packs() < before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(packs() < before, "nothing was collected in 20 s");
    assert_eq!(served.metric("gigastore_retention_drops_total").await, 2);
    assert!(served.metric("gigastore_collected_bytes_total").await > 0);
    assert_eq!(served.metric("gigastore_collection_failures_total").await, 0);
    assert!(store.resolve(&target(3)).await.is_ok() && store.resolve(&target(2)).await.is_err());
}
