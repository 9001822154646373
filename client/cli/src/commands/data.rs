//! The commands on datasets.
//!
//! Must never hold more than the list.

mod command_line;
mod diff;
mod explain;
mod export;
mod get;
mod head;
mod ls;
mod push;
mod remove;
mod rm;
mod show;
#[cfg(feature = "tokenize")]
mod tokenize;

use clap::Subcommand;

use self::command_line::command_line;
use crate::context::Globals;
use crate::failure::Failure;

/// What to do with datasets.
#[derive(Subcommand)]
pub(crate) enum Data {
    Push(push::Push),
    Ls(ls::Ls),
    Show(show::Show),
    Get(get::Get),
    Explain(explain::Explain),
    Head(head::Head),
    Diff(diff::Diff),
    Remove(remove::Remove),
    Rm(rm::Rm),
    Export(export::Export),
    #[cfg(feature = "tokenize")]
    Tokenize(Box<tokenize::Tokenize>),
}

/// Runs a command.
pub(crate) async fn run(globals: &Globals, command: Data) -> Result<(), Failure> {
    match command {
        Data::Push(command) => command.run(globals).await,
        Data::Ls(command) => command.run(globals).await,
        Data::Show(command) => command.run(globals).await,
        Data::Get(command) => command.run(globals).await,
        Data::Explain(command) => command.run(globals).await,
        Data::Head(command) => command.run(globals).await,
        Data::Diff(command) => command.run(globals).await,
        Data::Remove(command) => command.run(globals).await,
        Data::Rm(command) => command.run(globals).await,
        Data::Export(command) => command.run(globals).await,
        #[cfg(feature = "tokenize")]
        Data::Tokenize(command) => command.run(globals).await,
    }
}
