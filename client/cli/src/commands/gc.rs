//! `gigastore gc`
//!
//! Must never delete by a rule of its own: the store's log says what is garbage.

use std::time::Duration;

use clap::Args;
use gigastore_formats::collect::{CollectReport, CollectRequest, FenceFate, OpenSave};
use gigastore_formats::name::ProjectName;
use serde_json::json;

use crate::context::Globals;
use crate::duration::{duration, shown};
use crate::failure::Failure;
use crate::output::{note, say, say_json, size, table};

/// Delete what no live checkpoint or version needs
///
/// Appends a fence to the log of each project, and deletes what an earlier fence condemned: objects
/// that were uploaded two fences before it and that nothing live referred to. So what is dropped
/// today goes with the second or third gc from now; run it every few hours. It may be interrupted,
/// repeated, and run by many at once, beside any number of saves. Also goes: what is left of saves
/// that ended or were abandoned, and unfinished files of killed processes.
///
/// Examples:
///
///   gigastore gc demo
///
///   gigastore gc --dry-run                 (all projects; what would go now)
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Gc {
    /// The project; all where none is named
    project: Option<ProjectName>,
    /// Age of a fence before what it condemned goes: longer than any reader reads from what was dropped meanwhile
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    grace: Duration,
    /// When a save of which nothing is heard counts as abandoned
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    save_timeout: Duration,
    /// Append no fence: only delete what earlier ones condemned
    #[arg(long)]
    no_fence: bool,
}

impl Gc {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let store = globals.open().await?;
        let projects = match &self.project {
            Some(project) => vec![project.clone()],
            None => store.projects().await?,
        };
        let mut reports = Vec::new();
        let mut failed: Option<Failure> = None;
        for project in projects {
            let request = CollectRequest {
                fence: !self.no_fence,
                dry_run: globals.dry_run,
                grace_ms: self.grace.as_millis() as u64,
                save_timeout_ms: self.save_timeout.as_millis() as u64,
                ..CollectRequest::new(project.clone(), store.new_txn("fence"))
            };
            match store.collect(&request).await {
                Ok(report) => {
                    if !globals.json() {
                        print(globals, &project, &report, &request);
                    }
                    reports.push((project, report));
                }
                // One of many: the others are still to be collected.
                Err(fault) => {
                    let failure = Failure::from(fault);
                    if self.project.is_none() && failed.is_some() {
                        note(&format_args!("{project}: {}", failure.text()));
                    }
                    failed = failed.or(Some(failure));
                }
            }
        }
        if globals.json() {
            let list: Vec<_> =
                reports.iter().map(|(project, report)| json!({ "project": project, "report": report })).collect();
            say_json(&json!(list));
        }
        failed.map_or(Ok(()), Err)
    }
}

fn print(globals: &Globals, project: &ProjectName, report: &CollectReport, request: &CollectRequest) {
    let kinds = [
        ("packs", report.packs),
        ("files", report.blobs),
        ("manifests", report.manifests),
        ("saves", report.saves),
        ("unfinished", report.staging),
    ];
    let rows: Vec<Vec<String>> = kinds
        .iter()
        .filter(|(_, tally)| tally.count > 0)
        .map(|(kind, tally)| vec![(*kind).to_owned(), tally.count.to_string(), size(tally.bytes)])
        .collect();
    if !rows.is_empty() {
        table(&[if globals.dry_run { "would delete" } else { "deleted" }, "objects", "bytes"], &rows);
    }
    let swept = match report.swept {
        Some(fence) => format!("what the fence to epoch {} condemned", fence.epoch),
        None => format!("no fence is {} old yet", shown(request.grace_ms)),
    };
    let deleted = report.deleted();
    let verb = if globals.dry_run { "would delete" } else { "deleted" };
    say(&format_args!(
        "{project}: epoch {}; {swept}; {} live, {} objects looked at; {verb} {}, {}",
        report.epoch,
        report.live,
        report.listed.count,
        deleted.count,
        size(deleted.bytes)
    ));
    if globals.quiet {
        return;
    }
    match &report.fence {
        FenceFate::Held(save) => note(&format_args!("{project}: no fence: {}", held(save))),
        FenceFate::Raced => note(&format_args!("{project}: no fence of ours: another collector's came first")),
        FenceFate::NotAsked | FenceFate::Would | FenceFate::Raised(_) => {}
    }
    if report.uploads > 0 {
        let word = if globals.dry_run { "would be given up" } else { "given up" };
        note(&format_args!("{project}: {} unfinished uploads {word}", report.uploads));
    }
    if let Some(why) = &report.uploads_unknown {
        note(&format_args!("{project}: unfinished uploads are not known: {why}"));
    }
    if report.superseded {
        note(&format_args!("{project}: a newer collection has done this one's work"));
    }
}

fn held(save: &OpenSave) -> String {
    let what = match (&save.run, save.step) {
        (Some(run), Some(step)) => format!("the save of {run}@{step} is open since an older epoch"),
        _ => format!("the announcement of save {} is damaged", save.save),
    };
    format!("{what}, silent for {}; it ends, or counts as abandoned after --save-timeout", shown(save.idle_ms))
}
