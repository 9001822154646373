//! `gigastore retain`
//!
//! Must never drop by a policy that is not in the log: what was typed is stored first, for everyone to see.

use std::time::Duration;

use clap::Args;
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::retention::{NamePolicy, Policy, RetainReport, RetainRequest, Retained};
use serde_json::{Value, json};

use crate::context::Globals;
use crate::duration::{duration, shown};
use crate::failure::Failure;
use crate::output::{note, say, say_json, table, would};

/// Drop old steps or versions by a policy
///
/// With rules (--last, --every, --younger-than) they become the policy of a run or dataset, which is
/// stored in the log. Then everything is dropped that no rule keeps, now and whenever retain runs
/// again (a service with --collect-every does it by itself). Whatever the rules say, what is tagged
/// or pinned is kept, and so is the newest step and the newest that verifies. Ages are those between
/// the records of the log, so that an idle run loses nothing.
///
/// Examples:
///
///   gigastore retain demo/minilm --last 5 --every 1000 --younger-than 2d
///
///   gigastore retain demo                 (apply what is stored; --dry-run says what would go)
///
///   gigastore retain demo --show
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Retain {
    /// PROJECT/RUN or PROJECT/DATASET; PROJECT for all of its policies
    #[arg(value_name = "PROJECT[/NAME]")]
    what: String,
    /// Keep the so many committed last
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    /// Keep steps or versions whose number is a multiple of this
    #[arg(long, value_name = "K")]
    every: Option<u64>,
    /// Keep what was committed less than so long before the newest
    #[arg(long, value_name = "TIME", value_parser = duration)]
    younger_than: Option<Duration>,
    /// Show the stored policies, and drop nothing
    #[arg(long, conflicts_with_all = ["last", "every", "younger_than", "clear"])]
    show: bool,
    /// Take the policy away, and drop nothing
    #[arg(long, conflicts_with_all = ["last", "every", "younger_than"])]
    clear: bool,
}

impl Retain {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let (project, name) = super::ls::project_and_name(&self.what)?;
        let rules = [self.last, self.every, self.younger_than.map(|time| time.as_millis() as u64)];
        let policy = match rules {
            [None, None, None] => None,
            [last, every, younger] => {
                Some(Policy::new(last, every, younger).map_err(|error| Failure::usage(error.to_string()))?)
            }
        };
        if name.is_none() && (policy.is_some() || self.clear) {
            return Err(Failure::usage(format!("a policy is of one run or dataset: write {project}/NAME")));
        }
        let store = globals.open().await?;
        if self.show {
            let mut policies = store.policies(&project).await?;
            policies.retain(|one| name.as_ref().is_none_or(|name| *name == one.name));
            show(globals, &project, &policies);
            return Ok(());
        }
        if let (true, Some(name)) = (self.clear, &name) {
            return clear(globals, &store, &project, name).await;
        }
        if let (Some(name), Some(policy), false) = (&name, &policy, globals.dry_run) {
            store.set_policy(&project, name, Some(policy)).await?;
        }
        let request = RetainRequest {
            project: project.clone(),
            name: name.clone(),
            txn: store.new_txn("retain"),
            policy: policy.filter(|_| globals.dry_run),
            dry_run: globals.dry_run,
        };
        let report = store.retain(&request).await?;
        if report.names.is_empty() && report.unusable.is_empty() && !globals.quiet {
            note(&format_args!("{}: no policy: set one with --last, --every or --younger-than", self.what));
        }
        print(globals, &project, &report);
        match report.unusable.as_slice() {
            [] => Ok(()),
            [one, rest @ ..] => {
                for one in rest {
                    note(&format_args!("{project}/{}: {}; nothing of it was dropped", one.name, one.problem));
                }
                Err(Failure::general(format!("{project}/{}: {}; nothing of it was dropped", one.name, one.problem)))
            }
        }
    }
}

async fn clear(
    globals: &Globals,
    store: &gigastore_client::store::Store,
    project: &ProjectName,
    name: &Name,
) -> Result<(), Failure> {
    if globals.dry_run {
        would(globals.format, &format!("take the policy of {project}/{name} away"));
        return Ok(());
    }
    store.set_policy(project, name, None).await?;
    if globals.json() {
        say_json(&json!({ "project": project, "name": name, "policy": null }));
    } else {
        say(&format_args!("{project}/{name} has no policy"));
    }
    Ok(())
}

fn show(globals: &Globals, project: &ProjectName, policies: &[NamePolicy]) {
    if globals.json() {
        let list: Vec<Value> =
            policies.iter().map(|one| json!({ "project": project, "name": one.name, "policy": one.policy })).collect();
        say_json(&json!(list));
        return;
    }
    let row = |one: &NamePolicy| vec![format!("{project}/{}", one.name), words(&one.policy)];
    table(&["name", "keeps"], &policies.iter().map(row).collect::<Vec<_>>());
}

fn print(globals: &Globals, project: &ProjectName, report: &RetainReport) {
    if globals.json() {
        let retained = report.names.iter().map(|one| json!({ "project": project, "retained": one }));
        let unusable = report.unusable.iter().map(|one| json!({ "project": project, "unusable": one }));
        let list: Vec<Value> = retained.chain(unusable).collect();
        say_json(&json!(list));
        return;
    }
    for Retained { name, policy, dropped, live, newest_sound, damaged } in &report.names {
        let verb = if globals.dry_run { "would drop" } else { "dropped" };
        let numbers: Vec<String> = dropped.iter().map(u64::to_string).collect();
        let list = if dropped.is_empty() { String::new() } else { format!(" ({})", numbers.join(", ")) };
        say(&format_args!("{project}/{name}: {verb} {}{list}; {live} stay: {}", dropped.len(), words(policy)));
        if !damaged.is_empty() {
            let numbers: Vec<String> = damaged.iter().map(u64::to_string).collect();
            let sound = newest_sound.map_or("none does, so nothing is dropped".to_owned(), |number| {
                format!("{number}, the newest that does, is kept")
            });
            note(&format_args!("{project}/{name}: {} do not verify; {sound}", numbers.join(", ")));
        }
    }
}

fn words(policy: &Policy) -> String {
    let rules = [
        policy.last().map(|last| format!("the last {last}")),
        policy.every().map(|every| format!("every {every}")),
        policy.younger_than_ms().map(|ms| format!("younger than {}", shown(ms))),
    ];
    rules.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
