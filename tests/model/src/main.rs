//! The long searches: two writers with all operations, then three, two collectors and a reader. Run them as
//! `cargo xtask soak model`.
//!
//! Each goes through all states, until there are no more or as many as the memory should hold. Must never call a search
//! complete that was cut short.

use std::process::ExitCode;

use gigastore_model::invariant::{HOLDS, I8_ALONE, broken};
use gigastore_model::scenario::Scenario;
use stateright::report::WriteReporter;
use stateright::{Checker, HasDiscoveries, Model};

/// Steps looked at in each search unless told: some 30 million different states, about 4 GiB of them and of what is
/// still to do.
const STEPS: usize = 200_000_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let steps = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Some(STEPS),
        ["--steps", steps] => steps.parse().ok(),
        _ => None,
    };
    let Some(steps) = steps else {
        eprintln!("usage: model [--steps N]");
        return ExitCode::from(2);
    };
    let sound = search("two writers, one collector", Scenario::pinned_and_shared(), steps)
        && search("three writers, two collectors, a reader", Scenario::soak(), steps);
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Searches a scenario; says whether every invariant held wherever it came.
fn search(who: &str, scenario: Scenario, steps: usize) -> bool {
    let scenario = Scenario { watched: !I8_ALONE, ..scenario };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let search = scenario.checker().threads(threads).target_state_count(steps);
    let search = search.finish_when(HasDiscoveries::AnyFailures).spawn_bfs();
    let searched = search.report(&mut WriteReporter::new(&mut std::io::stderr()));
    let states = searched.unique_state_count();
    if let Some(path) = searched.discovery(HOLDS) {
        let which = broken(&scenario, path.last_state());
        eprintln!("{who}: invariants {which:#b} break after:\n{:#?}", path.into_actions());
        return false;
    }
    let all = if searched.state_count() < steps { "all" } else { "not all of them: the first" };
    println!("{who}: {all} {states} states, up to {} steps deep: every invariant holds", searched.max_depth());
    true
}
