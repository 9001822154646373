//! Tests of the fold: each precondition, and that the order of records alone decides.

use gigastore_formats::object::Stored;
use gigastore_formats::record::{Index, TxnId};
use gigastore_formats::sealed::{seal, unseal};

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn commit(sort: Sort, of: &str, number: u64) -> Action {
    let object = Stored { digest: Digest::of(b"m"), epoch: 0 };
    let manifest = Index { object, len: 1, groups: String::new() };
    let content = Digest::of(&number.to_le_bytes());
    let (packs, timeline, bytes, items, world_size) = (None, None, 10, 1, 1);
    Action::Commit(Box::new(Commit {
        sort,
        name: name(of),
        number,
        manifest,
        packs,
        timeline,
        content,
        bytes,
        items,
        world_size,
    }))
}

/// Folds one entry of a new transaction and returns what became of it.
fn fold(state: &mut State, action: Action) -> Outcome {
    let txn = TxnId::derive(&[&state.seq.to_le_bytes()]);
    fold_as(state, txn, action)
}

fn fold_as(state: &mut State, txn: TxnId, action: Action) -> Outcome {
    let record = Record { seq: state.seq + 1, prev: state.head, entries: vec![Entry { txn, time: 0, action }] };
    let digest = record.seal().1;
    state.fold(&record, digest);
    state.outcome(txn).unwrap()
}

fn void(outcome: Outcome) -> Option<VoidReason> {
    match outcome {
        Outcome::Took(_) => None,
        Outcome::Void(_, reason) => Some(reason),
    }
}

#[test]
fn commits_need_a_free_number_of_the_right_sort() {
    let mut state = State::origin();
    assert_eq!(fold(&mut state, commit(Sort::Checkpoint, "run", 100)), Outcome::Took(1));
    assert_eq!(void(fold(&mut state, commit(Sort::Checkpoint, "run", 100))), Some(VoidReason::Taken));
    assert_eq!(void(fold(&mut state, commit(Sort::Dataset, "run", 1))), Some(VoidReason::WrongSort));
    assert_eq!(void(fold(&mut state, commit(Sort::Dataset, "data", 2))), Some(VoidReason::NotNext));
    assert_eq!(void(fold(&mut state, commit(Sort::Dataset, "data", 1))), None);
    assert_eq!(void(fold(&mut state, commit(Sort::Dataset, "data", 3))), Some(VoidReason::NotNext));
    assert_eq!(void(fold(&mut state, commit(Sort::Dataset, "data", 2))), None);
}

#[test]
fn latest_is_the_last_commit_of_the_log() {
    let mut state = State::origin();
    fold(&mut state, commit(Sort::Checkpoint, "run", 200));
    fold(&mut state, commit(Sort::Checkpoint, "run", 100));
    let run = &state.names[&name("run")];
    assert_eq!(run.select(&"latest".parse().unwrap()).unwrap().commit.number, 100);
    assert_eq!(run.select(&"200".parse().unwrap()).unwrap().commit.number, 200);
    assert_eq!(run.select(&"other".parse().unwrap()), None);
    assert_eq!(run.tags_of(100), ["latest"]);
}

#[test]
fn drops_need_a_target_that_nobody_holds() {
    let mut state = State::origin();
    for step in [1, 2, 3] {
        fold(&mut state, commit(Sort::Checkpoint, "run", step));
    }
    let run = || name("run");
    let drop_of = |number| Action::Drop { name: run(), number };
    assert_eq!(void(fold(&mut state, Action::Pin { name: run(), number: 1 })), None);
    assert_eq!(void(fold(&mut state, drop_of(1))), Some(VoidReason::Pinned));
    assert_eq!(void(fold(&mut state, Action::Unpin { name: run(), number: 1 })), None);
    assert_eq!(void(fold(&mut state, drop_of(1))), None);
    assert_eq!(void(fold(&mut state, drop_of(1))), Some(VoidReason::NotLive));
    assert_eq!(void(fold(&mut state, Action::Pin { name: run(), number: 1 })), Some(VoidReason::NotLive));
    assert_eq!(void(fold(&mut state, Action::Tag { name: run(), tag: name("best"), number: 2 })), None);
    assert_eq!(void(fold(&mut state, drop_of(2))), Some(VoidReason::Tagged));
    assert_eq!(void(fold(&mut state, drop_of(3))), Some(VoidReason::Newest));
    assert_eq!(void(fold(&mut state, commit(Sort::Checkpoint, "run", 1))), None, "a dropped step may be saved anew");
}

#[test]
fn the_step_that_latest_means_is_not_dropped() {
    let mut state = State::origin();
    for step in [100, 200, 150] {
        fold(&mut state, commit(Sort::Checkpoint, "run", step));
    }
    let drop_of = |number| Action::Drop { name: name("run"), number };
    assert_eq!(
        void(fold(&mut state, drop_of(150))),
        Some(VoidReason::Newest),
        "a run that went back goes on from here"
    );
    assert_eq!(void(fold(&mut state, drop_of(200))), None, "the highest step is one like others");
    assert_eq!(state.names[&name("run")].latest().unwrap().commit.number, 150);
}

