//! Errors of the client as the exceptions of `gigastore.errors`.
//!
//! Must never lose what an error knows: object, expected, actual, hint, names that there are.

use gigastore_client::Coded;
use gigastore_client::error::Details;
use gigastore_formats::wire::{Fault, FaultCode};
use pyo3::prelude::*;

/// Names told of where the asked one is not there.
const NAMES_TOLD: usize = 100;

/// Returns the exception of an error.
pub(crate) fn raise(py: Python<'_>, error: &dyn Coded) -> PyErr {
    let code = error.code();
    let message = gigastore_formats::wire::with_causes(&error);
    let Details { object, expected, actual } = error.details();
    let fault = error.fault();
    let hint = fault.and_then(|fault| fault.hint.as_deref());
    let request = fault.and_then(|fault| fault.request_id.as_deref());
    let known: Vec<&str> = error.known().iter().take(NAMES_TOLD).map(String::as_str).collect();
    let made = || {
        let word = serde_json::to_value(code).unwrap_or_default();
        let word = word.as_str().unwrap_or("invalid");
        let errors = py.import("gigastore.errors")?;
        errors.call_method1("of_fault", (word, &message, object, expected, actual, hint, known, request))
    };
    made().map_or_else(|broken| broken, PyErr::from_value)
}

/// Returns the exception of a request that makes no sense.
pub(crate) fn invalid(py: Python<'_>, message: impl Into<String>) -> PyErr {
    raise(py, &Fault::of(FaultCode::Invalid, message))
}

/// Returns a parsed text, or the exception that says why it can't be.
pub(crate) fn parsed<T: std::str::FromStr<Err: std::error::Error>>(py: Python<'_>, text: &str) -> PyResult<T> {
    text.parse().map_err(|error| raise(py, &Fault::new(FaultCode::Invalid, &error)))
}

/// Returns what is told as JSON.
pub(crate) fn json(py: Python<'_>, value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|error| invalid(py, error.to_string()))
}
