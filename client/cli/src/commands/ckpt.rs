//! The commands on checkpoints.
//!
//! Must never hold more than the list.

mod dcp;
mod diff;
mod ls;
mod restore;
mod save;
mod show;
mod tag;
mod watch;

use clap::Subcommand;

use crate::context::Globals;
use crate::failure::Failure;

/// What to do with checkpoints.
#[derive(Subcommand)]
pub(crate) enum Ckpt {
    Save(save::Save),
    Restore(restore::Restore),
    Ls(ls::Ls),
    Show(show::Show),
    Diff(diff::Diff),
    Tag(tag::Tag),
    Watch(watch::Watch),
}

/// Runs a command.
pub(crate) async fn run(globals: &Globals, command: Ckpt) -> Result<(), Failure> {
    match command {
        Ckpt::Save(command) => command.run(globals).await,
        Ckpt::Restore(command) => command.run(globals).await,
        Ckpt::Ls(command) => command.run(globals).await,
        Ckpt::Show(command) => command.run(globals).await,
        Ckpt::Diff(command) => command.run(globals).await,
        Ckpt::Tag(command) => command.run(globals).await,
        Ckpt::Watch(command) => command.run(globals).await,
    }
}
