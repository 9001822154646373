//! Cursors of data streams: in the same record as the tensors, what all ranks saw added up; here and through a service.

use std::sync::Arc;

use gigastore_client::Coded;
use gigastore_client::checkpoint::asynchronous::{AsyncSaver, Busy, Staging, StateLayout};
use gigastore_client::checkpoint::diff::{DataDiff, diff};
use gigastore_client::checkpoint::save::SaveError;
use gigastore_client::checkpoint::{CheckpointSave, SaveSpec};
use gigastore_client::store::{OpenMode, Store};
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::order::Cursor;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::wire::{Committed, FaultCode};
use gigastore_server::Limits;
use gigastore_tests::cursors::cursor;
use gigastore_tests::model::Tensor;
use gigastore_tests::opened::{engine, serve};
use object_store::memory::InMemory;

use crate::world::{check, check_sound, fresh, rows, spec, tensor, whole};

/// Returns a store in memory, and one that a service serves.
async fn stores() -> [Store; 2] {
    let served = engine(Arc::new(InMemory::new()), OpenMode::Create).await.unwrap();
    let url = serve(served, None, Limits::default()).await.unwrap();
    [fresh().await, Store::open(&url, OpenMode::Create).await.unwrap()]
}

fn weights() -> Tensor {
    tensor("w", Dtype::F32, &[8, 4])
}

/// Returns the spec of a save with a cursor of stream `data`.
fn at(step: u64, ranks: u32, cursor: Option<Cursor>) -> SaveSpec {
    let cursors = cursor.map(|cursor| ("data".to_owned(), cursor)).into_iter().collect();
    SaveSpec { cursors, attempt: Some("job".to_owned()), ..spec(step, ranks) }
}

/// Delivers one part of each rank, each of a process of its own with a cursor of its own; returns the first save.
async fn deliver(store: &Store, step: u64, cursors: Vec<Option<Cursor>>) -> Result<CheckpointSave, SaveError> {
    let (weights, ranks) = (weights(), cursors.len() as u64);
    let mut saves = Vec::new();
    for (rank, cursor) in (0..ranks).zip(cursors) {
        let save = store.begin_save(at(step, ranks as u32, cursor), Progress::default()).await?;
        save.rank(rank as u32, vec![rows(&weights, rank * 8 / ranks, (rank + 1) * 8 / ranks)]).await?;
        saves.push(save);
    }
    Ok(saves.swap_remove(0))
}

async fn saved(store: &Store, step: u64, cursors: Vec<Option<Cursor>>) -> Result<Committed, SaveError> {
    deliver(store, step, cursors).await?.finish().await
}

/// Saves all as one rank, under an attempt of its own.
async fn saved_whole(store: &Store, step: u64, cursor: Option<Cursor>) -> Result<Committed, SaveError> {
    let spec = SaveSpec { attempt: None, ..at(step, 1, cursor) };
    let save = store.begin_save(spec, Progress::default()).await?;
    save.rank(0, vec![whole(&weights())]).await?;
    save.finish().await
}

async fn cursor_of(store: &Store, target: &str) -> Option<Cursor> {
    store.checkpoint(&target.parse().unwrap()).await.unwrap().cursors().get("data").cloned()
}

