//! Collection: what is dropped goes, what is live stays, and a collection that is cut off anywhere leaves a store that
//! the next one finishes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::TryStreamExt;
use gigastore_client::Coded;
use gigastore_client::checkpoint::SaveSpec;
use gigastore_client::store::Store;
use gigastore_engine::store::OpenMode;
use gigastore_formats::collect::{CollectReport, CollectRequest, FenceFate, UsageRequest};
use gigastore_formats::name::{ProjectName, Target};
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::wire::{Depth, FaultCode, VerifyRequest};
use gigastore_tests::faulty::{Failure, FaultyStore, Op, Verdict, plan};
use gigastore_tests::model::Tensor;
use gigastore_tests::opened::{open, save};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

type Below = Arc<dyn ObjectStore>;

fn project() -> ProjectName {
    "p".parse().unwrap()
}

fn target(text: &str) -> Target {
    format!("p/{text}").parse().unwrap()
}

/// A checkpoint of two tensors: one that every step shares, and one of its own.
fn tensors(step: u64) -> Vec<Tensor> {
    let tensor = |name: &str, byte: u8| {
        let data = vec![byte; 100_000];
        Tensor { name: name.to_owned(), dtype: Dtype::U8, shape: vec![100_000], data: data.into() }
    };
    vec![tensor("frozen", 255), tensor("own", step as u8)]
}

async fn save_step(store: &Store, step: u64) {
    let spec = SaveSpec::new(project(), "run".parse().unwrap(), step, 1);
    save(store, spec, &tensors(step)).await.unwrap();
}

fn request(store: &Store) -> CollectRequest {
    CollectRequest { grace_ms: 0, ..CollectRequest::new(project(), store.new_txn("fence")) }
}

async fn collect(store: &Store) -> CollectReport {
    store.collect(&request(store)).await.unwrap()
}

async fn keys(below: &dyn ObjectStore) -> BTreeSet<String> {
    below.list(Some(&Path::from("projects/p"))).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap()
}

/// Everything that is live is there and right, by every byte.
async fn check_sound(below: &Below) {
    let store = open(Arc::clone(below), OpenMode::Existing).await.unwrap();
    let request = VerifyRequest { project: project(), name: None, number: None, depth: Depth::Full };
    let report = store.verify(&request, &|_| {}).await.unwrap();
    assert_eq!(report.findings, []);
    for name in store.project(&project()).await.unwrap().names {
        for live in name.live {
            let step = live.commit.number;
            let checkpoint = store.checkpoint(&target(&format!("{}@{step}", name.name))).await.unwrap();
            let own = checkpoint.read_whole(gigastore_formats::tensor::slice::SliceKind::Tensor, "own").await.unwrap();
            assert!(own.iter().all(|byte| *byte == step as u8) && own.len() == 100_000, "step {step}");
        }
    }
}

/// What is dropped goes within two collections, and nothing else.
async fn dropped_goes(below: Below) {
    let store = open(Arc::clone(&below), OpenMode::Create).await.unwrap();
    for step in 1..=4 {
        save_step(&store, step).await;
    }
    // Long ago: what the epochs of their uploads protected is protected by the commits alone.
    for _ in 0..3 {
        let report = collect(&store).await;
        assert_eq!(report.deleted(), report.saves, "{report:?}");
    }
    check_sound(&below).await;
    let before = keys(&*below).await;
    store.drop_commit(&target("run@2")).await.unwrap();
    store.drop_commit(&target("run@1")).await.unwrap();
    let usage = store.usage(&UsageRequest { project: project(), grace_ms: 0 }).await.unwrap();
    assert_eq!((usage.live, usage.logical, usage.reclaimable.count), (2, 400_000, 0));
    assert!(usage.later.bytes > 100_000, "one pack of step 2, and manifests: {usage:?}");
    let report = collect(&store).await;
    assert!(matches!(report.fence, FenceFate::Raised(_)), "{report:?}");
    assert_eq!(report.swept.unwrap().epoch, report.epoch);
    assert_eq!((report.packs.count, report.manifests.count, report.live), (1, 6, 2), "{report:?}");
    let gone: Vec<String> = before.difference(&keys(&*below).await).cloned().collect();
    assert!(gone.iter().all(|key| !key.contains("/log/")), "log records are never deleted: {gone:?}");
    check_sound(&below).await;
    let again = collect(&store).await;
    assert_eq!(again.deleted().count, 0, "{again:?}");
    let usage = store.usage(&UsageRequest { project: project(), grace_ms: 0 }).await.unwrap();
    assert_eq!((usage.reclaimable.count, usage.later.count), (0, 0), "{usage:?}");
    assert_eq!(usage.stored, usage.needed);
}

