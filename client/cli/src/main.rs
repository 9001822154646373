//! The binary `gigastore`.
//!
//! Must never hold more than its start: what it does is in the library, which other programs run as well.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(gigastore::run(std::env::args_os()))
}
