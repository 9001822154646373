//! `gigastore verify`
//!
//! Must never exit 0 where anything is damaged.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use gigastore_client::store::Store;
use gigastore_client::sums::{Difference, Sums};
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::name::{ProjectName, Target};
use gigastore_formats::wire::{Depth, Finding, VerifyReport, VerifyRequest};
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{Followed, note, nothing_committed, say, say_json, shown, size, table, with_progress};

/// Verify that everything stored is what was committed
///
/// Reads the log from its first record, all manifests, and every byte of every pack and file
/// (--quick: their lengths; --sample: a share of them, another one each time). Lists what is
/// damaged or can't be read, and what it affects; exit code 7 then.
///
/// Examples:
///
///   gigastore verify                       (all projects)
///
///   gigastore verify demo/minilm@100 --quick
///
///   gigastore verify demo/minilm@100 --against b3sums.txt
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Verify {
    /// PROJECT, PROJECT/NAME or PROJECT/NAME@…; all projects where none is named
    target: Option<String>,
    /// Only check that every object is there with the right length
    #[arg(long, conflicts_with = "sample")]
    quick: bool,
    /// Read this share of the objects whole
    #[arg(long, value_name = "PERCENT", value_parser = share)]
    sample: Option<f64>,
    /// Read the files of a checkpoint or dataset version and compare their digests with a list that b3sum has
    /// printed (`cd out && b3sum * > b3sums.txt`)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "sample"], requires = "target")]
    against: Option<PathBuf>,
}

fn share(text: &str) -> Result<f64, String> {
    let refuse = || format!("{text:?} is not a share: expected more than 0% and at most 100%, such as 5%");
    let percent: f64 = text.strip_suffix('%').unwrap_or(text).parse().map_err(|_| refuse())?;
    if percent > 0.0 && percent <= 100.0 { Ok(percent / 100.0) } else { Err(refuse()) }
}

impl Verify {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let store = globals.open().await?;
        if let (Some(list), Some(target)) = (&self.against, &self.target) {
            return against(globals, &store, target, list).await;
        }
        let started = Instant::now();
        let mut reports = Vec::new();
        for request in self.requests(&store).await? {
            match verify(globals, &store, &request).await {
                Ok(report) => reports.push((request.project, report)),
                // One of many: what the others have is still to be verified.
                Err(failure) if self.target.is_none() && failure.is_not_found() => nothing_committed(&request.project),
                Err(failure) => return Err(failure),
            }
        }
        let findings = || reports.iter().flat_map(|(_, report)| &report.findings);
        let (all, unread) = (findings().count(), findings().filter(|finding| finding.is_unreadable()).count());
        if globals.json() {
            let list: Vec<_> =
                reports.iter().map(|(project, report)| json!({ "project": project, "report": report })).collect();
            say_json(&json!(list));
        } else {
            reports.iter().for_each(|(project, report)| print(project, report, started.elapsed().as_secs_f64()));
        }
        match (all, unread) {
            (0, _) => Ok(()),
            (all, 0) => Err(Failure::integrity(format!("{all} findings: stored bytes are not what was committed"))),
            (all, unread) if all == unread => {
                let text =
                    format!("{all} findings: objects could not be read, so that nothing is known of their bytes");
                Err(Failure::integrity(text).with_hint("see that they can be read, and verify again"))
            }
            (all, unread) => {
                let text = format!("{all} findings: stored bytes are not what was committed");
                Err(Failure::integrity(format!("{text}, and {unread} of the objects could not be read")))
            }
        }
    }

    async fn requests(&self, store: &Store) -> Result<Vec<VerifyRequest>, Failure> {
        let depth = match (self.quick, self.sample) {
            (true, _) => Depth::Quick,
            (false, Some(share)) => Depth::Sample(share),
            (false, None) => Depth::Full,
        };
        let all = |project| VerifyRequest { project, name: None, number: None, depth };
        let Some(text) = &self.target else {
            return Ok(store.projects().await?.into_iter().map(all).collect());
        };
        let usage = |error: gigastore_formats::name::NameError| Failure::usage(error.to_string());
        let plain = text.strip_prefix("gigastore://").unwrap_or(text);
        if !plain.contains('/') {
            return Ok(vec![all(plain.parse().map_err(usage)?)]);
        }
        let target: Target = plain.parse().map_err(usage)?;
        let number = match &target.selector {
            Some(_) => Some(store.resolve(&target).await?.commit.number),
            None => None,
        };
        Ok(vec![VerifyRequest { project: target.project, name: Some(target.name), number, depth }])
    }
}