#[tokio::test]
async fn what_is_dropped_goes_in_memory() {
    dropped_goes(Arc::new(InMemory::new())).await;
}

#[tokio::test]
async fn what_is_dropped_goes_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    dropped_goes(Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap())).await;
}

#[tokio::test]
async fn a_pack_stays_for_one_slice_that_a_later_step_shares() {
    let below: Below = Arc::new(InMemory::new());
    let store = open(Arc::clone(&below), OpenMode::Create).await.unwrap();
    save_step(&store, 1).await;
    save_step(&store, 2).await;
    store.drop_commit(&target("run@1")).await.unwrap();
    for _ in 0..4 {
        collect(&store).await;
    }
    check_sound(&below).await;
}

#[tokio::test]
async fn a_young_fence_condemns_and_does_not_delete() {
    let below: Below = Arc::new(InMemory::new());
    let store = open(Arc::clone(&below), OpenMode::Create).await.unwrap();
    for step in 1..=3 {
        save_step(&store, step).await;
    }
    store.drop_commit(&target("run@2")).await.unwrap();
    for _ in 0..3 {
        let request = CollectRequest { grace_ms: 3_600_000, ..request(&store) };
        let report = store.collect(&request).await.unwrap();
        assert_eq!((report.swept, report.deleted().count), (None, 0));
    }
    let dry = CollectRequest { dry_run: true, fence: false, ..request(&store) };
    let before = keys(&*below).await;
    let would = store.collect(&dry).await.unwrap();
    assert!(would.packs.count == 1 && would.fence == FenceFate::NotAsked, "{would:?}");
    assert_eq!(keys(&*below).await, before, "a dry run changes nothing");
    let did = store.collect(&CollectRequest { dry_run: false, ..dry }).await.unwrap();
    assert_eq!(did.deleted(), would.deleted());
    check_sound(&below).await;
}

#[tokio::test]
async fn a_save_that_lost_its_step_to_another_holds_no_fence() {
    let below: Below = Arc::new(InMemory::new());
    let store = open(Arc::clone(&below), OpenMode::Create).await.unwrap();
    let spec = |step| SaveSpec::new(project(), "run".parse().unwrap(), step, 1);
    let late = store.begin_save(spec(1), Default::default()).await.unwrap();
    save_step(&store, 1).await;
    late.rank(0, gigastore_tests::opened::slices(&tensors(2), 0, 1)).await.unwrap();
    late.finish().await.unwrap_err();
    for _ in 0..3 {
        assert!(matches!(collect(&store).await.fence, FenceFate::Raised(_)));
    }
    late.finish().await.unwrap_err();
    check_sound(&below).await;
}

#[tokio::test]
async fn an_open_save_holds_the_fence_until_it_ends_or_is_abandoned() {
    let below: Below = Arc::new(InMemory::new());
    let store = open(Arc::clone(&below), OpenMode::Create).await.unwrap();
    save_step(&store, 1).await;
    let spec = |step| SaveSpec::new(project(), "run".parse().unwrap(), step, 1);
    let open_save = store.begin_save(spec(7), Default::default()).await.unwrap();
    assert!(matches!(collect(&store).await.fence, FenceFate::Raised(_)), "it began in this epoch");
    let FenceFate::Held(held) = collect(&store).await.fence else { panic!("not held") };
    assert_eq!((held.step, held.epoch), (Some(7), Some(0)));
    // Its uploads are of the older epoch, and still good.
    open_save.rank(0, gigastore_tests::opened::slices(&tensors(7), 0, 1)).await.unwrap();
    open_save.finish().await.unwrap();
    assert!(matches!(collect(&store).await.fence, FenceFate::Raised(_)));
    check_sound(&below).await;
    assert!(!keys(&*below).await.iter().any(|key| key.contains("/saves/")), "saves in the log leave nothing");

    let abandoned = store.begin_save(spec(8), Default::default()).await.unwrap();
    collect(&store).await;
    assert!(matches!(collect(&store).await.fence, FenceFate::Held(_)));
    let request = CollectRequest { save_timeout_ms: 0, ..request(&store) };
    let report = store.collect(&request).await.unwrap();
    assert!(matches!(report.fence, FenceFate::Raised(_)) && report.saves.count == 1, "{report:?}");
    // It lives after all: nothing of it is lost, as nothing was acknowledged.
    for _ in 0..2 {
        collect(&store).await;
    }
    abandoned.rank(0, gigastore_tests::opened::slices(&tensors(8), 0, 1)).await.unwrap();
    if abandoned.finish().await.is_err() {
        save_step(&store, 8).await;
    }
    check_sound(&below).await;
}

