//! Folders of PyTorch's distributed checkpoint (DCP), handed to the Python package, which has PyTorch read them.
//!
//! Must never say that it went well where the other program did not.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use gigastore_formats::name::Target;
use serde_json::Value;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{say, say_json};

/// The variable that names the interpreter with the package; the command that pip installs sets it to its own.
const PYTHON: &str = "GIGASTORE_PYTHON";

/// Ends with 0 where both packages can be imported; imports neither, as that takes seconds.
const IS_THERE: &str = "from importlib.util import find_spec as f; exit(not (f('gigastore') and f('torch')))";

/// How often it is looked whether the program has ended: its answer is a line, so that nobody has to read meanwhile.
const LOOK: Duration = Duration::from_millis(50);

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
    let there = Started::spawn(Command::new(&python).args(["-c", IS_THERE]))?.ended().await?;
    if !there.success() {
        let text = format!("{} has no gigastore or no torch, which read DCP's files", python.display());
        let hint = format!("pip install both for it, or name an interpreter that has them in {PYTHON}");
        return Err(Failure::general(text).with_hint(hint));
    }
    let mut command = Command::new(&python);
    command.args(["-m", "gigastore.torch"]).args(arguments).args(["--store", globals.url()?]);
    let mut program = Started::spawn(command.stdout(Stdio::piped()))?;
    let status = program.ended().await?;
    if !status.success() {
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        return Err(Failure::of_program("gigastore.torch", code));
    }
    let told: Value = program.told()?;
    if globals.json() {
        say_json(&told);
    } else if let Some(told) = told.as_object() {
        let told: Vec<String> = told.iter().map(|(name, value)| format!("{name} {value}")).collect();
        say(&told.join(", "));
    }
    Ok(())
}

/// A program that was started; killed where nobody waits for it any more, as at Ctrl-C. What it had sent is found by
/// the next try.
struct Started(Child);

impl Started {
    fn spawn(command: &mut Command) -> Result<Self, Failure> {
        let child = command.stdin(Stdio::null()).spawn().map_err(|error| {
            let hint = format!("name an interpreter that has gigastore and torch in {PYTHON}");
            let program = Path::new(command.get_program()).display().to_string();
            Failure::local(&format!("{program} can't be started"), &error).with_hint(hint)
        })?;
        Ok(Self(child))
    }

    /// Waits until it has ended.
    async fn ended(&mut self) -> Result<ExitStatus, Failure> {
        loop {
            let ended = self.0.try_wait().map_err(|error| Failure::local("a program can't be waited for", &error))?;
            match ended {
                Some(status) => return Ok(status),
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Returns the line of JSON that it told.
    fn told(&mut self) -> Result<Value, Failure> {
        let mut text = String::new();
        if let Some(mut stdout) = self.0.stdout.take() {
            stdout.read_to_string(&mut text).map_err(|error| Failure::local("a program's answer", &error))?;
        }
        serde_json::from_str(&text).map_err(|error| Failure::local("a program's answer is no JSON", &error))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Nothing is left to be done where it has ended, or can't be ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