#[test]
fn names_that_mean_something_else_are_no_tags() {
    let mut state = State::origin();
    fold(&mut state, commit(Sort::Checkpoint, "run", 1));
    let tag = |tag| Action::Tag { name: name("run"), tag: name(tag), number: 1 };
    assert_eq!(void(fold(&mut state, tag("latest"))), Some(VoidReason::NotATag));
    assert_eq!(void(fold(&mut state, tag("100"))), Some(VoidReason::NotATag));
    assert_eq!(void(fold(&mut state, tag("v100"))), None);
    assert_eq!(state.names[&name("run")].tags.len(), 1);
}

#[test]
fn fences_raise_the_epoch_by_one_and_decide_what_is_usable() {
    let mut state = State::origin();
    assert!(state.is_usable(0) && !state.is_usable(1));
    assert_eq!(void(fold(&mut state, Action::Fence { epoch: 2 })), Some(VoidReason::NotNextEpoch));
    fold(&mut state, Action::Fence { epoch: 1 });
    assert!(state.is_usable(0));
    fold(&mut state, Action::Fence { epoch: 2 });
    assert!(!state.is_usable(0) && state.is_usable(1) && state.is_usable(2));
}

#[test]
fn a_transaction_has_one_effect() {
    let mut state = State::origin();
    let txn = TxnId::derive(&[b"save"]);
    assert_eq!(fold_as(&mut state, txn, commit(Sort::Checkpoint, "run", 1)), Outcome::Took(1));
    assert_eq!(fold_as(&mut state, txn, commit(Sort::Checkpoint, "run", 2)), Outcome::Took(1));
    assert_eq!(state.live(&name("run"), 2), None);
}

/// One action drawn from numbers: names, steps and tags are few, so that preconditions hold and fail.
fn drawn(state: &State, mut draw: impl FnMut(u64) -> u64) -> Action {
    let (run, tag) = (name(["a", "b"][draw(2) as usize]), name(["x", "y"][draw(2) as usize]));
    let number = draw(6);
    let highest = state.names.get(&name("b")).map_or(0, |named| named.highest);
    match draw(9) {
        0 | 1 => commit(Sort::Checkpoint, "a", number),
        2 => commit(Sort::Dataset, "b", highest + draw(2)),
        3 => Action::Tag { name: run, tag, number },
        4 => Action::Pin { name: run, number },
        5 => Action::Unpin { name: run, number },
        6 => Action::Drop { name: run, number },
        7 => Action::Policy { name: run, policy: format!("last {number}") },
        _ => Action::Fence { epoch: state.epoch + draw(2) },
    }
}

#[test]
fn any_folded_state_round_trips() {
    for seed in 0..20u64 {
        let mut state = State::origin();
        for i in 0..60u64 {
            let mut n = 0u64;
            let action = drawn(&state, |below| {
                n += 1;
                let digest = Digest::of(&[seed.to_le_bytes(), i.to_le_bytes(), n.to_le_bytes()].concat());
                u64::from_le_bytes(*digest.as_bytes().first_chunk().unwrap()) % below
            });
            fold(&mut state, action);
            let (bytes, digest) = seal(&state);
            let again: (State, _) = unseal(&bytes, bytes.len() as u64).unwrap();
            assert_eq!(again, (state.clone(), digest));
        }
    }
}

#[test]
fn a_folded_state_of_version_1_is_still_read() {
    let (run, data) = (name("run"), name("data"));
    let actions = [
        commit(Sort::Checkpoint, "run", 100),
        commit(Sort::Checkpoint, "run", 200),
        commit(Sort::Dataset, "data", 1),
        commit(Sort::Dataset, "data", 3),
        Action::Tag { name: run.clone(), tag: name("best"), number: 100 },
        Action::Pin { name: data.clone(), number: 1 },
        Action::Policy { name: run.clone(), policy: "last 5".to_owned() },
        commit(Sort::Dataset, "data", 2),
        Action::Fence { epoch: 1 },
        commit(Sort::Checkpoint, "run", 150),
        Action::Drop { name: run, number: 150 },
    ];
    let mut state = State::origin();
    for action in actions {
        fold(&mut state, action);
    }
    let frozen = include_bytes!("../../fixtures/state-fences-1.json");
    let (read, _): (State, _) = unseal(frozen, 1 << 20).unwrap();
    assert_eq!(read, state);
    // Of programs that collected nothing yet, which wrote no fences down.
    let before = include_bytes!("../../fixtures/state-1.json");
    let (read, _): (State, _) = unseal(before, 1 << 20).unwrap();
    assert_eq!(State { fences: state.fences.clone(), ..read }, state);
    assert_eq!(String::from_utf8(seal(&state).0).unwrap(), String::from_utf8(frozen.to_vec()).unwrap());
}
