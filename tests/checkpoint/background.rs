//! Saves in the background: right bytes though the caller goes on at once, memory that is used again, back-pressure,
//! and failures that somebody always hears of.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use gigastore_client::Coded;
use gigastore_client::checkpoint::asynchronous::{
    AsyncSaveError, AsyncSaver, Begun, Busy, Outcome, Staging, StateLayout, StoodStill,
};
use gigastore_client::store::Store;
use gigastore_formats::digest::Digest;
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::SliceId;
use gigastore_formats::wire::FaultCode;
use gigastore_tests::faulty::plan::{self, Plan};
use gigastore_tests::faulty::{Failure, Op, Verdict};
use gigastore_tests::model::{Size, Tensor, transformer};

use crate::world::{check, check_sound, counted, fresh, spec};

/// A state that a trainer overwrites: tensors of many sizes, and their layout as one slice each.
struct State {
    layout: StateLayout,
    tensors: Vec<(Tensor, Vec<u8>)>,
}

impl State {
    fn new(tensors: Vec<Tensor>) -> Self {
        let ids = tensors.iter().map(|tensor| {
            let area = TensorBox::whole(&tensor.shape).unwrap();
            (SliceId::tensor(&tensor.name, tensor.dtype, &tensor.shape, area).unwrap(), Vec::new())
        });
        let layout = StateLayout::new(ids);
        Self { layout, tensors: tensors.into_iter().map(|tensor| (tensor.clone(), tensor.data.to_vec())).collect() }
    }

    fn small() -> Self {
        Self::new(transformer(1, Size::SMALL))
    }

    /// Trains one step, and returns what a save of it must hold.
    fn train(&mut self, step: u64) -> Vec<Tensor> {
        let trained = self.tensors.iter_mut().map(|(tensor, data)| {
            for (i, byte) in data.iter_mut().enumerate() {
                *byte = byte.wrapping_mul(5).wrapping_add((i as u64 ^ step) as u8);
            }
            Tensor { data: data.clone().into(), ..tensor.clone() }
        });
        trained.collect()
    }

    fn bytes(&self) -> Vec<&[u8]> {
        self.tensors.iter().map(|(_, data)| data.as_slice()).collect()
    }

    fn staging(&self, states: u32) -> Staging {
        Staging { state_bytes: self.layout.bytes(), states }
    }

    async fn save(&self, saver: &AsyncSaver, step: u64, busy: Busy) -> Result<Outcome, AsyncSaveError> {
        saver.save(spec(step, 1), &self.layout, &self.bytes(), busy).await
    }
}

