//! What CI does for seconds, for as long as one likes: the same tests, with more of the same.
//!
//! Must never check anything that CI does not: a soak finds what is rare, not what is untested.

use std::path::Path;
use std::process::Command;

use crate::data;
use crate::step::{StepError, Steps};

/// A soak: its name, the package and target of its test, whether it needs the test data, and the variables that make
/// much of it, of so many minutes.
type Soak = (&'static str, &'static str, &'static str, bool, fn(u64) -> Vec<(&'static str, String)>);

const SOAKS: [Soak; 4] = [
    ("corruption", "gigastore-tests", "corruption", false, |_| Vec::new()),
    ("disk", "gigastore", "disk", true, |_| vec![("GIGASTORE_DISK", "all".to_owned())]),
    ("fuzz", "gigastore-tests", "fuzz", false, |minutes| {
        // Another seed at each of them.
        let seed = std::time::UNIX_EPOCH.elapsed().map_or(2, |since| since.as_secs());
        vec![("GIGASTORE_FUZZ_SECONDS", (60 * minutes).to_string()), ("GIGASTORE_FUZZ_SEED", seed.to_string())]
    }),
    ("reality", "gigastore", "reality", true, |minutes| {
        vec![("GIGASTORE_REALITY_SECONDS", (60 * minutes).to_string())]
    }),
];

/// Returns the command of a soak; `None` where the arguments are not those of one.
fn command(arguments: &[&str]) -> Option<(Command, bool)> {
    let (name, minutes) = match arguments {
        [name] => (*name, 5),
        [name, "--minutes", minutes] => (*name, minutes.parse().ok()?),
        _ => return None,
    };
    let (_, package, target, needs_data, variables) = SOAKS.into_iter().find(|soak| soak.0 == name)?;
    let mut command = crate::cargo(&["test", "--locked", "-p", package, "--test", target, "--", "--nocapture"]);
    command.envs(variables(minutes));
    Some((command, needs_data))
}

/// Tells whether `arguments` are those of a soak.
pub(crate) fn knows(arguments: &[&str]) -> bool {
    command(arguments).is_some()
}

/// Runs a soak.
pub(crate) fn soak(root: &Path, arguments: &[&str]) -> Result<(), StepError> {
    let Some((mut command, needs_data)) = command(arguments) else { return Ok(()) };
    let mut steps = Steps::new(1 + usize::from(needs_data));
    if needs_data {
        let found = steps.run("test data", |step| data::prepare(step, root))?;
        command.envs(found.variables());
    }
    steps.run("soak", |step| step.command(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soak_is_named_and_may_have_minutes() {
        for arguments in [&["reality"][..], &["disk"], &["fuzz", "--minutes", "20"]] {
            assert!(knows(arguments), "{arguments:?}");
        }
        for arguments in [&[][..], &["realty"], &["fuzz", "--minutes"], &["fuzz", "--minutes", "x"], &["fuzz", "20"]] {
            assert!(!knows(arguments), "{arguments:?}");
        }
    }
}
