//! The project's chores, run as `cargo xtask COMMAND`.
//!
//! `test` is everything that CI checks, in CI's order; what is for other programs goes to stdout, all else to stderr.
//! Must never need a crate that is slow to build, and must never install anything outside `target/`.

mod bench;
mod data;
mod fuzz;
mod proof;
mod python;
mod soak;
mod step;
mod venv;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use data::TestData;
use step::{StepError, Steps};

const HELP: &str = "\
Chores of the Gigastore workspace.

cargo xtask test    run all that CI checks: format, lints, documentation, test data, tests, Python package
cargo xtask data    only prepare the test data (Python packages, a model, a Parquet file) under target/test-data
cargo xtask python [TEST...]
                    build the Python package, install it there, check its types, run its tests (or those named)
cargo xtask bench [NAME...] [--quick] [--filled] [--list]
                    measure the rows that begin with a name, or all: a line of JSON for each on stdout, a table on
                    stderr; fails where one misses its target
cargo xtask soak NAME [--minutes N]
                    what CI does for seconds, for longer: corruption, disk, fuzz or reality
cargo xtask soak model [--steps N]
                    search the states of the model of commits and collections that are too many for every change
cargo xtask sim --seeds N [--seed FIRST] [--trace]
                    run the engine and client in N made-up worlds; says how to see again what fails
cargo xtask fuzz TARGET [--seconds N]
                    libFuzzer on one parser: the targets are the folders of tests/fuzz/seeds
cargo xtask help    print this

The tests find the data by GIGASTORE_TEST_VENV, GIGASTORE_TEST_MODEL, GIGASTORE_TEST_PARQUET and
GIGASTORE_TEST_TEXTS, which `test` sets.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["test"] => test(),
        ["data"] => prepare_only(),
        ["python", ref rest @ ..] => python_only(rest),
        ["bench", ref rest @ ..] => bench::bench(&root(), rest),
        ["soak", ref rest @ ..] if soak::knows(rest) => soak::soak(&root(), rest),
        ["fuzz", ref rest @ ..] if fuzz::knows(&root(), rest) => fuzz::fuzz(&root(), rest),
        ["sim", ref rest @ ..] => proof::simulation(rest),
        ["soak", "model", ref rest @ ..] => proof::model(rest),
        ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            Ok(())
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn test() -> Result<(), StepError> {
    let mut steps = Steps::new(6);
    steps.run("format", |step| step.command(cargo(&["fmt", "--all", "--", "--check"])))?;
    steps.run("lints", |step| {
        let arguments = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
        step.command(cargo(&arguments))
    })?;
    steps.run("documentation", |step| {
        let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
        doc.env("RUSTDOCFLAGS", "-D warnings");
        step.command(doc)
    })?;
    let found = steps.run("test data", |step| data::prepare(step, &root()))?;
    steps.run("tests", |step| {
        let mut test = cargo(&["test", "--workspace", "--locked"]);
        test.envs(found.variables());
        step.command(test)
    })?;
    steps.run("Python package", |step| {
        python::install(step, &root(), &found, "dev")?;
        python::test(step, &root(), &found, &[])
    })?;
    steps.finish();
    Ok(())
}

fn python_only(tests: &[&str]) -> Result<(), StepError> {
    let mut steps = Steps::new(2);
    let found = steps.run("test data", |step| data::prepare(step, &root()))?;
    steps.run("Python package", |step| {
        python::install(step, &root(), &found, "dev")?;
        python::test(step, &root(), &found, tests)
    })
}

fn prepare_only() -> Result<(), StepError> {
    let found: TestData = Steps::new(1).run("test data", |step| data::prepare(step, &root()))?;
    for (name, value) in found.variables() {
        println!("export {name}='{}'", value.display());
    }
    Ok(())
}

/// Returns the workspace's root: two folders above this crate.
fn root() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.ancestors().nth(2).unwrap_or(crate_folder).to_path_buf()
}

/// Returns the cargo that runs this program, at work in the root.
fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}
