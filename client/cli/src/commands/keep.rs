//! `gigastore pin`, `unpin`, `drop`
//!
//! Must never drop what a tag means now and another thing meant when it was typed: what was resolved is said.

use clap::Args;
use gigastore_formats::name::Target;
use gigastore_formats::retention::{Done, Verb};
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{say, say_json, would};

/// Keep checkpoints or dataset versions from being dropped
///
/// Example:
///
///   gigastore pin demo/minilm@100
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Pin {
    /// What to pin; without @… the latest
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<Target>,
}

/// Take pins away
///
/// Example:
///
///   gigastore unpin demo/minilm@100
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Unpin {
    /// What to unpin; without @… the latest
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<Target>,
}

/// Drop checkpoints or dataset versions: final
///
/// They are not found any more. Nothing is deleted: what they alone needed goes with later
/// collections (gigastore gc). What is pinned or tagged, and the newest step of a run, is not
/// dropped (exit code 8).
///
/// Example:
///
///   gigastore drop demo/minilm@100 demo/minilm@200
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Drop {
    /// What to drop: PROJECT/RUN@STEP, PROJECT/DATASET@VERSION
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<Target>,
}

impl Pin {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        run(globals, Verb::Pin, self.targets).await
    }
}

impl Unpin {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        run(globals, Verb::Unpin, self.targets).await
    }
}

impl Drop {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        if let Some(target) = self.targets.iter().find(|target| target.selector.is_none()) {
            return Err(Failure::usage(format!("{target} names no step or version: write {target}@…")));
        }
        run(globals, Verb::Drop, self.targets).await
    }
}

async fn run(globals: &Globals, verb: Verb, targets: Vec<Target>) -> Result<(), Failure> {
    let store = globals.open().await?;
    let (word, past) = match verb {
        Verb::Pin => ("pin", "pinned"),
        Verb::Unpin => ("unpin", "unpinned"),
        Verb::Drop => ("drop", "dropped"),
    };
    let mut all = Vec::new();
    for target in &targets {
        if globals.dry_run {
            let info = store.resolve(target).await?;
            would(globals.format, &format!("{word} {}/{}@{}", target.project, info.commit.name, info.commit.number));
            continue;
        }
        let done = match verb {
            Verb::Pin => store.pin(target).await,
            Verb::Unpin => store.unpin(target).await,
            Verb::Drop => store.drop_commit(target).await,
        };
        let Done { name, number, seq, .. } = match done {
            Ok(done) => done,
            Err(fault) => {
                // What was done before stands in the log and is said.
                print_json(globals, &all);
                return Err(fault.into());
            }
        };
        if globals.json() {
            all.push(json!({ "project": target.project, "name": name, "number": number, past: true, "seq": seq }));
        } else {
            say(&format_args!("{past} {}/{name}@{number}", target.project));
        }
    }
    print_json(globals, &all);
    Ok(())
}

fn print_json(globals: &Globals, all: &[serde_json::Value]) {
    if globals.json() && !globals.dry_run {
        say_json(&json!(all));
    }
}
