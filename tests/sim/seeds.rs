//! Runs as many seeds as wanted: `cargo xtask sim --seeds N [--seed FIRST] [--trace]`.
//!
//! Must never end with success where one seed failed.

use std::process::ExitCode;

use gigastore_tests::simulation::run::seed;
use gigastore_tests::simulation::script::Files;

const USAGE: &str = "usage: sim --seeds N [--seed FIRST] [--trace]";

struct Wanted {
    seeds: u64,
    first: u64,
    trace: bool,
}

fn wanted(arguments: &[String]) -> Option<Wanted> {
    let mut wanted = Wanted { seeds: 1, first: 0, trace: false };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--seeds" => wanted.seeds = rest.next()?.parse().ok()?,
            "--seed" => wanted.first = rest.next()?.parse().ok()?,
            "--trace" => wanted.trace = true,
            _ => return None,
        }
    }
    Some(wanted)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(Wanted { seeds, first, trace }) = wanted(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let prepared = tempfile::tempdir().and_then(|folder| Ok((Files::new(folder.path())?, folder)));
    let (files, _folder) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!("sim: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (mut operations, mut deaths, mut told, mut failed) = (0, 0, 0, 0);
    for number in first..first.saturating_add(seeds) {
        let outcome = seed(number, &files);
        if trace {
            print!("{}", outcome.trace);
        }
        operations += outcome.operations;
        deaths += outcome.deaths;
        told += outcome.told;
        if !outcome.wrong.is_empty() {
            failed += 1;
            eprintln!("seed {number} failed; again: cargo xtask sim --seeds 1 --seed {number} --trace");
            outcome.wrong.iter().for_each(|wrong| eprintln!("  {wrong}"));
        }
    }
    eprintln!("{seeds} seeds, {operations} operations of stores, {deaths} deaths, {told} answers, {failed} failures");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