#[tokio::test]
async fn a_manifest_that_cant_be_read_stops_everything() {
    let below: Below = Arc::new(InMemory::new());
    let store = open(Arc::clone(&below), OpenMode::Create).await.unwrap();
    for step in 1..=3 {
        save_step(&store, step).await;
    }
    store.drop_commit(&target("run@2")).await.unwrap();
    let info = store.resolve(&target("run@1")).await.unwrap();
    let indexes: Vec<_> = info.commit.indexes().cloned().collect();
    for (i, index) in indexes.into_iter().enumerate() {
        let key =
            Path::from(format!("projects/p/{}", index.object.key(gigastore_formats::object::ObjectKind::Manifest)));
        let true_bytes = below.get(&key).await.unwrap().bytes().await.unwrap();
        let mut bytes = true_bytes.to_vec();
        bytes[10] ^= 1;
        for damage in [Some(bytes), None] {
            match damage {
                Some(bytes) => drop(below.put(&key, bytes.into()).await.unwrap()),
                None => below.delete(&key).await.unwrap(),
            }
            for _ in 0..3 {
                let _ = store.collect(&CollectRequest { grace_ms: u64::MAX, ..request(&store) }).await.unwrap();
            }
            let before = keys(&*below).await;
            if i > 0 {
                // What the list of packs and the timeline say, the manifest says, or nobody needs to know.
                let report = store.collect(&CollectRequest { dry_run: true, ..request(&store) }).await.unwrap();
                assert_eq!((report.live, report.packs.count), (2, 1), "{report:?}");
                continue;
            }
            let fault = store.collect(&CollectRequest { fence: false, ..request(&store) }).await.unwrap_err();
            assert!(matches!(fault.code, FaultCode::Integrity | FaultCode::Lost), "{fault:?}");
            assert!(fault.message.contains("run@1") && fault.object.as_deref() == Some(key.as_ref()), "{fault:?}");
            assert_eq!(keys(&*below).await, before);
        }
        below.put(&key, true_bytes.into()).await.unwrap();
    }
    assert!(collect(&store).await.packs.count >= 1);
    check_sound(&below).await;
}

/// A store with garbage of every kind, and two fences that condemn it.
async fn with_garbage() -> Below {
    let below: Below = Arc::new(InMemory::new());
    let store = open(Arc::clone(&below), OpenMode::Create).await.unwrap();
    for step in 1..=3 {
        save_step(&store, step).await;
    }
    store.drop_commit(&target("run@2")).await.unwrap();
    for _ in 0..2 {
        let request = CollectRequest { grace_ms: u64::MAX, ..request(&store) };
        store.collect(&request).await.unwrap();
    }
    below
}

async fn copy(from: &dyn ObjectStore) -> Below {
    let to: Below = Arc::new(InMemory::new());
    let all: Vec<_> = from.list(None).try_collect().await.unwrap();
    for meta in all {
        let bytes = from.get(&meta.location).await.unwrap().bytes().await.unwrap();
        to.put(&meta.location, bytes.into()).await.unwrap();
    }
    to
}

#[tokio::test]
async fn a_collection_that_is_cut_off_anywhere_is_finished_by_the_next() {
    let template = with_garbage().await;
    let whole = copy(&*template).await;
    let clean = open(Arc::clone(&whole), OpenMode::Existing).await.unwrap();
    collect(&clean).await;
    let left: BTreeSet<String> = keys(&*whole).await.into_iter().filter(|key| !key.contains("/log/")).collect();
    let mut n = 1;
    loop {
        let mut ended = false;
        for verdict in [Verdict::FailBefore(Failure::PermissionDenied), Verdict::FailAfter(Failure::PermissionDenied)] {
            let below = copy(&*template).await;
            let faulty = Arc::new(FaultyStore::new(Arc::clone(&below)));
            let store = open(Arc::<FaultyStore>::clone(&faulty), OpenMode::Existing).await.unwrap();
            let first = faulty.log().len() as u64;
            faulty.set_plan(plan::starting_at(first + n, verdict));
            ended = store.collect(&request(&store)).await.is_ok() && faulty.log().len() as u64 - first < n;
            let store = open(Arc::clone(&below), OpenMode::Existing).await.unwrap();
            collect(&store).await;
            let now: BTreeSet<String> = keys(&*below).await.into_iter().filter(|key| !key.contains("/log/")).collect();
            assert_eq!(now, left, "operation {n}, {verdict:?}");
            check_sound(&below).await;
        }
        if ended {
            break;
        }
        n += 1;
    }
    assert!(n > 30, "{n} operations");
}

