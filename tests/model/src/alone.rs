//! A writer that runs alone finishes: from any state, with a store that does what it is asked for.
//!
//! Must never let anybody else take a step.

use stateright::Model;

use crate::scenario::Scenario;
use crate::state::{Phase, State};
use crate::step::Step;

/// Steps that a writer needs for all its operations at most: six for a save that has to begin anew, three for the
/// others, each perhaps after a slot that was lost.
const STEPS: usize = 40;

/// Tells whether all that a writer was asked for ends.
pub fn finishes_alone(scenario: &Scenario, from: &State, writer: u8) -> bool {
    let mut state = *from;
    for _ in 0..STEPS {
        match next(scenario, &state, writer) {
            Some(step) => match scenario.next_state(&state, step) {
                Some(after) => state = after,
                None => return false,
            },
            None => return ended(scenario, &state, writer),
        }
    }
    false
}

/// Returns what happens next where nobody but this writer and the store does anything.
fn next(scenario: &Scenario, state: &State, writer: u8) -> Option<Step> {
    let log = state.folded(scenario);
    let mine = || (0..scenario.ops.len() as u8).filter(|op| scenario.ops[usize::from(*op)].process == writer);
    match state.slots[usize::from(writer)] {
        0 => {}
        slot if slot <= state.len => return Some(Step::Resolve(writer)),
        _ => {
            let sent: Vec<u8> = mine().filter(|op| state.ops[usize::from(*op)].phase == Phase::Proposed).collect();
            let is_mine = |record: &crate::log::Record| {
                record.iter().any(|entry| sent.iter().any(|op| entry.txn() == scenario.txn(state, *op)))
            };
            return state.coming().iter().position(is_mine).map(|which| Step::Land(which as u8));
        }
    }
    for op in mine() {
        if let Some(step) = scenario.step_of(state, &log, op) {
            return Some(step);
        }
        let at = state.ops[usize::from(op)];
        if at.phase == Phase::Sending {
            let missing = at.keys & !state.present & state.arriving;
            return (missing != 0).then(|| Step::Arrive(1 << missing.trailing_zeros()));
        }
        if scenario.stands(state, &log, op) {
            return Some(Step::Propose(writer, op, None));
        }
    }
    None
}

/// Tells whether each operation of a writer has ended, or waits for a target that was never there.
fn ended(scenario: &Scenario, state: &State, writer: u8) -> bool {
    let log = state.folded(scenario);
    scenario.ops.iter().zip(&state.ops).filter(|(op, _)| op.process == writer).all(|(op, at)| match op.work {
        crate::scenario::Work::Pin(name) | crate::scenario::Work::Drop(name) if log.named >> name & 1 == 0 => true,
        _ => matches!(at.phase, Phase::Done | Phase::Refused),
    })
}
