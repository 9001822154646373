//! `gigastore doctor`
//!
//! Must never leave anything in the store, nor call it well when a check could not be made.

use clap::Args;
use gigastore_client::store::{OpenMode, Store};
use gigastore_formats::name::ProjectName;
use gigastore_formats::wire::{Fault, Probe, Recovered};
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{moment, note, say, say_json, size, table};

/// Bytes of the trial of throughput: enough for a second at 100 Mbit/s.
const TRIAL_BYTES: u64 = 16 << 20;

/// Clocks that differ by more than this make times of commits misleading (and tokens end early or late).
const SKEW_MS: u64 = 5000;

/// Look whether a store or service can be used, and how well; or make a lost log anew
///
/// Checks that it is reached, that the credentials are taken, that a second creation of an object is
/// refused (what commits rest on), how far its clock is off, and how fast bytes go in and out. Leaves
/// nothing behind.
///
/// Examples:
///
///   gigastore --store s3://bucket/prefix doctor
///
///   GIGASTORE_TOKEN=… gigastore --store "$URL_OF_A_SERVICE" doctor
///
///   gigastore --store file:///data/store doctor --rebuild-log demo --dry-run
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Doctor {
    /// Where every log record of this project is lost: commit what its manifests, packs and files hold, in a log made
    /// anew. What was dropped and not yet collected comes back; tags, pins and policies are known only where a folded
    /// state is left. Nobody else may write meanwhile; refused where there is a log
    #[arg(long, value_name = "PROJECT")]
    rebuild_log: Option<ProjectName>,
}

/// A check that was made.
struct Check {
    what: &'static str,
    outcome: Result<String, Failure>,
}

impl Doctor {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        if let Some(project) = &self.rebuild_log {
            return rebuild(globals, project).await;
        }
        let mut checks = Vec::new();
        for endpoint in endpoints(globals.url()?) {
            checks.extend(examine(endpoint).await);
        }
        let text = |check: &Check| match &check.outcome {
            Ok(text) => ("ok", text.clone()),
            Err(failure) => ("FAILED", failure.text().to_owned()),
        };
        if globals.json() {
            let list: Vec<_> = checks
                .iter()
                .map(|check| json!({ "check": check.what, "ok": check.outcome.is_ok(), "detail": text(check).1 }))
                .collect();
            say_json(&json!(list));
        } else {
            let row = |check: &Check| {
                let (verdict, detail) = text(check);
                vec![check.what.to_owned(), verdict.to_owned(), detail]
            };
            table(&["check", "verdict", "detail"], &checks.iter().map(row).collect::<Vec<_>>());
        }
        match checks.into_iter().find_map(|check| check.outcome.err()) {
            Some(failure) => Err(failure),
            None => {
                if !globals.json() && !globals.quiet {
                    say(&"all is well");
                }
                Ok(())
            }
        }
    }
}

/// Makes a log anew, and says what it holds.
async fn rebuild(globals: &Globals, project: &ProjectName) -> Result<(), Failure> {
    let report = globals.open().await?.rebuild_log(project, globals.dry_run).await?;
    if globals.json() {
        say_json(&json!({ "project": project, "dry_run": globals.dry_run, "report": report }));
        return Ok(());
    }
    let row = |one: &Recovered| {
        vec![
            format!("{}@{}", one.name, one.number),
            moment(one.time),
            one.content.to_string(),
            one.manifest.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = report.recovered.iter().map(row).collect();
    table(&["recovered", "stored", "content", "manifest"], &rows);
    if !report.left.is_empty() {
        let rows: Vec<Vec<String>> = report.left.iter().map(|one| vec![one.object.clone(), one.why.clone()]).collect();
        table(&["left out", "why"], &rows);
    }
    let known = match report.folded {
        Some(seq) => format!("tags, pins and drops up to record {seq} are known from a folded state"),
        None => "tags, pins and drops are not known".to_owned(),
    };
    say(&format_args!(
        "{project}: {} log records {}, {} recovered, {} manifests left out, epoch {}; {known}",
        report.records,
        if globals.dry_run { "would be written" } else { "written" },
        report.recovered.len(),
        report.left.len(),
        report.epoch
    ));
    if !globals.dry_run && !globals.quiet {
        note(&"now run `gigastore verify`: a log says what there is, not that every byte of it is sound");
    }
    Ok(())
}

/// Each endpoint of a service is looked at by itself: failover would hide one that is gone.
fn endpoints(url: &str) -> Vec<&str> {
    if is_service(url) { url.split(',').map(str::trim).collect() } else { vec![url] }
}

fn is_service(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

/// Makes one check after the other; stops where the next can't be made.
async fn examine(url: &str) -> Vec<Check> {
    let mut checks = Vec::new();
    let opened = Store::open(url, OpenMode::Existing).await;
    let reached = opened.as_ref().map(|_| url.to_owned()).map_err(failed);
    let service = is_service(url);
    checks.push(Check { what: if service { "service" } else { "store" }, outcome: reached });
    let Ok(store) = opened else { return checks };
    let projects = store.projects().await;
    let outcome = projects.as_ref().map(|projects| format!("{} projects in sight", projects.len())).map_err(failed);
    checks.push(Check { what: "credentials", outcome });
    if projects.is_err() {
        return checks;
    }
    match store.probe(TRIAL_BYTES).await {
        Ok(probe) => checks.extend(from_probe(&probe, service)),
        Err(fault) => checks.push(Check { what: "trial", outcome: Err(fault.into()) }),
    }
    checks
}

fn failed(fault: &Fault) -> Failure {
    fault.clone().into()
}

fn from_probe(probe: &Probe, service: bool) -> [Check; 3] {
    let create = if service {
        "the service says that its store creates, reads and deletes, and refuses a second creation"
    } else {
        "created, refused a second creation, read and deleted"
    };
    let skew = match probe.skew_ms {
        None => Ok("the store does not tell its time".to_owned()),
        Some(skew) if skew.unsigned_abs() <= SKEW_MS => Ok(format!("{skew} ms off")),
        Some(skew) => {
            Err(Failure::general(format!("the clock is {skew} ms off this machine's, more than {SKEW_MS} ms"))
                .with_hint("set both by NTP; commits are safe, their times and the end of tokens are not right"))
        }
    };
    let rate = |micros: u64| size((u128::from(probe.bytes) * 1_000_000 / u128::from(micros.max(1))) as u64);
    let speed = format!("{}/s in, {}/s out, one connection", rate(probe.write_us), rate(probe.read_us));
    [
        Check { what: "conditional put", outcome: Ok(create.to_owned()) },
        Check { what: "clock", outcome: skew },
        Check { what: "throughput", outcome: Ok(speed) },
    ]
}
