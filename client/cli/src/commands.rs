//! The commands: one file each.
//!
//! Must never hold more than the list.

mod ckpt;
mod data;
mod demo;
mod du;
mod ls;
mod verify;

use clap::Subcommand;

use crate::context::Globals;
use crate::failure::Failure;

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Save, restore, list and compare checkpoints
    #[command(subcommand)]
    Ckpt(ckpt::Ckpt),
    /// Push, list and fetch datasets
    #[command(subcommand)]
    Data(data::Data),
    Verify(verify::Verify),
    Ls(ls::Ls),
    Du(du::Du),
    Demo(demo::Demo),
}

/// Runs a command.
pub(crate) async fn run(globals: Globals, command: Command) -> Result<(), Failure> {
    match command {
        Command::Ckpt(command) => ckpt::run(&globals, command).await,
        Command::Data(command) => data::run(&globals, command).await,
        Command::Verify(command) => command.run(&globals).await,
        Command::Ls(command) => command.run(&globals).await,
        Command::Du(command) => command.run(&globals).await,
        Command::Demo(command) => command.run(&globals).await,
    }
}
