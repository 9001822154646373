//! Python packages in an environment of their own below `target/`.
//!
//! Must never install anything elsewhere, nor build upon a half-made folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::step::{Step, StepError};

/// The oldest Python that all our requirements have wheels for.
const OLDEST_PYTHON: (u32, u32) = (3, 11);

/// What to do where nothing can be fetched.
pub(crate) const NO_NETWORK: &str = "check that this machine reaches the package registry (a proxy or mirror is set in \
                                     pip's or npm's own configuration), then run the same command again";

/// Empties the folder: a half-made one is never built upon.
pub(crate) fn start_anew(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(folder),
    }
}

/// Returns the error of a path that can't be written.
pub(crate) fn cannot_write(step: &Step, path: &Path, error: &io::Error) -> StepError {
    step.error(format!("{}: {error}", path.display()), "make the folder writable, or remove it and run again")
}

/// Makes an empty environment in `venv` below the folder.
pub(crate) fn make_venv(step: &Step, folder: &Path) -> Result<(), StepError> {
    let (major, minor) = OLDEST_PYTHON;
    let install =
        format!("install Python {major}.{minor} or newer as `python3`, with its venv module (Debian: python3-venv)");
    let mut check = Command::new("python3");
    check.args(["-c", &format!("import sys; sys.exit(sys.version_info < ({major}, {minor}))")]);
    step.command_or(check, &install)?;
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(folder.join("venv"));
    step.command_or(venv, &install)
}

/// Installs packages into the folder's environment.
pub(crate) fn pip(step: &Step, folder: &Path, arguments: &[&str]) -> Result<(), StepError> {
    let mut pip = Command::new(folder.join("venv/bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]);
    pip.args(arguments).env("PIP_CACHE_DIR", folder.join("pip-cache"));
    step.command_or(pip, &format!("a Python package could not be fetched from the package index: {NO_NETWORK}"))
}

/// Installs what a list of requirements names, a paragraph of it at a time: the archives of one paragraph lie on the
/// disk beside what they become, and are gone before the next.
pub(crate) fn install_list(step: &Step, folder: &Path, list: &str) -> Result<(), StepError> {
    let part = folder.join("requirements-part.txt");
    let arguments = ["--no-cache-dir", "--no-deps", "--requirement", &part.to_string_lossy()];
    let names = |line: &str| !line.trim().is_empty() && !line.starts_with('#');
    for paragraph in list.split("\n\n").filter(|paragraph| paragraph.lines().any(names)) {
        fs::write(&part, paragraph).map_err(|e| cannot_write(step, &part, &e))?;
        pip(step, folder, &arguments)?;
    }
    fs::remove_file(&part).map_err(|e| cannot_write(step, &part, &e))
}

/// Refuses to begin where the disk has less room than is needed.
pub(crate) fn check_room(step: &Step, folder: &Path, needed: u64) -> Result<(), StepError> {
    let disk = rustix::fs::statvfs(folder).map_err(|e| cannot_write(step, folder, &e.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free >= needed {
        return Ok(());
    }
    let [free, needed] = [free, needed].map(|bytes| bytes as f64 / 1e9);
    Err(step.error(
        format!("the disk of {} has {free:.1} GB of room, expected at least {needed:.1}", folder.display()),
        "free some room, or clone the repository to a larger disk",
    ))
}

/// Returns `lib/python3.x/site-packages` of a venv.
pub(crate) fn site_packages(venv: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(venv.join("lib")).ok()?;
    entries.flatten().map(|entry| entry.path().join("site-packages")).find(|path| path.is_dir())
}
