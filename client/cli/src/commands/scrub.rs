//! `gigastore scrub`
//!
//! Must never exit 0 where anything is damaged still.

use std::time::Instant;

use clap::Args;
use gigastore_client::store::Store;
use gigastore_formats::name::ProjectName;
use gigastore_formats::wire::{Finding, ScrubReport, ScrubRequest};
use serde_json::json;

use super::verify::print_findings;
use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{Followed, nothing_committed, say, say_json, shown, size, table};
use crate::rate::rate;

/// Verify everything stored, and put right what is damaged
///
/// Reads every byte of every pack and file, those first that were verified longest ago, and goes on
/// where an earlier scrub was interrupted. A damaged object is marked: it serves what is sound in it,
/// and nothing new refers to it. Where other objects hold the same bytes (the same slice in another
/// pack, the same file in another epoch, or a second store given by --replica), the true bytes are
/// checked, put over the damaged ones and read back; a pack's header is made anew from manifests and
/// data. Exit code 7 where damage is left. With --dry-run nothing is written.
///
/// Examples:
///
///   gigastore scrub demo --rate 50MB/s
///
///   gigastore scrub --replica s3://backup/gigastore
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Scrub {
    /// The project; all where none is named
    project: Option<ProjectName>,
    /// Most bytes read in a second, such as 50MB/s; default: as fast as the store gives them
    #[arg(long, value_name = "BYTES/S", value_parser = rate)]
    rate: Option<u64>,
    /// A second store with the same projects (see `gigastore mirror`), from which is repaired what this one has lost
    #[arg(long, value_name = "URL")]
    replica: Option<String>,
}

impl Scrub {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let store = globals.open().await?;
        let started = Instant::now();
        let projects = match &self.project {
            Some(project) => vec![project.clone()],
            None => store.projects().await?,
        };
        let mut reports = Vec::new();
        for project in projects {
            match self.scrub(globals, &store, &project).await {
                Ok(report) => reports.push((project, report)),
                // One of many: the others are still to be scrubbed.
                Err(failure) if self.project.is_none() && failure.is_not_found() => nothing_committed(&project),
                Err(failure) => return Err(failure),
            }
        }
        if globals.json() {
            let list: Vec<_> =
                reports.iter().map(|(project, report)| json!({ "project": project, "report": report })).collect();
            say_json(&json!(list));
        } else {
            let seconds = started.elapsed().as_secs_f64();
            reports.iter().for_each(|(project, report)| print(project, report, globals.dry_run, seconds));
        }
        let left: usize = reports.iter().map(|(_, report)| report.findings.len()).sum();
        let repairable: usize = reports.iter().map(|(_, report)| report.repaired.len()).sum();
        match (left, globals.dry_run) {
            (0, true) if repairable > 0 => Err(Failure::integrity(format!(
                "{repairable} objects are damaged, and a scrub would repair all of them"
            ))),
            (0, _) => Ok(()),
            (left, _) => {
                let failure =
                    Failure::integrity(format!("{left} findings are left: stored bytes are not what was committed"));
                Err(failure.with_hint("where a second store has the same objects, give it by --replica URL"))
            }
        }
    }

    async fn scrub(&self, globals: &Globals, store: &Store, project: &ProjectName) -> Result<ScrubReport, Failure> {
        let request = ScrubRequest { project: project.clone(), rate: self.rate, dry_run: globals.dry_run };
        let followed = Followed::default();
        let tell = |now| followed.tell(now);
        let scrubbed = store.scrub(&request, self.replica.as_deref(), &tell);
        Ok(shown(globals.quiet, "scrubbing", || followed.bytes(), scrubbed).await?)
    }
}

fn print(project: &ProjectName, report: &ScrubReport, dry_run: bool, seconds: f64) {
    if !report.repaired.is_empty() {
        let row = |repair: &gigastore_formats::wire::Repair| {
            vec![repair.object.clone(), size(repair.bytes), repair.from.join(", ")]
        };
        let rows: Vec<Vec<String>> = report.repaired.iter().map(row).collect();
        table(&[if dry_run { "would repair" } else { "repaired" }, "damaged", "from"], &rows);
    }
    print_findings(&report.findings);
    let verdict = match &report.findings[..] {
        [] if dry_run && !report.repaired.is_empty() => "DAMAGED",
        [] => "sound",
        findings if findings.iter().all(Finding::is_unreadable) => "NOT READ",
        _ => "DAMAGED",
    };
    let before = match report.before {
        0 => String::new(),
        before => format!(" ({before} verified before this pass was interrupted)"),
    };
    say(&format_args!(
        "{project}: {verdict}: {} objects{before}, {} read and hashed, {} {}, {} of {} ever verified, {seconds:.2} s",
        report.objects,
        size(report.bytes_read),
        report.repaired.len(),
        if dry_run { "could be repaired" } else { "repaired" },
        report.coverage.verified,
        report.coverage.objects,
    ));
}