fn check_conflict(result: Result<Committed, SaveError>, named: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.code(), FaultCode::Conflict, "{error}");
    for part in named {
        assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_all_ranks_saw_is_in_the_checkpoint() {
    for store in stores().await {
        let of_rank = |rank| Some(cursor(12, (0..12).filter(move |position| position % 3 == rank)));
        // The fourth reads no data.
        saved(&store, 1, vec![of_rank(0), of_rank(1), of_rank(2), None]).await.unwrap();
        assert_eq!(cursor_of(&store, "p/run@1").await, Some(cursor(12, 0..12)));
        let none = saved(&store, 2, vec![None, None]).await.unwrap();
        assert_eq!((none.existed, cursor_of(&store, "p/run@2").await), (false, None));
        check(&store, "p/run@1", &[weights()]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_at_different_places_are_both_named_and_nothing_is_visible() {
    for store in stores().await {
        let ranks = vec![None, Some(cursor(12, 0..4)), Some(cursor(12, 4..8)), Some(cursor(16, 8..12))];
        let refused = saved(&store, 1, ranks).await;
        check_conflict(refused, &["ranks 1 and 3", "data stream \"data\"", "12 samples", "16 samples"]);
        let hidden = store.checkpoint(&"p/run@1".parse().unwrap()).await.unwrap_err();
        assert_eq!(hidden.code(), FaultCode::NotFound, "{hidden}");
        saved_whole(&store, 1, Some(cursor(12, 0..12))).await.unwrap();
        check_sound(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_says_another_place_in_one_attempt_is_a_conflict_that_names_it() {
    let store = fresh().await;
    let save = deliver(&store, 1, vec![Some(cursor(12, 0..6)), Some(cursor(12, 6..12))]).await.unwrap();
    let again = store.begin_save(at(1, 2, Some(cursor(12, 6..11))), Progress::default()).await.unwrap();
    again.rank(1, vec![rows(&weights(), 4, 8)]).await.unwrap();
    check_conflict(save.finish().await, &["rank 1 delivered two different parts"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_is_there_is_the_same_only_at_the_same_place_in_the_data() {
    for store in stores().await {
        saved(&store, 1, vec![Some(cursor(12, 0..6)), Some(cursor(12, 6..12))]).await.unwrap();
        let again = saved_whole(&store, 1, Some(cursor(12, 0..12))).await.unwrap();
        assert!(again.existed, "the same place, saved by another number of ranks");
        // Says nothing of data, and asks for nothing of it.
        assert!(saved_whole(&store, 1, None).await.unwrap().existed);
        let (run, stream) = ("run@1", "data stream \"data\"");
        let further = saved_whole(&store, 1, Some(cursor(16, 0..16))).await;
        check_conflict(further, &[run, stream, "expected 12 samples", "actual 16 samples"]);
        let less = saved_whole(&store, 1, Some(cursor(12, 0..11))).await;
        let digest = |positions| String::from(cursor(12, positions).seen.digest);
        check_conflict(less, &[run, stream, &digest(0..12), &digest(0..11), "11 samples and 22 tokens seen"]);
        let other = SaveSpec { cursors: [("eval".to_owned(), cursor(12, 0..12))].into(), ..spec(1, 1) };
        let save = store.begin_save(other, Progress::default()).await.unwrap();
        save.rank(0, vec![whole(&weights())]).await.unwrap();
        check_conflict(save.finish().await, &[run, "\"eval\"", "no cursor of it", "12 samples"]);
        assert_eq!(cursor_of(&store, "p/run@1").await, Some(cursor(12, 0..12)), "nothing changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_saves_the_second_succeeds_only_at_the_same_place_in_the_data() {
    let store = fresh().await;
    // All begin while the step is free.
    let begin = |cursor| {
        let spec = SaveSpec { attempt: None, ..at(1, 1, Some(cursor)) };
        store.begin_save(spec, Progress::default())
    };
    let (first, same) = (begin(cursor(12, 0..12)).await.unwrap(), begin(cursor(12, 0..12)).await.unwrap());
    let other = begin(cursor(16, 0..16)).await.unwrap();
    let halves = begin(cursor(16, 0..16)).await.unwrap();
    for save in [&first, &same, &other] {
        save.rank(0, vec![whole(&weights())]).await.unwrap();
    }
    // The same content in other boxes, which the client compares byte by byte.
    halves.rank(0, vec![rows(&weights(), 0, 4), rows(&weights(), 4, 8)]).await.unwrap();
    assert!(!first.finish().await.unwrap().existed);
    assert!(same.finish().await.unwrap().existed);
    check_conflict(other.finish().await, &["expected 12 samples", "actual 16 samples"]);
    check_conflict(halves.finish().await, &["expected 12 samples", "actual 16 samples"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranks_of_one_process_count_what_it_saw_once() {
    let store = fresh().await;
    let save = store.begin_save(at(1, 2, Some(cursor(12, 0..12))), Progress::default()).await.unwrap();
    for rank in [1, 0, 1] {
        save.rank(rank, vec![rows(&weights(), u64::from(rank) * 4, u64::from(rank) * 4 + 4)]).await.unwrap();
    }
    save.finish().await.unwrap();
    assert_eq!(cursor_of(&store, "p/run@1").await, Some(cursor(12, 0..12)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_in_the_background_keeps_the_place_at_which_it_was_called() {
    let store = fresh().await;
    let weights = weights();
    let layout = StateLayout::new([(whole(&weights).id, Vec::new())]);
    let saver = AsyncSaver::new(store.clone(), 0, Staging { state_bytes: layout.bytes(), states: 2 });
    for step in 1..=4 {
        let spec = at(step, 1, Some(cursor(4 * step, 0..4 * step)));
        saver.save(spec, &layout, &[&weights.data], Busy::Wait).await.unwrap();
    }
    saver.wait().await.unwrap();
    for step in 1..=4 {
        let expected = cursor(4 * step, 0..4 * step);
        assert_eq!(cursor_of(&store, &format!("p/run@{step}")).await, Some(expected), "step {step}");
    }
}

#[tokio::test]
async fn cursors_that_can_not_be_kept_are_refused_before_anything_is_stored() {
    let store = fresh().await;
    let named = SaveSpec { cursors: [("a b".to_owned(), cursor(1, 0..1))].into(), ..spec(1, 1) };
    let error = store.begin_save(named, Progress::default()).await.unwrap_err();
    assert!(error.code() == FaultCode::Invalid && error.to_string().contains("\"a b\""), "{error}");
    let mut wide = cursor(1, 0..1);
    wide.sources[0].lanes = vec![(u32::MAX, u32::MAX); 1 << 18];
    let error = store.begin_save(at(1, 1, Some(wide)), Progress::default()).await.unwrap_err();
    assert!(error.code() == FaultCode::Invalid && error.to_string().contains("fewer lanes"), "{error}");
}

#[tokio::test]
async fn a_diff_says_whether_two_runs_saw_the_same_data() {
    let store = fresh().await;
    let steps = [(12, 12), (12, 12), (12, 11), (16, 16)];
    for (step, (samples, seen)) in (1..).zip(steps) {
        saved_whole(&store, step, Some(cursor(samples, 0..seen))).await.unwrap();
    }
    saved_whole(&store, 5, None).await.unwrap();
    let open = async |step| store.checkpoint(&format!("p/run@{step}").parse().unwrap()).await.unwrap();
    let first = open(1).await;
    let expected = [DataDiff::Same(12), DataDiff::Same(12), DataDiff::Differs(12), DataDiff::Apart(12, 16)];
    for (step, expected) in (1..).zip(expected) {
        let found = diff(&first, &open(step).await);
        assert_eq!((found.streams["data"], found.changes.len()), (expected, 0), "step {step}");
    }
    assert_eq!(diff(&first, &open(5).await).streams["data"], DataDiff::Removed);
    assert_eq!(diff(&open(5).await, &first).streams["data"], DataDiff::Added);
    assert!(diff(&open(5).await, &open(5).await).streams.is_empty());
}