#[tokio::test]
async fn two_collectors_at_once_do_the_work_of_one() {
    let below = with_garbage().await;
    let (a, b) =
        (open(Arc::clone(&below), OpenMode::Existing).await, open(Arc::clone(&below), OpenMode::Existing).await);
    let (a, b) = (a.unwrap(), b.unwrap());
    let (asked_a, asked_b) = (request(&a), request(&b));
    let (one, other) = futures::join!(a.collect(&asked_a), b.collect(&asked_b));
    let raised = [one.unwrap(), other.unwrap()].iter().filter(|r| matches!(r.fence, FenceFate::Raised(_))).count();
    assert!(raised >= 1);
    check_sound(&below).await;
    // The same request again, as after a lost answer: no second fence.
    let epoch = collect(&a).await.epoch;
    assert_eq!(a.collect(&asked_a).await.unwrap().epoch, epoch);
}

#[tokio::test]
async fn a_log_whose_answers_are_lost_still_gets_one_fence() {
    let below = with_garbage().await;
    let lost = plan::on(Op::Create, "/log/0", 1, Verdict::FailAfter(Failure::Unavailable));
    let faulty: Below = Arc::new(FaultyStore::with_plan(Arc::clone(&below), lost));
    let store = open(faulty, OpenMode::Existing).await.unwrap();
    let report = collect(&store).await;
    assert!(matches!(report.fence, FenceFate::Raised(fence) if fence.epoch == 3), "{report:?}");
    assert_eq!(collect(&store).await.epoch, 4);
}

#[tokio::test]
async fn a_project_that_is_not_there_gets_no_log() {
    let below: Below = Arc::new(InMemory::new());
    let store = open(Arc::clone(&below), OpenMode::Create).await.unwrap();
    save_step(&store, 1).await;
    let request = CollectRequest::new("q".parse().unwrap(), store.new_txn("fence"));
    let fault = store.collect(&request).await.unwrap_err();
    assert_eq!((fault.code, fault.known), (FaultCode::NotFound, vec!["p".to_owned()]));
    assert_eq!(store.projects().await.unwrap(), [project()]);
}

/// Saves steps one after another, and drops all but the newest two; returns the steps that stay.
async fn writer(below: Below, n: u64, steps: u64) -> (String, Vec<u64>) {
    let store = open(below, OpenMode::Existing).await.unwrap();
    let name = format!("run-{n}");
    for step in 1..=steps {
        let mut tries = 0;
        loop {
            let spec = SaveSpec::new(project(), name.parse().unwrap(), step, 1);
            match save(&store, spec, &tensors(step)).await {
                Ok(_) => break,
                // Two fences passed while it was on its way: it says so, and begins again.
                Err(error) => assert!(error.code() == FaultCode::Conflict && tries < 50, "{name}@{step}: {error}"),
            }
            tries += 1;
        }
        if step > 2 {
            store.drop_commit(&format!("p/{name}@{}", step - 2).parse().unwrap()).await.unwrap();
        }
    }
    (name, vec![steps - 1, steps])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_outlives_collectors_that_never_rest() {
    let below: Below = Arc::new(InMemory::new());
    save_step(&open(Arc::clone(&below), OpenMode::Create).await.unwrap(), 1).await;
    let deleted = Arc::new(AtomicU64::new(0));
    let collectors = (0..2).map(|_| {
        let (below, deleted) = (Arc::clone(&below), Arc::clone(&deleted));
        tokio::spawn(async move {
            let store = open(below, OpenMode::Existing).await.unwrap();
            loop {
                let report = store.collect(&request(&store)).await.unwrap();
                deleted.fetch_add(report.deleted().count, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        })
    });
    let collectors: Vec<_> = collectors.collect();
    let writers: Vec<_> = (0..6).map(|n| tokio::spawn(writer(Arc::clone(&below), n, 8))).collect();
    for done in futures::future::join_all(writers).await {
        let (name, expected) = done.unwrap();
        let store = open(Arc::clone(&below), OpenMode::Existing).await.unwrap();
        let names = store.project(&project()).await.unwrap().names;
        let named = names.iter().find(|one| one.name.as_str() == name).unwrap();
        let live: Vec<u64> = named.live.iter().map(|info| info.commit.number).collect();
        assert_eq!(live, expected, "{name}");
    }
    for collector in collectors {
        collector.abort();
        // It ends by that, or has failed before.
        assert!(collector.await.unwrap_err().is_cancelled());
    }
    assert!(deleted.load(Ordering::Relaxed) > 50, "they had something to do");
    check_sound(&below).await;
}
