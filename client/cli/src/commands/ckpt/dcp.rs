//! Folders of PyTorch's distributed checkpoint (DCP), handed to the Python package, which has PyTorch read them.
//!
//! Must never say that it went well where the other program did not.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use gigastore_formats::name::Target;

use crate::context::Globals;
use crate::failure::Failure;

/// The variable that names the interpreter with the package; the command that pip installs sets it to its own.
const PYTHON: &str = "GIGASTORE_PYTHON";

/// Saves a folder of DCP's as a checkpoint.
pub(super) async fn import(
    globals: &Globals,
    folder: &Path,
    to: &Target,
    tag: Option<&str>,
    compress: bool,
) -> Result<(), Failure> {
    let mut arguments = vec!["import".into(), folder.into(), "--to".into(), to.to_string().into()];
    if let Some(tag) = tag {
        arguments.extend(["--tag".into(), tag.into()]);
    }
    arguments.extend(compress.then(|| "--compress".into()));
    run(globals, arguments).await
}

/// Writes a checkpoint as a folder that DCP loads.
pub(super) async fn export(globals: &Globals, target: &Target, folder: &Path) -> Result<(), Failure> {
    run(globals, vec!["export".into(), target.to_string().into(), "--out".into(), folder.into()]).await
}

async fn run(globals: &Globals, arguments: Vec<OsString>) -> Result<(), Failure> {
    let python = std::env::var_os(PYTHON).unwrap_or_else(|| "python3".into());
    let mut command = Command::new(&python);
    command.args(["-m", "gigastore.torch"]).args(arguments).args(["--store", globals.url()?]);
    let hint = format!(
        "DCP's files are read by PyTorch: install Gigastore's Python package and torch for {}, or name an interpreter \
         that has them in {PYTHON}",
        python.display()
    );
    let broken = |error: &dyn std::fmt::Display| {
        Failure::local(&format!("{} can't be started", python.display()), error).with_hint(hint.as_str())
    };
    // Ctrl-C reaches the program as it reaches this one.
    let ended = tokio::task::spawn_blocking(move || command.status()).await.map_err(|error| broken(&error))?;
    let status = ended.map_err(|error| broken(&error))?;
    match status.code() {
        Some(0) => Ok(()),
        // What went wrong was said by the program itself.
        Some(code) => Err(Failure::of_program("gigastore.torch", u8::try_from(code).unwrap_or(1)).with_hint(hint)),
        None => Err(Failure::general(format!("gigastore.torch was ended: {status}"))),
    }
}
