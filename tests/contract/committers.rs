//! Many committers on one log, on stores that lose answers and lie: every transaction stands in the log exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::join_all;
use gigastore_client::Coded;
use gigastore_client::checkpoint::SaveSpec;
use gigastore_engine::store::OpenMode;
use gigastore_formats::record::{Action, Record, SaveBegin, TxnId};
use gigastore_formats::wire::FaultCode;
use gigastore_tests::faulty::{Failure, FaultyStore, Op, Plan, Verdict};
use gigastore_tests::model::Tensor;
use gigastore_tests::opened::{open, save};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

/// Committers at once, each with a view of its own, as 64 processes would have.
const COMMITTERS: u32 = 64;

/// Checkpoints that each commits.
const SAVES: u64 = 3;

/// Calls of one save until it is acknowledged; more mean that it never will be.
const ATTEMPTS: usize = 100;

type Below = Arc<dyn ObjectStore>;

fn spec(committer: u32, step: u64) -> SaveSpec {
    let run = format!("run-{committer}").parse().unwrap();
    SaveSpec { attempt: Some("job".to_owned()), ..SaveSpec::new("p".parse().unwrap(), run, step, 1) }
}

fn txn(committer: u32, step: u64) -> TxnId {
    let spec = spec(committer, step);
    SaveBegin::id(&spec.project, &spec.run, step, "job")
}

fn tensor(committer: u32, step: u64) -> Tensor {
    let data = format!("committer {committer}, step {step}").into_bytes();
    let shape = vec![data.len() as u64];
    Tensor { name: "w".to_owned(), dtype: gigastore_formats::tensor::dtype::Dtype::U8, shape, data: data.into() }
}

/// Commits until every save is acknowledged. At every third failure the client is opened anew, as a restarted process
/// would.
async fn commit_all(below: Below, committer: u32) {
    for step in 0..SAVES {
        let (mut failures, mut opened) = (Vec::new(), None);
        loop {
            assert!(failures.len() < ATTEMPTS, "committer {committer}, step {step}: {failures:#?}");
            if failures.len() % 3 == 0 {
                opened = None;
            }
            let store = match opened.take() {
                Some(store) => store,
                None => match open(Arc::clone(&below), OpenMode::Create).await {
                    Ok(store) => store,
                    Err(error) => {
                        failures.push(error.to_string());
                        continue;
                    }
                },
            };
            match save(opened.insert(store), spec(committer, step), &[tensor(committer, step)]).await {
                Ok(_) => break,
                Err(error) => {
                    let retryable = matches!(error.code(), FaultCode::Unavailable | FaultCode::CommitStateUnknown);
                    assert!(retryable, "committer {committer}, step {step}: {error}");
                    failures.push(error.to_string());
                }
            }
        }
    }
}

/// Reads the log from its first record, checks the chain, and returns how often each transaction stands in it.
async fn transactions(below: &dyn ObjectStore) -> (u64, BTreeMap<TxnId, u32>) {
    let (mut prev, mut counts) = (Record::origin(), BTreeMap::new());
    for seq in 1.. {
        let key = Path::from(format!("projects/p/log/{seq:020}.json"));
        let bytes = match below.get(&key).await {
            Ok(found) => found.bytes().await.unwrap(),
            Err(object_store::Error::NotFound { .. }) => return (seq - 1, counts),
            Err(error) => panic!("{error}"),
        };
        let (record, digest) = Record::unseal(&bytes, seq, prev).unwrap();
        for entry in record.entries.iter().filter(|entry| matches!(entry.action, Action::Commit(_))) {
            *counts.entry(entry.txn).or_default() += 1;
        }
        prev = digest;
    }
    unreachable!("the numbers do not end")
}

async fn run(below: Below, faults: fn(u32) -> Option<Plan>) {
    let work = (0..COMMITTERS).map(|committer| {
        let below: Below = match faults(committer) {
            Some(plan) => Arc::new(FaultyStore::with_plan(Arc::clone(&below), plan)),
            None => Arc::clone(&below),
        };
        tokio::spawn(commit_all(below, committer))
    });
    for done in join_all(work).await {
        done.unwrap();
    }
    let (records, counts) = transactions(&*below).await;
    let all = || (0..COMMITTERS).flat_map(|committer| (0..SAVES).map(move |step| (committer, step)));
    let expected: BTreeMap<TxnId, u32> = all().map(|(committer, step)| (txn(committer, step), 1)).collect();
    assert_eq!(counts, expected, "every transaction exactly once, and no other");
    assert_eq!(records, u64::from(COMMITTERS) * SAVES);
    let store = open(below, OpenMode::Existing).await.unwrap();
    let info = store.project(&"p".parse().unwrap()).await.unwrap();
    let live: BTreeSet<(String, u64)> = info
        .names
        .iter()
        .flat_map(|name| name.live.iter().map(|live| (name.name.to_string(), live.commit.number)))
        .collect();
    assert_eq!(live, all().map(|(committer, step)| (format!("run-{committer}"), step)).collect());
}

/// Fails about one in forty operations, as object stores do: before and after the effect, and with answers that lie.
fn one_in_forty(committer: u32) -> Option<Plan> {
    Some(Box::new(move |operation| {
        // The finalizer of splitmix64: operations of all committers fail independently, and the same in each run.
        let mut mixed = (u64::from(committer) << 32 | operation.n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        match ((mixed ^ (mixed >> 31)) % 160, operation.op) {
            (0, _) => Verdict::FailBefore(Failure::Unavailable),
            (1, _) => Verdict::FailAfter(Failure::Unavailable),
            (2, Op::Create) => Verdict::FailBefore(Failure::AlreadyExists),
            (3, Op::Create) => Verdict::FailAfter(Failure::AlreadyExists),
            (2 | 3, _) => Verdict::FailBefore(Failure::TIMED_OUT),
            _ => Verdict::Pass,
        }
    }))
}

/// Lies at the log alone, at every second creation of a record.
fn lies_at_the_log(committer: u32) -> Option<Plan> {
    Some(Box::new(move |operation| {
        let record = operation.op == Op::Create && operation.path.contains("/log/0");
        match (record, (u64::from(committer) + operation.n) % 6) {
            (true, 0) => Verdict::FailBefore(Failure::AlreadyExists),
            (true, 1) => Verdict::FailAfter(Failure::AlreadyExists),
            (true, 2) => Verdict::FailAfter(Failure::TIMED_OUT),
            _ => Verdict::Pass,
        }
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_in_memory() {
    run(Arc::new(InMemory::new()), |_| None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    run(Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap()), |_| None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_on_a_store_that_fails() {
    run(Arc::new(InMemory::new()), one_in_forty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_on_a_log_that_lies() {
    run(Arc::new(InMemory::new()), lies_at_the_log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_in_a_folder_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    run(Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap()), one_in_forty).await;
}
