//! Records that arrive together: what waits for one log in one process shares records, and each operation has its own
//! fate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use gigastore_client::Coded;
use gigastore_client::checkpoint::SaveSpec;
use gigastore_client::store::Store;
use gigastore_engine::Engine;
use gigastore_engine::store::OpenMode;
use gigastore_formats::collect::CollectRequest;
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::record::{Action, Record, TxnId};
use gigastore_formats::retention::Verb;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::wire::{Fault, FaultCode};
use gigastore_tests::faulty::{Failure, FaultyStore, Op, Verdict};
use gigastore_tests::model::Tensor;
use gigastore_tests::opened::{engine, open, save};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{ObjectStore, ObjectStoreExt};

type Below = Arc<dyn ObjectStore>;

/// Runs that are written to at once.
const RUNS: u64 = 32;

fn project() -> ProjectName {
    "p".parse().unwrap()
}

fn run(n: u64) -> Name {
    format!("run-{n}").parse().unwrap()
}

fn tensor(n: u64) -> Tensor {
    let data = n.to_le_bytes().to_vec();
    Tensor { name: "w".to_owned(), dtype: Dtype::U8, shape: vec![8], data: data.into() }
}

/// A store with two steps of each run.
async fn filled(below: &Below) -> Store {
    let store = open(Arc::clone(below), OpenMode::Create).await.unwrap();
    for step in 1..=2 {
        let saves = (0..RUNS).map(|n| {
            let (store, spec) = (store.clone(), SaveSpec::new(project(), run(n), step, 1));
            async move { save(&store, spec, &[tensor(n * 10 + step)]).await.unwrap() }
        });
        join_all(saves).await;
    }
    store
}

async fn records(below: &dyn ObjectStore) -> Vec<Record> {
    let (mut prev, mut records) = (Record::origin(), Vec::new());
    loop {
        let seq = records.len() as u64 + 1;
        let Ok(found) = below.get(&Path::from(format!("projects/p/log/{seq:020}.json"))).await else { return records };
        let (record, digest) = Record::unseal(&found.bytes().await.unwrap(), seq, prev).unwrap();
        prev = digest;
        records.push(record);
    }
}

fn txn(what: &str, n: u64) -> TxnId {
    TxnId::derive(&[what.as_bytes(), &n.to_le_bytes()])
}

