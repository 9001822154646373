//! What must hold in every state, and what some state must show so that holding means something.
//!
//! Must never read more of a state than anybody could: the log, the store, what callers were told.

use stateright::Property;

use crate::alone::finishes_alone;
use crate::log::expired;
use crate::scenario::{Scenario, Work};
use crate::state::{Phase, Reader, State};

/// Every committed key was usable at its slot.
pub const I3_USABLE: u16 = 1;
/// Only keys that a durable fence condemned are deleted.
pub const I4_CONDEMNED: u16 = 1 << 1;
/// Every key of a live commit exists.
pub const I5_EXISTS: u16 = 1 << 2;
/// An acknowledged operation took effect exactly once, any other at most once, and a refused one never.
pub const I6_ONCE: u16 = 1 << 3;
/// Garbage is condemned by the second fence at the latest.
pub const I7_GARBAGE: u16 = 1 << 4;
/// Any living writer run alone finishes.
pub const I8_ALONE: u16 = 1 << 5;
/// One live commit per name.
pub const N_NAME: u16 = 1 << 6;
/// An acknowledged pin keeps its target.
pub const P_PIN: u16 = 1 << 7;
/// A reader never misses an object of a commit that is live.
pub const R_READER: u16 = 1 << 8;

/// The name of the one property that must hold everywhere.
pub const HOLDS: &str = "all invariants hold";

/// Returns the invariants that are broken in a state, of those that are watched.
pub fn broken(scenario: &Scenario, state: &State) -> u16 {
    let log = state.folded(scenario);
    let mut broken = 0;
    let mut check = |which: u16, holds: bool| broken |= if holds { 0 } else { which };
    check(I3_USABLE, !log.unusable);
    check(I4_CONDEMNED, state.deleting & !log.condemned == 0);
    check(I5_EXISTS, log.kept() & !state.present == 0);
    let deletable = scenario.deletable(state, &log);
    check(I7_GARBAGE, state.present & expired(log.epoch) & !log.kept_at_fence & !deletable == 0);
    check(R_READER, state.reader != Reader::Alarmed);
    let names = log.live().iter().fold(0u8, |names, live| names | 1 << live.name);
    check(N_NAME, names.count_ones() as usize == log.live().len());
    for (op, (at, effects)) in scenario.ops.iter().zip(state.ops.iter().zip(log.effects)) {
        check(
            I6_ONCE,
            match at.phase {
                Phase::Done => effects == 1,
                Phase::Refused => effects == 0,
                _ => effects <= 1,
            },
        );
        if let (Work::Pin(name), Phase::Done) = (op.work, at.phase) {
            check(P_PIN, log.is_live(name));
        }
    }
    if scenario.watched & I8_ALONE != 0 {
        let finish = (0..scenario.writers).all(|writer| finishes_alone(scenario, state, writer));
        check(I8_ALONE, finish);
    }
    broken & scenario.watched
}

pub(crate) fn properties(scenario: &Scenario) -> Vec<Property<Scenario>> {
    let holds = Property::always(HOLDS, |scenario, state| broken(scenario, state) == 0);
    if scenario.broken.is_some() {
        return vec![holds];
    }
    vec![
        holds,
        Property::sometimes("an object is on its way that was condemned", |scenario: &Scenario, state: &State| {
            state.arriving & !state.present & state.folded(scenario).condemned != 0
        }),
        Property::sometimes("a commit keeps an object that is too old to be usable", |scenario, state: &State| {
            let log = state.folded(scenario);
            log.kept() & expired(log.epoch) != 0
        }),
        Property::sometimes("two creations race for a slot", |_, state: &State| state.comings > 1),
        Property::sometimes("every operation has ended", |scenario: &Scenario, state: &State| {
            let ended = |phase| matches!(phase, Phase::Done | Phase::Refused);
            state.ops[..scenario.ops.len()].iter().all(|op| ended(op.phase))
        }),
    ]
}
