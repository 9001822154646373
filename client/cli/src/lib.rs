//! Gigastore on the command line: what the binary `gigastore` does, and the command of the Python package.
//!
//! Each command is a file under `commands/`; its doc comment is its help. Data go to stdout, everything else to stderr.
//! Must never end with 0 after a failure, nor print half of a result as if it were all of it.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's panic is its failure"))]

mod commands;
mod context;
mod duration;
mod failure;
mod output;
mod rate;
mod service;

use std::ffi::OsString;
use std::time::Duration;

use clap::Parser;

use crate::context::Globals;
use crate::failure::Failure;

/// The sharded checkpoint and dataset store: every byte under a BLAKE3 hash.
///
/// A target is PROJECT/RUN@STEP, PROJECT/RUN@TAG or PROJECT/DATASET@VERSION; without @… it means
/// the latest.
///
/// Examples:
///
///   gigastore demo
///
///   gigastore --store file:///data/store ckpt save model.safetensors --to demo/minilm@100
///
///   gigastore --store file:///data/store verify demo
///
/// Exit codes: 0 ok, 1 general, 2 usage, 3 partial, 4 not found, 5 retryable, 6 authentication, 7
/// integrity failure, 8 conflict, 130 interrupted.
#[derive(Parser)]
#[command(name = "gigastore", version, arg_required_else_help = true, verbatim_doc_comment)]
struct Arguments {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: commands::Command,
}

/// How long a command that failed waits for its unfinished files to go away: a second, in which a disk removes many.
const CLEANING_PATIENCE: Duration = Duration::from_secs(1);

/// Runs the command line `arguments`, the name of the program first, and returns its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let Arguments { globals, command } = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(asked) => {
            // Help goes to stdout and is no failure. Where it can't be printed there is nobody to tell.
            let _ = asked.print();
            return u8::try_from(asked.exit_code()).unwrap_or(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::local("the runtime can't start", &error).report(globals.format),
    };
    output::begin();
    let format = globals.format;
    let handles_signals = command.handles_signals();
    let ended = runtime.block_on(async {
        // What runs is dropped at Ctrl-C: staging files go away, and nothing of a save is visible before its commit.
        tokio::select! {
            ended = commands::run(globals, command) => ended,
            _ = tokio::signal::ctrl_c(), if !handles_signals => Err(Failure::interrupted()),
        }
    });
    match ended {
        // A blocking write that is under way must not hold up the exit.
        Ok(()) => runtime.shutdown_background(),
        // What was given up is removed by such threads.
        Err(_) => runtime.shutdown_timeout(CLEANING_PATIENCE),
    }
    match ended {
        // What was lost was said when it was.
        Ok(()) if output::lost_data() => 1,
        Ok(()) => 0,
        Err(failure) => failure.report(format),
    }
}
