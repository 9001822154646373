//! Saves that are run again after something came between: a drop, a sweep.
//!
//! Each was first found by the simulation. Must never need another attempt than the first run had.

use std::sync::Arc;

use gigastore_client::checkpoint::SaveSpec;
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_engine::store::OpenMode;
use gigastore_formats::record::TxnId;
use gigastore_formats::retention::Verb;
use gigastore_formats::wire::{Committed, FaultCode};
use gigastore_tests::faulty::{Failure, FaultyStore, Op, Verdict, plan};
use gigastore_tests::model::{Size, Tensor, transformer};
use gigastore_tests::opened::{engine, open, save, slices};
use object_store::ObjectStore;
use object_store::memory::InMemory;

fn spec(step: u64, attempt: &str) -> SaveSpec {
    let attempt = Some(attempt.to_owned());
    SaveSpec { attempt, ..SaveSpec::new("p".parse().unwrap(), "run".parse().unwrap(), step, 1) }
}

async fn deliver(store: &Store, tensors: &[Tensor]) {
    let save = store.begin_save(spec(1, "second"), Progress::default()).await.unwrap();
    save.rank(0, slices(tensors, 0, 1)).await.unwrap();
}

async fn drop_step_1(below: &Arc<dyn ObjectStore>) {
    let engine = engine(Arc::clone(below), OpenMode::Existing).await.unwrap();
    let (project, run) = ("p".parse().unwrap(), "run".parse().unwrap());
    engine.keep(&project, TxnId::derive(&[b"drop"]), Verb::Drop, &run, 1).await.unwrap();
}

fn is_new(committed: Committed) {
    assert!(!committed.existed, "{committed:?}");
}

#[tokio::test]
async fn a_step_that_was_there_and_is_dropped_is_saved_by_the_same_attempt() {
    let below: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (store, tensors) = (open(Arc::clone(&below), OpenMode::Create).await.unwrap(), transformer(1, Size::TINY));
    for step in [1, 2] {
        save(&store, spec(step, "first"), &tensors).await.unwrap();
    }
    // This part says that its content is that of the live step, and not where it lies.
    deliver(&store, &tensors).await;
    drop_step_1(&below).await;
    is_new(save(&store, spec(1, "second"), &tensors).await.unwrap().0);
}

#[tokio::test]
async fn a_step_that_comes_between_two_runs_of_an_attempt_is_found_equal() {
    let below: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (store, tensors) = (open(Arc::clone(&below), OpenMode::Create).await.unwrap(), transformer(1, Size::TINY));
    deliver(&store, &tensors).await;
    save(&store, spec(1, "first"), &tensors).await.unwrap();
    assert!(save(&store, spec(1, "second"), &tensors).await.unwrap().0.existed);
}

#[tokio::test]
async fn a_save_that_is_swept_under_its_own_feet_is_run_again() {
    let faulty = FaultyStore::new(Arc::new(InMemory::new()));
    let store = open(Arc::new(faulty.clone()), OpenMode::Create).await.unwrap();
    let tensors = transformer(1, Size::TINY);
    deliver(&store, &tensors).await;
    // Swept between the creation that finds it and the look at it.
    faulty.set_plan(plan::on(Op::Get, "/begin.json", 1, Verdict::FailBefore(Failure::NotFound)));
    let again = store.begin_save(spec(1, "second"), Progress::default()).await.unwrap();
    // And a part between the listing and its reading.
    faulty.set_plan(plan::on(Op::Get, "/parts/", 1, Verdict::FailBefore(Failure::NotFound)));
    let error = again.finish().await.unwrap_err();
    assert_eq!(gigastore_client::Coded::code(&error), FaultCode::MissingRanks, "{error}");
    assert!(error.to_string().contains("part of rank 0 was swept"), "{error}");
    is_new(save(&store, spec(1, "second"), &tensors).await.unwrap().0);
}
