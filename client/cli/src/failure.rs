//! How a command fails: what is printed, and the exit code.
//!
//! Must never lose what the store said: object, expected, actual and what to do next come along.

use std::fmt::Display;

use gigastore_client::Coded;
use gigastore_client::error::Details;
use gigastore_formats::wire::{Fault, FaultCode};
use serde_json::{Value, json};

use crate::output::{Format, note};

/// Most near names that are suggested.
const SUGGESTIONS: usize = 3;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: u8,
    code: Value,
    message: String,
    object: Option<String>,
    expected: Option<String>,
    actual: Option<String>,
    hint: Option<String>,
}

impl Failure {
    fn new(exit: u8, code: &str, message: String) -> Self {
        Self { exit, code: json!(code), message, object: None, expected: None, actual: None, hint: None }
    }

    /// The arguments make no sense together.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(2, "usage", message.into())
    }

    /// Something should hold and does not.
    pub(crate) fn general(message: impl Into<String>) -> Self {
        Self::new(1, "general", message.into())
    }

    /// Something of this machine failed.
    pub(crate) fn local(what: &str, error: &dyn Display) -> Self {
        Self::general(format!("{what}: {error}"))
    }

    /// A part of the work is done, and a part could not be.
    pub(crate) fn partial(message: impl Into<String>) -> Self {
        Self::new(3, "partial", message.into())
    }

    /// There is no such thing.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(4, "not_found", message.into())
    }

    /// It may go well another time.
    pub(crate) fn retryable(message: impl Into<String>) -> Self {
        Self::new(5, "unavailable", message.into())
    }

    /// Tells whether something was not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.exit == 4
    }

    /// Returns what happened.
    pub(crate) fn text(&self) -> &str {
        &self.message
    }

    /// What was verified is damaged.
    pub(crate) fn integrity(message: impl Into<String>) -> Self {
        Self::new(7, "integrity", message.into())
    }

    /// Ctrl-C.
    pub(crate) fn interrupted() -> Self {
        let text = "interrupted: nothing half-done is visible. Run the same command again to go on; what is in the \
                    store is not sent again.";
        Self::new(130, "interrupted", text.to_owned())
    }

    /// A program that was started failed, and said why.
    pub(crate) fn of_program(name: &str, exit: u8) -> Self {
        let code = match exit {
            4 => "not_found",
            5 => "unavailable",
            6 => "denied",
            7 => "integrity",
            8 => "conflict",
            _ => "general",
        };
        Self::new(exit, code, format!("{name} ended with exit code {exit}; what it said stands above"))
    }

    /// Adds what to do next.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Suggests names near to `asked`.
    pub(crate) fn near(mut self, asked: &str, known: &[String]) -> Self {
        let near = near(asked, known);
        if !near.is_empty() {
            self.hint = Some(format!("did you mean {}?", near.join(" or ")));
        }
        self
    }

    /// Prints it on stderr and returns its exit code.
    pub(crate) fn report(self, format: Format) -> u8 {
        self.print(format);
        self.exit
    }

    /// Prints it on stderr.
    pub(crate) fn print(&self, format: Format) {
        if format == Format::Json {
            let Self { code, message, object, expected, actual, hint, .. } = self;
            note(&json!({
                "code": code, "message": message, "object": object, "expected": expected, "actual": actual,
                "hint": hint,
            }));
        } else {
            note(&format_args!("error: {}", self.message));
            for (name, value) in
                [("object", &self.object), ("expected", &self.expected), ("actual", &self.actual), ("hint", &self.hint)]
            {
                if let Some(value) = value.as_ref().filter(|value| !self.message.contains(value.as_str())) {
                    note(&format_args!("  {name}: {value}"));
                }
            }
        }
    }
}

impl<E: Coded> From<E> for Failure {
    fn from(error: E) -> Self {
        let code = error.code();
        let message = Fault::new(code, &error).message;
        let mut failure = Self { code: json!(code), ..Self::new(exit_code(code), "", message) };
        let Details { object, expected, actual } = error.details();
        (failure.object, failure.expected, failure.actual) = (object, expected, actual);
        failure.hint = error.fault().and_then(|fault| fault.hint.clone());
        let asked = failure.message.split('"').nth(1).unwrap_or_default().to_owned();
        failure.near(&asked, error.known())
    }
}

/// The exit code of each kind of fault.
fn exit_code(code: FaultCode) -> u8 {
    match code {
        FaultCode::Invalid
        | FaultCode::BadUpload
        | FaultCode::StoreFull
        | FaultCode::ReadOnly
        | FaultCode::NewerFormat => 1,
        FaultCode::NotFound | FaultCode::Gone => 4,
        FaultCode::Unavailable | FaultCode::CommitStateUnknown | FaultCode::MissingRanks | FaultCode::InProgress => 5,
        FaultCode::Denied => 6,
        FaultCode::Integrity | FaultCode::Lost => 7,
        FaultCode::Conflict => 8,
    }
}

/// Names that differ little from `asked`, the nearest first; of a glob, what stands before its first wildcard counts.
fn near<'k>(asked: &str, known: &'k [String]) -> Vec<&'k str> {
    let plain = asked.find(['*', '?', '[', '{']).map(|end| &asked[..end]);
    let distance = |name: &str| match plain {
        Some(start) => {
            let same_length: String = name.chars().take(start.chars().count()).collect();
            strsim::damerau_levenshtein(start, &same_length)
        }
        None => strsim::damerau_levenshtein(asked, name),
    };
    let most = |name: &str| plain.map_or(name.len().max(asked.len()), str::len) / 2;
    let mut scored: Vec<(usize, &str)> = known
        .iter()
        .map(|name| (distance(name), name.as_str()))
        .filter(|(distance, name)| *distance <= most(name))
        .collect();
    scored.sort_unstable();
    scored.into_iter().take(SUGGESTIONS).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let known = ["minilm".to_owned(), "llama".to_owned(), "minilm-2".to_owned()];
        assert_eq!(near("minilmm", &known), ["minilm", "minilm-2"]);
        assert!(near("zzzzzzzz", &known).is_empty());
        assert_eq!(near("mimilm*", &known), ["minilm", "minilm-2"]);
        assert!(near("*", &known).len() == 3 && near("zzzz*", &known).is_empty());
    }
}
