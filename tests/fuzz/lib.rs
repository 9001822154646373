//! The targets of `gigastore_tests::hostile`, for libFuzzer.
//!
//! A package of its own, outside the workspace: it is built with counters in every branch, which nobody else wants.
//! Must never hold a target of its own.

use std::sync::OnceLock;

use gigastore_tests::hostile::{Target, target};

/// Gives bytes to the target of this name, which is the same in every call.
///
/// # Panics
/// Where the target does: that is what a fuzzer looks for.
pub fn run(name: &str, data: &[u8]) {
    static TARGET: OnceLock<Target> = OnceLock::new();
    (TARGET.get_or_init(|| target(name).expect("every program has a target")).run)(data);
}