/// Verifies with progress.
pub(crate) async fn verify(globals: &Globals, store: &Store, request: &VerifyRequest) -> Result<VerifyReport, Failure> {
    let followed = Followed::default();
    let tell = |now| followed.tell(now);
    Ok(shown(globals.quiet, "verifying", || followed.bytes(), store.verify(request, &tell)).await?)
}

/// Compares the files of a target with a list of digests.
async fn against(globals: &Globals, store: &Store, target: &str, list: &Path) -> Result<(), Failure> {
    let plain = target.strip_prefix("gigastore://").unwrap_or(target);
    let target: Target = plain.parse().map_err(|error: gigastore_formats::name::NameError| {
        Failure::usage(error.to_string()).with_hint("--against needs one checkpoint or dataset version")
    })?;
    let text = std::fs::read_to_string(list);
    let text = text.map_err(|error| Failure::local(&format!("{} can't be read", list.display()), &error))?;
    let (sums, progress) = (Sums::parse(&text)?, Progress::default());
    let comparing = store.compare_sums(&target, &sums, &progress);
    let report = with_progress(globals.quiet, "reading", &progress, comparing).await?;
    let actual = |one: &Difference| one.actual.map_or("no such file".to_owned(), |digest| digest.to_string());
    if globals.json() {
        let different: Vec<_> = report
            .different
            .iter()
            .map(|one| json!({ "path": one.path, "expected": one.expected, "actual": one.actual }))
            .collect();
        say_json(&json!({
            "target": target.to_string(), "same": report.same, "different": different, "unlisted": report.unlisted,
            "bytes": report.bytes,
        }));
    } else {
        if !report.different.is_empty() {
            let row = |one: &Difference| vec![one.path.clone(), one.expected.to_string(), actual(one)];
            table(&["file", "expected", "actual"], &report.different.iter().map(row).collect::<Vec<_>>());
        }
        let (same, all) = (report.same.len(), report.same.len() + report.different.len());
        say(&format_args!("{target}: {same} of {all} listed files are the same, {} read", size(report.bytes)));
        if !report.unlisted.is_empty() && !globals.quiet {
            note(&format_args!("not in the list: {}", report.unlisted.join(", ")));
        }
    }
    match report.different.len() {
        0 => Ok(()),
        count => Err(Failure::integrity(format!("{count} files of {target} are not what {} says", list.display()))),
    }
}

/// Prints what is damaged, and what it affects.
pub(crate) fn print_findings(findings: &[Finding]) {
    if !findings.is_empty() {
        let rows: Vec<Vec<String>> = findings
            .iter()
            .map(|finding| {
                let range = finding.range.map_or("-".to_owned(), |(start, end)| format!("{start}..{end}"));
                vec![finding.object.clone(), range, finding.affects.join(", "), finding.problem.clone()]
            })
            .collect();
        table(&["object", "bytes", "affects", "problem"], &rows);
    }
}

fn print(project: &ProjectName, report: &VerifyReport, seconds: f64) {
    print_findings(&report.findings);
    let verdict = match &report.findings[..] {
        [] => "sound",
        findings if findings.iter().all(Finding::is_unreadable) => "NOT READ",
        _ => "DAMAGED",
    };
    say(&format_args!(
        "{project}: {verdict}: {} log records, {} commits, {} objects; {} read and hashed, \
         {} checked by length, {seconds:.2} s",
        report.records,
        report.commits,
        report.objects,
        size(report.bytes_read),
        size(report.bytes_by_length)
    ));
}
