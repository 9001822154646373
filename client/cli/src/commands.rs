//! The commands: one file each.
//!
//! Must never hold more than the list.

mod ckpt;
mod data;
mod demo;
mod doctor;
mod du;
mod gc;
mod keep;
mod ls;
mod mirror;
mod retain;
mod scrub;
mod serve;
mod token;
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
    Scrub(scrub::Scrub),
    Mirror(mirror::Mirror),
    Ls(ls::Ls),
    Du(du::Du),
    Gc(gc::Gc),
    Retain(retain::Retain),
    Pin(keep::Pin),
    Unpin(keep::Unpin),
    Drop(keep::Drop),
    Doctor(doctor::Doctor),
    Serve(serve::Serve),
    /// Create, list and revoke the tokens of a service
    #[command(subcommand)]
    Token(token::Token),
    Demo(demo::Demo),
}

impl Command {
    /// Tells whether the command ends by itself at Ctrl-C: a service finishes what is in flight.
    pub(crate) fn handles_signals(&self) -> bool {
        matches!(self, Self::Serve(_))
    }
}

/// Runs a command.
pub(crate) async fn run(globals: Globals, command: Command) -> Result<(), Failure> {
    match command {
        Command::Ckpt(command) => ckpt::run(&globals, command).await,
        Command::Data(command) => data::run(&globals, command).await,
        Command::Verify(command) => command.run(&globals).await,
        Command::Scrub(command) => command.run(&globals).await,
        Command::Mirror(command) => command.run(&globals).await,
        Command::Ls(command) => command.run(&globals).await,
        Command::Du(command) => command.run(&globals).await,
        Command::Gc(command) => command.run(&globals).await,
        Command::Retain(command) => command.run(&globals).await,
        Command::Pin(command) => command.run(&globals).await,
        Command::Unpin(command) => command.run(&globals).await,
        Command::Drop(command) => command.run(&globals).await,
        Command::Doctor(command) => command.run(&globals).await,
        Command::Serve(command) => command.run(&globals).await,
        Command::Token(command) => token::run(&globals, command),
        Command::Demo(command) => command.run(&globals).await,
    }
}
