//! The native part of the Python package `gigastore`: the client of Gigastore for an interpreter.
//!
//! | file | what |
//! |---|---|
//! | `process.rs` | the runtime of a process, also of one that was forked off |
//! | `error.rs` | errors of the client as exceptions |
//! | `memory.rs` | memory of Python's objects, lent to the client; memory of ours, lent to Python |
//! | `released.rs` | the former, when nobody needs it any more |
//! | `dlpack.rs` | the same by DLPack |
//! | `store.rs` | a store |
//! | `save.rs` | saves, at once and in the background |
//! | `checkpoint.rs` | a checkpoint |
//! | `dataset.rs` | a dataset |
//! | `batches.rs` | its rows as Arrow batches |
//! | `stream.rs`, `streaming.rs` | batches of datasets for a trainer |
//!
//! Names, defaults and types of tensors are the business of the Python modules over it. What is told of commits and
//! reports is JSON text, the same that a service sends. Must never hold the interpreter's lock while bytes move.

mod batches;
mod checkpoint;
mod dataset;
mod dlpack;
mod error;
mod memory;
mod process;
mod released;
mod save;
mod store;
mod stream;
mod streaming;

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the command line; for the command `gigastore` that pip installs. Signals are its own while it runs.
#[pyfunction]
fn main(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| gigastore::run(arguments))
}

/// The native part of gigastore.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<store::Store>()?;
    module.add_class::<checkpoint::Checkpoint>()?;
    module.add_class::<dataset::Dataset>()?;
    module.add_class::<batches::Batches>()?;
    module.add_class::<stream::Stream>()?;
    module.add_class::<save::Saver>()?;
    module.add_class::<save::Pending>()?;
    module.add_class::<memory::Memory>()?;
    module.add_function(wrap_pyfunction!(memory::gather, module)?)?;
    module.add_function(wrap_pyfunction!(main, module)?)
}
