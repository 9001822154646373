//! Every state of the model is looked at: the rules hold, and each of them is needed.
//!
//! Must never take a search that was cut short for one that found nothing.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

use gigastore_model::invariant::{
    HOLDS, I3_USABLE, I4_CONDEMNED, I5_EXISTS, I6_ONCE, I7_GARBAGE, I8_ALONE, N_NAME, P_PIN, R_READER, broken,
};
use gigastore_model::scenario::{Mutation, Scenario};
use gigastore_model::step::Step;
use stateright::{Checker, HasDiscoveries, Model};

/// Searchers at once: the cores of the smallest machine that runs the tests.
const THREADS: usize = 2;

/// What holds in every state by itself; that a writer alone finishes costs a run of its own in each.
const SAFETY: u16 = !I8_ALONE;

/// Looks at all states of a scenario; fails where an invariant breaks, or something that should be seen is not.
fn all_states(scenario: Scenario) -> usize {
    let searched = scenario.checker().threads(THREADS).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let mut found = searched.discoveries();
    if let Some(path) = found.remove(HOLDS) {
        let which = broken(&scenario, path.last_state());
        panic!("invariants {which:#b} break:\n{:#?}", path.into_actions());
    }
    assert!(searched.is_done(), "cut short after {} states", searched.unique_state_count());
    searched.assert_properties();
    let states = searched.unique_state_count();
    println!("{states} states of {} steps, {} deep", searched.state_count(), searched.max_depth());
    states
}

/// Returns how a broken rule is found out: the steps, and the invariants that break.
fn found_out(scenario: Scenario) -> Option<(Vec<Step>, u16)> {
    let searched = scenario.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("{:?}: {} states", scenario.broken, searched.unique_state_count());
    let path = searched.discovery(HOLDS)?;
    let which = broken(&scenario, path.last_state());
    Some((path.into_actions(), which))
}

#[test]
fn data_that_two_checkpoints_share() {
    assert!(all_states(Scenario { watched: SAFETY, ..Scenario::shared() }) > 1_000_000);
}

#[test]
fn one_name_for_two_savers() {
    assert!(all_states(Scenario { watched: SAFETY, ..Scenario::one_name() }) > 1_000_000);
}

#[test]
fn a_reader_beside_pins_and_drops() {
    assert!(all_states(Scenario { watched: SAFETY, reader: true, ..Scenario::pinned() }) > 10_000);
}

#[test]
fn a_writer_alone_finishes() {
    assert!(all_states(Scenario { watched: I8_ALONE, in_flight: 2, ..Scenario::shared() }) > 10_000);
}

/// Each rule, where its loss shows first, and the harm that tells: not that a rule was not kept, but what comes of it.
const RULES: &[(Mutation, Scenario, u16)] = &[
    (Mutation::NoReadBack, Scenario::shared(), I6_ONCE),
    (Mutation::GivesUpInDoubt, Scenario::shared(), I6_ONCE),
    (Mutation::NoSearch, Scenario::shared(), I6_ONCE),
    (Mutation::NoExistenceCheck, Scenario::shared(), I5_EXISTS),
    (Mutation::NoUsabilityCheck, Scenario::shared(), I5_EXISTS),
    (Mutation::DeleteBeforeFence, Scenario::shared(), I5_EXISTS),
    (Mutation::SameKeyAgain, Scenario::shared(), I5_EXISTS),
    (Mutation::FreshTransaction, Scenario::shared(), I6_ONCE),
    (Mutation::PinOfDroppedTakes, Scenario::pinned(), P_PIN),
    (Mutation::DropDeletes, Scenario::shared(), I5_EXISTS),
    (Mutation::TwoPrefixes, Scenario::shared(), I5_EXISTS),
    (Mutation::NameTakenTwice, Scenario::one_name(), N_NAME),
    (Mutation::VoidAcknowledged, Scenario::pinned(), I6_ONCE),
    (Mutation::CondemnedLate, Scenario::shared(), I7_GARBAGE),
    (Mutation::NeverAnew, Scenario::shared(), I8_ALONE),
    (Mutation::CommitBesideDrop, Scenario::pinned_and_shared(), I3_USABLE),
];

#[test]
fn every_rule_is_needed() {
    for (mutation, scenario, harm) in RULES {
        let (steps, which) = found_out(scenario.breaking(*mutation, *harm)).expect("a broken rule does harm");
        assert_eq!(which, *harm, "{mutation:?}");
        println!("{mutation:?} is found out after {} steps: {steps:?}", steps.len());
    }
}

#[test]
fn every_rule_is_tried() {
    for mutation in Mutation::ALL {
        assert_eq!(RULES.iter().filter(|(tried, ..)| tried == mutation).count(), 1, "{mutation:?}");
    }
    let harms = RULES.iter().fold(0, |all, (.., harm)| all | harm);
    // A key that is deleted without being condemned is how I5 breaks; a reader sees what I5 says.
    assert_eq!(harms | I4_CONDEMNED | R_READER, (1 << 9) - 1);
}
