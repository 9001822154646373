//! The real engine and client in a made-up world: whatever is lost, late, repeated or dies, what was acknowledged is
//! there, once and intact; and a seed gives the same run each time, byte for byte.
//!
//! Must never pass over a failing seed without saying how to see it again.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

use gigastore_tests::simulation::bucket::Flaw;
use gigastore_tests::simulation::line::Death;
use gigastore_tests::simulation::run::{Dying, Outcome, flawed_seed, seed};
use gigastore_tests::simulation::script::Files;

/// Seeds that every change runs, twice each.
const SEEDS: u64 = 60;

/// Runs a seed, and fails with how to run it again.
fn sound(number: u64, outcome: &Outcome) {
    assert!(
        outcome.wrong.is_empty(),
        "seed {number}: {:#?}\nsee all of it by: cargo xtask sim --seeds 1 --seed {number} --trace",
        outcome.wrong
    );
}

fn seeds(from: u64, to: u64) {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::new(folder.path()).unwrap();
    let (mut operations, mut deaths) = (0, 0);
    for number in from..to {
        let (once, again) = (seed(number, &files), seed(number, &files));
        sound(number, &once);
        let differs = once.trace.lines().zip(again.trace.lines()).find(|(once, again)| once != again);
        assert_eq!(differs, None, "seed {number}: two runs differ");
        assert_eq!(once.trace.len(), again.trace.len(), "seed {number}: one run goes on");
        (operations, deaths) = (operations + once.operations, deaths + once.deaths);
    }
    println!("{} seeds, {operations} operations, {deaths} deaths", to - from);
    assert!(operations > 500 * (to - from), "something was done: {operations}");
    assert!(deaths > 0, "and somebody died");
}

#[test]
fn seeds_are_sound_and_repeat() {
    seeds(0, SEEDS / 2);
}

#[test]
fn more_seeds_are_sound_and_repeat() {
    seeds(SEEDS / 2, SEEDS);
}

/// Runs seeds on a store that does what it must not; each flaw must be seen.
#[test]
fn what_a_store_must_not_do_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::new(folder.path()).unwrap();
    for flaw in [Flaw::Overwrites, Flaw::Loses, Flaw::Alters] {
        let seen = (0..5).map(|number| flawed_seed(number, &files, Some(flaw)).wrong.len());
        assert!(seen.sum::<usize>() > 0, "{flaw:?} was not seen");
    }
}

/// Kills at every operation, before and after its effect.
fn deaths(what: Dying) {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::new(folder.path()).unwrap();
    let whole = what.run(1, &files, None);
    assert_eq!((&whole.wrong, whole.deaths), (&vec![], 0));
    let mut died = 0;
    for operation in 1..=whole.operations {
        for after_effect in [false, true] {
            let outcome = what.run(1, &files, Some(Death { operation, after_effect }));
            assert!(outcome.wrong.is_empty(), "{what:?}, {operation}, {after_effect}: {:#?}", outcome.wrong);
            died += outcome.deaths;
        }
    }
    println!("{what:?}: {} operations, {died} deaths", whole.operations);
    assert!(died > whole.operations / 2, "{died} deaths at {} operations", whole.operations);
}

#[test]
fn a_save_dies_at_every_operation() {
    deaths(Dying::Save);
}

#[test]
fn one_rank_of_two_dies_at_every_operation() {
    deaths(Dying::Rank);
}

#[test]
fn a_push_dies_at_every_operation() {
    deaths(Dying::Push);
}

#[test]
fn a_tag_dies_at_every_operation() {
    deaths(Dying::Tag);
}

#[test]
fn a_collection_dies_at_every_operation() {
    deaths(Dying::Collection);
}
