//! Steps: each with a heading, its seconds, and an error that names the command to repeat.
//!
//! Must never go on after a failed step.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

/// Why a step failed; printed as the last line.
#[derive(Debug)]
pub(crate) struct StepError {
    step: &'static str,
    what: String,
    next: String,
}

impl std::fmt::Display for StepError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "step \"{}\" failed: {}\nwhat to do: {}", self.step, self.what, self.next)
    }
}

/// A numbered run of steps.
pub(crate) struct Steps {
    total: usize,
    done: usize,
    began: Instant,
}

/// The step under way.
pub(crate) struct Step {
    name: &'static str,
}

impl Steps {
    /// Begins a run of `total` steps.
    pub(crate) fn new(total: usize) -> Self {
        Self { total, done: 0, began: Instant::now() }
    }

    /// Runs one step and prints its seconds.
    pub(crate) fn run<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&Step) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        self.done += 1;
        eprintln!("\n=== {}/{} {name}", self.done, self.total);
        let began = Instant::now();
        let value = work(&Step { name })?;
        eprintln!("=== {name}: ok, {:.1} s", began.elapsed().as_secs_f64());
        Ok(value)
    }

    /// Prints that all is well.
    pub(crate) fn finish(self) {
        eprintln!("\n=== all {} steps passed in {:.1} s", self.done, self.began.elapsed().as_secs_f64());
    }
}

impl Step {
    /// Returns an error of this step.
    pub(crate) fn error(&self, what: impl Into<String>, next: impl Into<String>) -> StepError {
        StepError { step: self.name, what: what.into(), next: next.into() }
    }

    /// Runs a command whose output goes to the terminal; its failure is the step's.
    pub(crate) fn command(&self, command: Command) -> Result<(), StepError> {
        let shown = shown(&command);
        self.command_or(command, &format!("read the output above, mend it, and repeat only this step with:\n  {shown}"))
    }

    /// Runs a command; a failure tells the reader to do `next`.
    pub(crate) fn command_or(&self, mut command: Command, next: &str) -> Result<(), StepError> {
        let shown = shown(&command);
        eprintln!("$ {shown}");
        let status = command.stdin(Stdio::null()).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.error(format!("`{shown}` {}", ended(status)), next)),
            Err(error) => Err(self.error(format!("`{shown}` could not be started: {error}"), next)),
        }
    }
}

fn ended(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => format!("was ended by the system ({status})"),
    }
}

/// Returns a command as one would type it: changed variables, program, arguments.
fn shown(command: &Command) -> String {
    let mut line = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let _ = write!(line, "{}={} ", name.to_string_lossy(), quoted(value));
        }
    }
    let program = command.get_program();
    let program = std::path::Path::new(program).file_name().unwrap_or(program);
    line.push_str(&quoted(program));
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&quoted(argument));
    }
    line
}

fn quoted(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.into_owned() } else { format!("'{text}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_what_to_do() {
        let mut steps = Steps::new(1);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exit 3"]).env("FLAGS", "-D warnings");
        let error = steps.run("trial", |step| step.command(command)).expect_err("exit 3 is a failure");
        let text = error.to_string();
        assert!(text.contains("step \"trial\" failed"), "{text}");
        assert!(text.contains("`FLAGS='-D warnings' sh -c 'exit 3'` ended with exit code 3"), "{text}");
        assert!(text.contains("what to do: "), "{text}");
    }

    #[test]
    fn a_missing_program_is_a_failure_too() {
        let error =
            Step { name: "trial" }.command(Command::new("/nowhere/at-all")).expect_err("there is no such program");
        assert!(error.to_string().contains("could not be started"), "{error}");
    }
}
