//! The targets of `gigastore_tests::hostile`, for libFuzzer.
//!
//! A package of its own, outside the workspace: it is built with counters in every branch, which nobody else wants.
//! Must never hold a target of its own.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::process::abort;
use std::sync::OnceLock;

use gigastore_tests::hostile::{Target, target};

/// Gives bytes to the target of this name, which is the same in every call. Ends the process where the target panics:
/// that is what a fuzzer looks for.
///
/// # Panics
/// Where there is no such target.
pub fn run(name: &str, data: &[u8]) {
    static TARGET: OnceLock<Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        // libFuzzer's own hook ends the process at any panic, also at one that its caller makes an error of.
        set_hook(Box::new(|panic| eprintln!("{panic}")));
        target(name).expect("every program has a target")
    });
    if catch_unwind(AssertUnwindSafe(|| (target.run)(data))).is_err() {
        abort();
    }
}
