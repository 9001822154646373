//! The bench: what it needs below `target/test-data`, then the program that measures.
//!
//! Must never judge a figure: the program knows the rows and their targets, and its exit code is the verdict.

use std::path::Path;

use crate::data;
use crate::python;
use crate::step::{StepError, Steps};

/// Groups of rows that need Python packages: what others do, a real S3 server, real weights, our own package.
const NEED_PACKAGES: &[&str] = &["seaweed", "peers", "coded", "python"];

/// Measures the rows that `arguments` name, or all; fails where one misses its target or is absent.
pub(crate) fn bench(root: &Path, arguments: &[&str]) -> Result<(), StepError> {
    let list = arguments.contains(&"--list");
    let mut names = arguments.iter().filter(|argument| !argument.starts_with("--")).peekable();
    // A name may be all that rows begin with, or more than the group's.
    let needs = |name: &&str| NEED_PACKAGES.iter().any(|group| name.starts_with(group) || group.starts_with(*name));
    let packages = !list && (names.peek().is_none() || names.any(needs));
    let mut steps = Steps::new(1 + 2 * usize::from(packages));
    let mut command = crate::cargo(&["bench", "--locked", "-p", "gigastore-benches", "--bench", "figures", "--"]);
    command.args(arguments).env("GIGASTORE_BENCH_DIR", root.join("target/bench-data/work"));
    if packages {
        let found = steps.run("test data", |step| data::prepare(step, root))?;
        steps.run("Python package", |step| python::install(step, root, &found, "release"))?;
        command.env("GIGASTORE_BENCH_PYTHON", found.python());
        command.env("GIGASTORE_BENCH_WEED", found.program("weed"));
        command.env("GIGASTORE_BENCH_MODEL", found.model());
    }
    steps.run("bench", |step| step.command(command))
}
