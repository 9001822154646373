//! Pins, drops and policies: what is kept is kept, by whoever asks last.

use std::sync::Arc;

use gigastore_client::checkpoint::SaveSpec;
use gigastore_client::store::Store;
use gigastore_engine::store::OpenMode;
use gigastore_formats::name::{Name, ProjectName, Target};
use gigastore_formats::object::ObjectKind;
use gigastore_formats::retention::{Policy, RetainReport, RetainRequest};
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::wire::{Fault, FaultCode};
use gigastore_tests::model::Tensor;
use gigastore_tests::opened::{open, save};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

type Below = Arc<dyn ObjectStore>;

fn project() -> ProjectName {
    "p".parse().unwrap()
}

fn run() -> Name {
    "run".parse().unwrap()
}

fn target(step: u64) -> Target {
    format!("p/run@{step}").parse().unwrap()
}

async fn filled(below: &Below, steps: impl Iterator<Item = u64>) -> Store {
    let store = open(Arc::clone(below), OpenMode::Create).await.unwrap();
    for step in steps {
        let data = step.to_le_bytes().repeat(100);
        let tensor = Tensor { name: "w".to_owned(), dtype: Dtype::U8, shape: vec![800], data: data.into() };
        save(&store, SaveSpec::new(project(), run(), step, 1), &[tensor]).await.unwrap();
    }
    store
}

async fn live(store: &Store) -> Vec<u64> {
    let names = store.project(&project()).await.unwrap().names;
    names[0].live.iter().map(|info| info.commit.number).collect()
}

async fn retain(store: &Store, dry_run: bool) -> Result<RetainReport, Fault> {
    let (name, policy) = (None, None);
    store.retain(&RetainRequest { project: project(), name, txn: store.new_txn("retain"), policy, dry_run }).await
}

#[tokio::test]
async fn what_is_pinned_tagged_or_newest_is_not_dropped() {
    let store = filled(&(Arc::new(InMemory::new()) as Below), 1..=4).await;
    store.pin(&target(1)).await.unwrap();
    store.set_tag(&target(2), &"best".parse().unwrap()).await.unwrap();
    for (step, word) in [(1, "pinned"), (2, "tagged best"), (4, "newest")] {
        let fault = store.drop_commit(&target(step)).await.unwrap_err();
        assert!(fault.code == FaultCode::Conflict && fault.message.contains(word), "{fault:?}");
    }
    store.drop_commit(&target(3)).await.unwrap();
    assert_eq!(store.drop_commit(&target(3)).await.unwrap_err().code, FaultCode::NotFound);
    store.unpin(&target(1)).await.unwrap();
    store.drop_commit(&target(1)).await.unwrap();
    assert_eq!(live(&store).await, [2, 4]);
    assert_eq!(store.pin(&target(1)).await.unwrap_err().code, FaultCode::NotFound, "a drop is final");
}

#[tokio::test]
async fn a_policy_is_stored_and_drops_what_no_rule_keeps() {
    let below: Below = Arc::new(InMemory::new());
    let store = filled(&below, (1..=12).map(|n| n * 10)).await;
    assert_eq!(retain(&store, false).await.unwrap().names, [], "no policy, no drops");
    store.pin(&target(30)).await.unwrap();
    store.set_tag(&target(50), &"best".parse().unwrap()).await.unwrap();
    let policy = Policy::new(Some(2), Some(40), None).unwrap();
    let nowhere: Name = "nowhere".parse().unwrap();
    let fault = store.set_policy(&project(), &nowhere, Some(&policy)).await.unwrap_err();
    assert_eq!((fault.code, fault.known), (FaultCode::NotFound, vec!["run".to_owned()]));
    store.set_policy(&project(), &run(), Some(&policy)).await.unwrap();
    // Of another process.
    let store = open(Arc::clone(&below), OpenMode::Existing).await.unwrap();
    assert_eq!(store.policies(&project()).await.unwrap()[0].policy, policy);
    let would = retain(&store, true).await.unwrap();
    assert_eq!(would.names[0].dropped, [10, 20, 60, 70, 90, 100]);
    assert_eq!(live(&store).await.len(), 12, "a dry run drops nothing");
    let before = store.project(&project()).await.unwrap().seq;
    let did = retain(&store, false).await.unwrap();
    assert_eq!((&did, did.names[0].newest_sound), (&would, Some(120)));
    assert_eq!(live(&store).await, [30, 40, 50, 80, 110, 120]);
    assert_eq!(store.project(&project()).await.unwrap().seq, before + 1, "all drops in one record");
    assert_eq!(retain(&store, false).await.unwrap().names[0].dropped, [0; 0]);
    store.set_policy(&project(), &run(), None).await.unwrap();
    assert!(store.policies(&project()).await.unwrap().is_empty());
    let tried = RetainRequest {
        project: project(),
        name: Some(run()),
        txn: store.new_txn("retain"),
        policy: Some(policy),
        dry_run: false,
    };
    assert_eq!(store.retain(&tried).await.unwrap_err().code, FaultCode::Invalid);
    assert!(store.retain(&RetainRequest { dry_run: true, ..tried }).await.is_ok());
}

#[tokio::test]
async fn the_newest_that_verifies_is_kept_whatever_the_policy_says() {
    let below: Below = Arc::new(InMemory::new());
    let store = filled(&below, 1..=6).await;
    let keep_one = Policy::new(Some(1), None, None).unwrap();
    store.set_policy(&project(), &run(), Some(&keep_one)).await.unwrap();
    // The newest has lost a pack, the one before it has a manifest with a flipped bit.
    let pack = store.packs(&target(6)).await.unwrap()[0].pack;
    below.delete(&Path::from(format!("projects/p/{}", pack.key(ObjectKind::Pack)))).await.unwrap();
    let manifest = store.resolve(&target(5)).await.unwrap().commit.manifest.object;
    let key = Path::from(format!("projects/p/{}", manifest.key(ObjectKind::Manifest)));
    let mut bytes = below.get(&key).await.unwrap().bytes().await.unwrap().to_vec();
    bytes[7] ^= 1;
    below.put(&key, bytes.into()).await.unwrap();
    let report = retain(&store, false).await.unwrap();
    assert_eq!((report.names[0].newest_sound, &report.names[0].damaged), (Some(4), &vec![6, 5]));
    assert_eq!(live(&store).await, [4, 6]);
    // Where none verifies nothing is dropped.
    let pack = store.packs(&target(4)).await.unwrap()[0].pack;
    below.delete(&Path::from(format!("projects/p/{}", pack.key(ObjectKind::Pack)))).await.unwrap();
    let report = retain(&store, false).await.unwrap();
    assert_eq!((report.names[0].newest_sound, report.names[0].dropped.len()), (None, 0));
    assert_eq!(live(&store).await, [4, 6]);
}
