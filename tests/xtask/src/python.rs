//! The Python package: built as a wheel, installed below `target/`, checked and tested there.
//!
//! Must never test the sources in their folder: what users install is the wheel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::data::TestData;
use crate::step::{Step, StepError};
use crate::venv::cannot_write;

/// Builds the wheel with a profile of cargo's, and installs it into the environment of the test data.
pub(crate) fn install(step: &Step, root: &Path, data: &TestData, profile: &str) -> Result<(), StepError> {
    let wheels = root.join("target/wheels");
    match fs::remove_dir_all(&wheels) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(cannot_write(step, &wheels, &error)),
        _ => {}
    }
    let mut build = Command::new(data.program("maturin"));
    build.args(["build", "--locked", "--quiet", "--profile", profile, "--manifest-path"]);
    build.arg(root.join("client/python/Cargo.toml")).arg("--out").arg(&wheels).arg("--interpreter").arg(data.python());
    step.command(build)?;
    let wheel = only_wheel(step, &wheels)?;
    let mut pip = Command::new(data.python());
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]);
    pip.arg("--force-reinstall").arg(wheel);
    step.command(pip)
}

/// Checks the types of the installed package, that its stub says what the native part has, and runs its tests: all, or
/// those named as pytest names them.
pub(crate) fn test(step: &Step, root: &Path, data: &TestData, named: &[&str]) -> Result<(), StepError> {
    // Sources beside the tests would be found before the installed package.
    let folder = root.join("tests/python");
    let caches = root.join("target/test-data/python-caches");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(data.python());
        command.args(arguments).current_dir(&folder).envs(data.variables());
        command.env("MYPY_CACHE_DIR", &caches).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    step.command(run(&["-m", "mypy", "--strict", "--package", "gigastore"]))?;
    step.command(run(&[
        "-m",
        "mypy.stubtest",
        "gigastore._native",
        "--ignore-disjoint-bases",
        "--allowlist",
        "stubtest.allow",
    ]))?;
    // What passing tests write would otherwise stay in the system's folder for three runs: 4 GB.
    let keep_failed = "tmp_path_retention_policy=failed";
    let mut pytest = run(&["-m", "pytest", "--quiet", "-p", "no:cacheprovider", "--durations=10", "-o", keep_failed]);
    pytest.args(named);
    step.command(pytest)
}

/// Returns the wheel in a folder, which must be for any Python from 3.11 on.
fn only_wheel(step: &Step, folder: &Path) -> Result<PathBuf, StepError> {
    let listed = fs::read_dir(folder).map_err(|error| cannot_write(step, folder, &error))?;
    let found: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
    let [only] = &found[..] else {
        return Err(step.error(
            format!("{} has {} files, expected one wheel", folder.display(), found.len()),
            "remove the folder, and run again",
        ));
    };
    let name = only.file_name().unwrap_or_default().to_string_lossy();
    if !name.contains("-cp311-abi3-") {
        return Err(step.error(
            format!("the wheel is {name}, expected one with -cp311-abi3- in its name"),
            "give pyo3 its feature abi3-py311 in Cargo.toml, and run again",
        ));
    }
    Ok(only.clone())
}
