//! libFuzzer on one parser: it sees which branches an input reaches, and changes those that reach new ones.
//!
//! Rust's stable compiler can put in the counters, and the package of `tests/fuzz` brings libFuzzer, so that nothing
//! needs to be installed. Must never write to the seeds: what is found is kept below `target/fuzz`.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::step::{Step, StepError, Steps};
use crate::venv::cannot_write;

/// Counters in every branch, and the operands of comparisons, as libFuzzer wants them.
const COUNTERS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
                        -Ccodegen-units=1";

/// Memory, in MiB, and seconds that one input may take.
const LIMITS: [&str; 2] = ["-rss_limit_mb=2048", "-timeout=10"];

/// How long it runs, unless said otherwise.
const SECONDS: &str = "60";

/// Reads `TARGET [--seconds N]`.
fn parse<'a>(arguments: &[&'a str]) -> Option<(&'a str, &'a str)> {
    match arguments {
        [target] => Some((target, SECONDS)),
        [target, "--seconds", seconds] if seconds.parse::<u64>().is_ok() => Some((target, seconds)),
        _ => None,
    }
}

/// Tells whether `arguments` name a target.
pub(crate) fn knows(root: &Path, arguments: &[&str]) -> bool {
    parse(arguments).is_some_and(|(target, _)| root.join(format!("tests/fuzz/programs/{target}.rs")).is_file())
}

/// Builds the program of a target, and runs it on its seeds and on what earlier runs have found.
pub(crate) fn fuzz(root: &Path, arguments: &[&str]) -> Result<(), StepError> {
    let Some((target, seconds)) = parse(arguments) else { return Ok(()) };
    let made = root.join("target/fuzz");
    let mut steps = Steps::new(2);
    let program = steps.run("build", |step| {
        let host = host(step)?;
        let manifest = root.join("tests/fuzz/Cargo.toml");
        let mut build = crate::cargo(&["build", "--release", "--bin", target, "--target", &host]);
        // With a target named, programs of the build itself have no counters.
        build.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(&made).env("RUSTFLAGS", COUNTERS);
        step.command(build)?;
        Ok(made.join(host).join("release").join(target))
    })?;
    steps.run("fuzz", |step| {
        let (corpus, found) = (made.join("corpus").join(target), made.join("found"));
        for folder in [&corpus, &found] {
            fs::create_dir_all(folder).map_err(|error| cannot_write(step, folder, &error))?;
        }
        let mut run = Command::new(program);
        run.arg(&corpus).arg(root.join("tests/fuzz/seeds").join(target)).args(LIMITS);
        run.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/{target}-", found.display()));
        let next = format!(
            "give the input in {} a name below tests/fuzz/seeds/{target}, and mend what it breaks",
            found.display()
        );
        step.command_or(run, &next)
    })
}

/// Returns the machine that this compiler builds for by itself.
fn host(step: &Step) -> Result<String, StepError> {
    let output = Command::new("rustc").arg("-vV").output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let host = said.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned);
    host.ok_or_else(|| step.error("`rustc -vV` does not say which machine it is for", "install Rust by rustup"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_those_that_have_a_program() {
        let root = crate::root();
        assert!(knows(&root, &["pack_header"]) && knows(&root, &["http", "--seconds", "5"]));
        for arguments in [&[][..], &["pack"], &["http", "--seconds"], &["http", "5"], &["http", "--seconds", "x"]] {
            assert!(!knows(&root, arguments), "{arguments:?}");
        }
    }
}
