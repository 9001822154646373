//! The long search: three writers, two collectors and a reader. Run it as `cargo xtask soak model`.
//!
//! Goes through all states, breadth first, until there are no more or as many as the memory should hold. Must never call
//! a search complete that was cut short.

use std::process::ExitCode;

use gigastore_model::invariant::{HOLDS, I8_ALONE, broken};
use gigastore_model::scenario::Scenario;
use stateright::report::WriteReporter;
use stateright::{Checker, HasDiscoveries, Model};

/// Steps looked at unless told: some 100 million different states, about 12 GiB of them and of what is still to do.
const STEPS: usize = 400_000_000;

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
    let scenario = Scenario { watched: !I8_ALONE, ..Scenario::soak() };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let search = scenario.checker().threads(threads).target_state_count(steps);
    let search = search.finish_when(HasDiscoveries::AnyFailures).spawn_bfs();
    let searched = search.report(&mut WriteReporter::new(&mut std::io::stderr()));
    let states = searched.unique_state_count();
    if let Some(path) = searched.discovery(HOLDS) {
        let which = broken(&scenario, path.last_state());
        eprintln!("invariants {which:#b} break after:\n{:#?}", path.into_actions());
        return ExitCode::FAILURE;
    }
    let all = if searched.state_count() < steps { "all" } else { "the first" };
    println!("{all} {states} states, up to {} steps deep: every invariant holds", searched.max_depth());
    ExitCode::SUCCESS
}