/// A door that operations on packs wait at.
#[derive(Default)]
struct Door {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Door {
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    /// Returns the plan under which packs wait until the door is open, and then fail or not.
    fn plan(self: &Arc<Self>, verdict: Verdict) -> Plan {
        let door = Arc::clone(self);
        Box::new(move |operation| {
            if operation.op != Op::Create || !operation.path.contains("/packs/") {
                return Verdict::Pass;
            }
            let open = door.open.lock().unwrap();
            // Not for ever: a test that forgets to open it should fail, not hang.
            let timed = door.changed.wait_timeout_while(open, Duration::from_secs(60), |open| !*open);
            assert!(!timed.unwrap().1.timed_out(), "nobody opened the door");
            verdict
        })
    }
}

fn staged(outcome: Result<Outcome, AsyncSaveError>) -> StoodStill {
    match outcome {
        Ok(Outcome::Staged(times)) => times,
        other => panic!("nothing was staged: {other:?}"),
    }
}

async fn until(done: impl Fn() -> bool) {
    for _ in 0..6000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it took longer than a minute");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_those_at_the_call_though_the_caller_overwrites_them_and_buffers_are_used_again() {
    let (store, mut state) = (fresh().await, State::small());
    let saver = AsyncSaver::new(store.clone(), 0, state.staging(1));
    assert_eq!(saver.buffers_made(), 0, "no memory is taken before it is asked for");
    saver.reserve().await.unwrap();
    let mut saved = Vec::new();
    for step in 1..=5 {
        saved.push((step, state.train(step)));
        staged(state.save(&saver, step, Busy::Wait).await);
        // The trainer goes on while the save has hardly begun.
        state.train(step + 1000);
    }
    saver.wait().await.unwrap();
    assert_eq!(saver.newest().unwrap().info.commit.number, 5);
    assert_eq!(saver.buffers_made(), 1, "one state was on its way at a time");
    for (step, tensors) in saved {
        check(&store, &format!("p/run@{step}"), &tensors).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_small_tensors_are_one_copy_and_right() {
    let store = fresh().await;
    let tensor = |i: u64| {
        let data: Vec<u8> = (0..4096).map(|j| (i * 131 + j * 7 + j / 256) as u8).collect();
        Tensor { name: format!("t{i:04}"), dtype: Dtype::U8, shape: vec![4096], data: data.into() }
    };
    let tensors: Vec<Tensor> = (0..5000).map(tensor).collect();
    let state = State::new(tensors.clone());
    let saver = AsyncSaver::new(store.clone(), 0, state.staging(1));
    staged(state.save(&saver, 1, Busy::Skip).await);
    saver.wait().await.unwrap();
    let checkpoint = store.checkpoint(&"p/run@1".parse().unwrap()).await.unwrap();
    let saved: Vec<_> = checkpoint.rows().iter().map(|row| (row.slice.name().to_owned(), row.blake3)).collect();
    let expected = tensors.iter().map(|tensor| (tensor.name.clone(), Digest::of(&tensor.data)));
    assert_eq!(saved, expected.collect::<Vec<_>>());
    check_sound(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_save_that_comes_too_early_is_skipped_or_waits_as_the_caller_chose() {
    let ((store, below), mut state) = (counted().await, State::small());
    let door = Arc::new(Door::default());
    below.set_plan(door.plan(Verdict::Pass));
    let saver = Arc::new(AsyncSaver::new(store.clone(), 0, state.staging(2)));
    let first = state.train(1);
    staged(state.save(&saver, 1, Busy::Skip).await);
    let second = state.train(2);
    staged(state.save(&saver, 2, Busy::Skip).await);
    state.train(3);
    let skipped = state.save(&saver, 3, Busy::Skip).await.unwrap();
    assert_eq!(skipped, Outcome::Skipped { running: 1 }, "the oldest that is not done is named");
    let opened = AtomicBool::new(false);
    let fourth = state.train(4);
    let waiting = async {
        let times = staged(state.save(&saver, 4, Busy::Wait).await);
        assert!(opened.load(Ordering::SeqCst), "it waited for an earlier one");
        assert!(times.waited >= Duration::from_millis(50), "{times:?}");
    };
    let opening = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        opened.store(true, Ordering::SeqCst);
        door.open();
    };
    tokio::join!(waiting, opening);
    saver.wait().await.unwrap();
    assert_eq!(saver.buffers_made(), 2);
    for (step, tensors) in [(1, first), (2, second), (4, fourth)] {
        check(&store, &format!("p/run@{step}"), &tensors).await;
    }
    let missing = store.checkpoint(&"p/run@3".parse().unwrap()).await.unwrap_err();
    assert_eq!(missing.code(), FaultCode::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_told_once_by_the_next_call_and_the_one_after_goes_on() {
    let ((store, below), mut state) = (counted().await, State::small());
    let saver = AsyncSaver::new(store.clone(), 0, state.staging(1));
    below.set_plan(plan::on(Op::Create, "/packs/", u64::MAX, Verdict::FailBefore(Failure::STORAGE_FULL)));
    state.train(1);
    staged(state.save(&saver, 1, Busy::Wait).await);
    let second = state.train(2);
    // Waiting for the first finds out that it failed.
    let error = state.save(&saver, 2, Busy::Wait).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::StoreFull, "{error}");
    assert!(matches!(&error, AsyncSaveError::Failed { target, .. } if target == "p/run@1"), "{error}");
    below.set_plan(plan::pass());
    saver.wait().await.expect("each failure is told once");
    staged(state.save(&saver, 2, Busy::Wait).await);
    saver.wait().await.unwrap();
    check(&store, "p/run@2", &second).await;

    below.set_plan(plan::on(Op::Create, "/packs/", u64::MAX, Verdict::FailBefore(Failure::STORAGE_FULL)));
    state.train(3);
    staged(state.save(&saver, 3, Busy::Wait).await);
    let error = saver.wait().await.unwrap_err();
    assert!(error.to_string().contains("p/run@3"), "{error}");
    saver.wait().await.expect("each failure is told once");
    assert_eq!(saver.newest().unwrap().info.commit.number, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_that_is_waited_for_tells_of_itself_alone() {
    let ((store, below), state) = (counted().await, State::small());
    let saver = AsyncSaver::new(store.clone(), 0, state.staging(2));
    let begin = async |step, bytes: &[&[u8]]| match saver.begin(spec(step, 1), &state.layout, bytes, Busy::Wait).await {
        Ok(Begun::Staged(_, pending)) => pending,
        Ok(Begun::Skipped { running }) => panic!("skipped for step {running}"),
        Err(error) => panic!("{error}"),
    };
    below.set_plan(plan::on(Op::Create, "/packs/", u64::MAX, Verdict::FailBefore(Failure::STORAGE_FULL)));
    let failed = begin(1, &state.bytes()).await;
    assert_eq!(failed.wait().await.unwrap_err().code(), FaultCode::StoreFull);
    below.set_plan(plan::pass());
    saver.wait().await.expect("it was told already");
    let saved = begin(2, &state.bytes()).await;
    assert_eq!(saved.wait().await.unwrap().info.commit.number, 2);
    assert_eq!(failed.wait().await.unwrap_err().code(), FaultCode::StoreFull, "and stays what it was");
    assert_eq!(saved.wait().await.unwrap().info.commit.number, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_staged_is_refused_before_anything_is_copied() {
    let (store, state) = (fresh().await, State::small());
    let bytes = state.layout.bytes();
    let saver = AsyncSaver::new(store.clone(), 0, Staging { state_bytes: bytes - 1, states: 1 });
    let error = state.save(&saver, 1, Busy::Wait).await.unwrap_err();
    assert!(error.to_string().contains(&bytes.to_string()) && error.to_string().contains("state_bytes"), "{error}");
    assert!(matches!(error, AsyncSaveError::TooLarge { .. }));
    let mut short = state.bytes();
    let last = short.pop().unwrap();
    let few = saver.save(spec(1, 1), &state.layout, &short, Busy::Wait).await.unwrap_err();
    assert!(matches!(few, AsyncSaveError::Slices { .. }), "{few}");
    short.push(&last[..last.len() - 1]);
    let cut = saver.save(spec(1, 1), &state.layout, &short, Busy::Wait).await.unwrap_err();
    assert!(matches!(cut, AsyncSaveError::Length { .. }), "{cut}");
    assert_eq!(saver.buffers_made(), 0);
    saver.wait().await.unwrap();
}

/// A saver whose lost failures are kept.
fn listening(store: Store, staging: Staging) -> (AsyncSaver, Arc<Mutex<Vec<String>>>) {
    let lost = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&lost);
    let saver = AsyncSaver::new(store, 0, staging);
    (saver.on_lost(move |error| list.lock().unwrap().push(format!("{error} [{:?}]", error.code()))), lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_saver_dropped_in_mid_flight_still_commits() {
    let ((store, below), mut state) = (counted().await, State::small());
    let door = Arc::new(Door::default());
    below.set_plan(door.plan(Verdict::Pass));
    let (saver, lost) = listening(store.clone(), state.staging(1));
    let tensors = state.train(1);
    staged(state.save(&saver, 1, Busy::Wait).await);
    drop(saver);
    state.train(2);
    door.open();
    for _ in 0..6000 {
        if store.checkpoint(&"p/run@1".parse().unwrap()).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    check(&store, "p/run@1", &tensors).await;
    assert_eq!(*lost.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn failures_that_nobody_asked_for_are_heard_when_the_saver_is_dropped_and_later() {
    let ((store, below), state) = (counted().await, State::small());
    let door = Arc::new(Door::default());
    below.set_plan(door.plan(Verdict::FailBefore(Failure::STORAGE_FULL)));
    let (saver, later) = listening(store.clone(), state.staging(1));
    staged(state.save(&saver, 1, Busy::Wait).await);
    drop(saver);
    assert!(later.lock().unwrap().is_empty(), "it has not failed yet");
    door.open();
    until(|| !later.lock().unwrap().is_empty()).await;
    let text = later.lock().unwrap().join("\n");
    assert!(text.contains("p/run@1") && text.contains("StoreFull"), "{text}");

    let (saver, before) = listening(store, state.staging(1));
    staged(state.save(&saver, 2, Busy::Wait).await);
    saver.reserve().await.unwrap(); // waits for the save, asks for nothing
    assert!(before.lock().unwrap().is_empty(), "somebody may still ask");
    drop(saver);
    assert_eq!(before.lock().unwrap().len(), 1);
}

#[test]
fn a_save_that_its_runtime_cuts_off_is_not_lost() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let training = runtime();
    let (state, door) = (State::small(), Arc::new(Door::default()));
    let (saver, lost) = training.block_on(async {
        let (store, below) = counted().await;
        below.set_plan(door.plan(Verdict::Pass));
        let (saver, lost) = listening(store, state.staging(1));
        staged(state.save(&saver, 1, Busy::Wait).await);
        (saver, lost)
    });
    training.shutdown_background();
    door.open();
    let error = runtime().block_on(saver.wait()).unwrap_err();
    assert!(matches!(&error, AsyncSaveError::CutOff { target } if target == "p/run@1"), "{error}");
    drop(saver);
    assert!(lost.lock().unwrap().is_empty(), "it was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranks_with_savers_of_their_own_make_one_checkpoint() {
    let store = fresh().await;
    let tensors = transformer(3, Size::TINY);
    let (ours, theirs): (Vec<_>, Vec<_>) = tensors.iter().cloned().enumerate().partition(|(i, _)| i % 2 == 0);
    let states: Vec<State> = [ours, theirs]
        .into_iter()
        .map(|half| State::new(half.into_iter().map(|(_, tensor)| tensor).collect()))
        .collect();
    let savers: Vec<AsyncSaver> =
        (0..2).map(|rank| AsyncSaver::new(store.clone(), rank, states[rank as usize].staging(1))).collect();
    for (saver, state) in savers.iter().zip(&states) {
        let mut spec = spec(7, 2);
        spec.attempt = Some("job".to_owned());
        staged(saver.save(spec, &state.layout, &state.bytes(), Busy::Wait).await);
    }
    for saver in &savers {
        saver.wait().await.unwrap();
        assert_eq!(saver.newest().unwrap().info.commit.world_size, 2);
    }
    check(&store, "p/run@7", &tensors).await;
}