fn code(error: &gigastore_engine::log::AppendError<gigastore_engine::KeepRefusal>) -> FaultCode {
    Fault::from(error).code
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_together_shares_records_and_stands_once() {
    let below: Below = Arc::new(InMemory::new());
    filled(&below).await;
    let before = records(&*below).await.len();
    // A put that takes a while, as on any disk or network: others arrive meanwhile.
    let slow = ThrottleConfig { wait_put_per_call: Duration::from_millis(20), ..ThrottleConfig::default() };
    let slow: Below = Arc::new(ThrottledStore::new(Arc::clone(&below), slow));
    let engine: Engine = engine(slow, OpenMode::Existing).await.unwrap();
    // Of each run: a pin of what is there, one of what is not, and the first again, as a retry.
    let pins = (0..RUNS).flat_map(|n| [(n, 1, "pin"), (n, 9, "absent"), (n, 1, "pin")]).map(|(n, step, what)| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.keep(&project(), txn(what, n), Verb::Pin, &run(n), step).await })
    });
    for (i, done) in join_all(pins).await.into_iter().enumerate() {
        match (i % 3, done.unwrap()) {
            (1, Err(error)) => assert_eq!(code(&error), FaultCode::NotFound, "{error}"),
            (1, Ok(done)) => panic!("{done:?}"),
            (_, done) => assert!(done.is_ok(), "one's refusal is no other's: {done:?}"),
        }
    }
    let records = records(&*below).await;
    let pins: Vec<&Record> = records[before..].iter().collect();
    let mut counts: BTreeMap<TxnId, u32> = BTreeMap::new();
    pins.iter().flat_map(|record| &record.entries).for_each(|entry| *counts.entry(entry.txn).or_default() += 1);
    assert_eq!(counts, (0..RUNS).map(|n| (txn("pin", n), 1)).collect(), "each once, and nothing that was refused");
    assert!(pins.len() < RUNS as usize / 2, "{} records for {RUNS} pins", pins.len());
    for record in pins {
        let mut names: Vec<_> = record.entries.iter().map(|entry| format!("{:?}", entry.action)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), record.entries.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_on_one_run_are_judged_one_after_another() {
    let below: Below = Arc::new(InMemory::new());
    filled(&below).await;
    let engine = engine(Arc::clone(&below), OpenMode::Existing).await.unwrap();
    let asked = (0..RUNS).flat_map(|n| [(n, Verb::Drop), (n, Verb::Pin)]).map(|(n, verb)| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.keep(&project(), txn(&format!("{verb:?}"), n), verb, &run(n), 1).await })
    });
    let done: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
    let state = engine.state(&project()).await.unwrap();
    for (n, pair) in done.chunks(2).enumerate() {
        let live = state.live(&run(n as u64), 1).is_some();
        match (&pair[0], &pair[1]) {
            (Ok(_), Err(error)) => assert!(!live && code(error) == FaultCode::NotFound, "{error}"),
            (Err(error), Ok(_)) => assert!(live && code(error) == FaultCode::Conflict, "{error}"),
            both => panic!("of a drop and a pin exactly one takes effect: {both:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_stands_alone_and_others_go_on() {
    let below: Below = Arc::new(InMemory::new());
    let store = filled(&below).await;
    let saves = (0..RUNS).map(|n| {
        let (store, spec) = (store.clone(), SaveSpec::new(project(), run(n), 3, 1));
        tokio::spawn(async move { save(&store, spec, &[tensor(n * 10 + 3)]).await.map(drop) })
    });
    let collects = (0..3).map(|n| {
        let store = store.clone();
        let request = CollectRequest { grace_ms: 0, ..CollectRequest::new(project(), txn("fence", n)) };
        tokio::spawn(async move { store.collect(&request).await.map(drop).map_err(|fault| panic!("{fault:?}")) })
    });
    let (saved, collected) = futures::join!(join_all(saves), join_all(collects));
    collected.into_iter().for_each(|done| done.unwrap().unwrap());
    for done in saved {
        // Three fences may pass a save that is not announced yet; it says so then.
        if let Err(error) = done.unwrap() {
            assert_eq!(error.code(), FaultCode::Conflict, "{error}");
        }
    }
    for record in records(&*below).await {
        let fences = record.entries.iter().filter(|entry| matches!(entry.action, Action::Fence { .. })).count();
        assert!(fences == 0 || record.entries.len() == 1, "{record:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_fails_fails_all_who_wait_for_it_and_nobody_else() {
    let below: Below = Arc::new(InMemory::new());
    filled(&below).await;
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&below)));
    let engine = engine(Arc::<FaultyStore>::clone(&faulty), OpenMode::Existing).await.unwrap();
    let refusals = AtomicU64::new(0);
    // The first record of what comes now is refused for good, and nothing later.
    faulty.set_plan(Box::new(move |operation| {
        let record = operation.op == Op::Create && operation.path.contains("/log/0");
        match record && refusals.fetch_add(1, Ordering::SeqCst) == 0 {
            true => Verdict::FailBefore(Failure::PermissionDenied),
            false => Verdict::Pass,
        }
    }));
    let pins = (0..RUNS).map(|n| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.keep(&project(), txn("pin", n), Verb::Pin, &run(n), 1).await })
    });
    let done: Vec<_> = join_all(pins).await.into_iter().map(Result::unwrap).collect();
    let denied = done.iter().filter_map(|done| done.as_ref().err());
    assert!(denied.clone().count() >= 1 && denied.clone().all(|error| code(error) == FaultCode::Denied), "{done:?}");
    let state = engine.state(&project()).await.unwrap();
    for (n, done) in done.iter().enumerate() {
        assert_eq!(state.names[&run(n as u64)].pins.contains(&1), done.is_ok(), "run {n}");
    }
    // Asked again, each takes effect.
    for n in 0..RUNS {
        engine.keep(&project(), txn("pin", n), Verb::Pin, &run(n), 1).await.unwrap();
    }
}
