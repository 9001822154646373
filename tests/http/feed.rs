//! The log as a feed: who asks for what is not there yet is answered when it comes.

use std::time::{Duration, Instant};

use gigastore_tests::raw::Answer;
use serde_json::Value;

use crate::served::Served;

/// Records that `fill` makes.
const FILLED: u64 = 2;

async fn page(served: &Served, after: u64, wait_ms: u64) -> (Vec<Value>, Duration) {
    let started = Instant::now();
    let answer: Answer = served.get(&format!("/v1/projects/p/log?after={after}&wait_ms={wait_ms}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    (answer.json()["records"].as_array().unwrap().clone(), started.elapsed())
}

async fn tag(served: &Served, name: &str) {
    let target = format!("/v1/projects/p/tags/run/{name}");
    let answer = served.ask("PUT", &target, &[], b"{\"number\": 1}").await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn numbers(records: &[Value]) -> Vec<u64> {
    records.iter().map(|record| record["seq"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_answered_when_a_record_comes() {
    let served = Served::new().await;
    served.fill(None).await;
    let (waited, _) = tokio::join!(page(&served, FILLED, 15_000), async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        tag(&served, "good").await;
    });
    assert_eq!(numbers(&waited.0), [FILLED + 1]);
    let waited = waited.1;
    assert!(waited >= Duration::from_millis(600) && waited < Duration::from_secs(8), "{waited:?}");
    let (there, at_once) = page(&served, 0, 15_000).await;
    assert_eq!(numbers(&there), [1, 2, 3]);
    assert!(at_once < Duration::from_secs(5), "{at_once:?} for what was there");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_beyond_the_tail_is_empty_after_the_wait() {
    let served = Served::new().await;
    served.fill(None).await;
    for after in [FILLED, FILLED + 1, 1000, u64::MAX - 1, u64::MAX] {
        let (records, waited) = page(&served, after, 300).await;
        assert!(records.is_empty(), "after {after}: {records:?}");
        assert!(waited >= Duration::from_millis(300) && waited < Duration::from_secs(5), "after {after}: {waited:?}");
        assert!(page(&served, after, 0).await.1 < Duration::from_secs(2), "nobody asked to wait");
    }
    // A project that is not there yet is waited for too.
    let answer = served.get("/v1/projects/not-yet/log?after=0&wait_ms=200").await;
    assert_eq!((answer.status, answer.json()["records"].as_array().map(Vec::len)), (200, Some(0)));
    for query in ["after=-1", "after=x", "after=1.5", "after=18446744073709551616", "wait_ms=-1", "wait_ms=soon"] {
        let answer = served.get(&format!("/v1/projects/p/log?{query}")).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid".to_owned()), "{query}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_log_comes_in_pages_without_a_gap() {
    let served = Served::new().await;
    served.fill(None).await;
    for i in 0..40 {
        tag(&served, &format!("t{i}")).await;
    }
    let (mut after, mut seen, mut pages) = (0, Vec::new(), 0);
    loop {
        let (records, _) = page(&served, after, 0).await;
        let Some(last) = numbers(&records).last().copied() else { break };
        assert!(records.len() <= 16, "{} records at once", records.len());
        for record in &records {
            assert!(record["prev"].is_string() && record["entries"].is_array(), "{record}");
        }
        (after, pages) = (last, pages + 1);
        seen.extend(numbers(&records));
    }
    assert_eq!(seen, (1..=FILLED + 40).collect::<Vec<_>>());
    assert_eq!(pages, 3);
    // From any number on, the same records.
    for after in [1, 15, 16, 17, 41] {
        assert_eq!(numbers(&page(&served, after, 0).await.0)[0], after + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_says_nothing_of_the_store_and_leaves_nothing_in_it() {
    let served = Served::new().await;
    for _ in 0..50 {
        // Who goes away at once.
        let mut wire = gigastore_tests::raw::Wire::connect(served.address).await.unwrap();
        wire.request("GET", "/readyz", &[], b"").await.unwrap();
    }
    let asked = futures::future::join_all((0..50).map(|_| served.get("/readyz"))).await;
    assert!(asked.iter().all(|answer| (answer.status, &answer.body[..]) == (200, b"ready\n")));
    let probes = |files: Vec<std::path::PathBuf>| files.iter().any(|path| path.to_string_lossy().contains("/probes/"));
    assert!(!probes(served.files().into_keys().collect()), "a probe was left");
    // A store that can't be written, through a service that has not asked yet.
    let (address, _) = Served::another(&served.store_folder(), None, Default::default(), false).await;
    let folder = served.store_folder().join("probes");
    let _ = std::fs::remove_dir(&folder);
    std::fs::write(&folder, "in the way").unwrap();
    let asks = (0..20).map(|_| gigastore_tests::raw::ask(address, "GET", "/readyz", &[], b""));
    for answer in futures::future::join_all(asks).await {
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.code()), (503, "unavailable".to_owned()), "{answer:?}");
        assert!(!answer.text().contains("probes") && !answer.text().contains("tmp"), "{}", answer.text());
    }
}
