//! `gigastore mirror`
//!
//! Must never exit 0 where something that was meant is not in the destination.

use std::time::Instant;

use clap::Args;
use gigastore_client::mirror::{MirrorReport, MirrorSpec, Mirrored, mirror};
use gigastore_client::store::{OpenMode, Store};
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::name::{ProjectName, Target};
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{note, say, say_json, size, table, with_progress, would};

/// Copy checkpoints or datasets into another store
///
/// SRC is STORE#TARGET, or TARGET in the store of --store: a project, a run or dataset (all its steps
/// or versions), or one of them. DST is STORE, or STORE#PROJECT for another project than the source's.
/// Stores may be folders, buckets and services. Objects go as they are, only those that are missing,
/// and are verified on the way; content digests are the same at the end; metadata, data cursors, world
/// size and tags come along. Run again, it goes on where it was. Exit code 7 where something in the
/// source is damaged: the rest is copied.
///
/// Examples:
///
///   gigastore mirror file:///data/store#demo s3://backup/gigastore
///
///   gigastore --store s3://bucket/prefix mirror demo/minilm@best file:///mnt/disk/store#demo
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Mirror {
    /// What is copied: [STORE#]PROJECT, [STORE#]PROJECT/NAME or [STORE#]PROJECT/NAME@…
    #[arg(value_name = "SRC")]
    source: String,
    /// Where to: STORE or STORE#PROJECT; the store is created where it is not there
    #[arg(value_name = "DST")]
    destination: String,
}

impl Mirror {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let (from, target) = match self.source.rsplit_once('#') {
            Some((store, target)) => (store, target),
            None => (globals.url()?, self.source.as_str()),
        };
        let (to, project) = match self.destination.rsplit_once('#') {
            Some((store, project)) => (store, Some(project)),
            None => (self.destination.as_str(), None),
        };
        if !to.contains("://") {
            let text = format!("{to:?} is not a store: expected STORE or STORE#PROJECT, such as file:///mnt/copy");
            return Err(Failure::usage(text));
        }
        let spec = spec(target, project)?;
        if globals.dry_run {
            // The source is looked at, so that what can't be is said now.
            let source = Store::open(from, OpenMode::Existing).await?;
            source.project(&spec.project).await?;
            would(globals.format, &format!("copy {target} of {from} to project {} of {to}", spec.to));
            return Ok(());
        }
        let source = Store::open(from, OpenMode::Existing).await?;
        let destination = Store::open(to, OpenMode::Create).await?;
        let (started, progress) = (Instant::now(), Progress::default());
        let copying = mirror(&source, &destination, &spec, &progress);
        let report = with_progress(globals.quiet, "copying", &progress, copying).await?;
        if globals.json() {
            say_report(&report);
        } else {
            print(&report, &spec, started.elapsed().as_secs_f64());
        }
        match report.damaged.into_iter().next() {
            None => Ok(()),
            Some((target, error)) => {
                let hint = format!("the rest was copied; `gigastore scrub` of the source may repair {target}");
                Err(Failure::from(error).with_hint(hint))
            }
        }
    }
}

fn spec(target: &str, project: Option<&str>) -> Result<MirrorSpec, Failure> {
    let usage = |error: gigastore_formats::name::NameError| Failure::usage(error.to_string());
    let plain = target.strip_prefix("gigastore://").unwrap_or(target);
    let to = project.map(|project| project.parse::<ProjectName>().map_err(usage)).transpose()?;
    if !plain.contains('/') {
        let project: ProjectName = plain.parse().map_err(usage)?;
        let to = to.unwrap_or_else(|| project.clone());
        return Ok(MirrorSpec { project, name: None, selector: None, to });
    }
    let Target { project, name, selector } = plain.parse().map_err(usage)?;
    let to = to.unwrap_or_else(|| project.clone());
    Ok(MirrorSpec { project, name: Some(name), selector, to })
}

fn say_report(report: &MirrorReport) {
    let mirrored: Vec<_> = report
        .mirrored
        .iter()
        .map(|one| {
            json!({
                "from": one.from, "to": one.to, "content": one.content, "existed": one.existed,
                "objects_sent": one.objects, "bytes_sent": one.bytes, "tags": one.tags,
            })
        })
        .collect();
    let damaged: Vec<_> =
        report.damaged.iter().map(|(target, error)| json!({ "from": target, "problem": error.to_string() })).collect();
    say_json(&json!({
        "mirrored": mirrored, "dropped": report.dropped, "gone": report.gone, "late": report.late, "damaged": damaged,
    }));
}

fn print(report: &MirrorReport, spec: &MirrorSpec, seconds: f64) {
    let row = |one: &Mirrored| {
        let what = if one.existed { "was there" } else { "copied" };
        let to = if one.from == one.to { what.to_owned() } else { format!("{what} as {}", one.to) };
        let tags = if one.tags.is_empty() { "-".to_owned() } else { one.tags.join(", ") };
        vec![one.from.clone(), to, one.objects.to_string(), size(one.bytes), tags]
    };
    let rows: Vec<Vec<String>> = report.mirrored.iter().map(row).collect();
    table(&["source", "destination", "sent", "bytes", "tags set"], &rows);
    for target in &report.dropped {
        note(&format_args!("{target} was dropped in the destination, and stays away"));
    }
    for target in &report.gone {
        note(&format_args!("{target} was dropped in the source meanwhile"));
    }
    for target in &report.late {
        note(&format_args!("{target} comes before a step that the copy has, and was not copied: name it to have it"));
    }
    for (target, error) in &report.damaged {
        note(&format_args!("{target} was not copied: {error}"));
    }
    let sum = |of: fn(&Mirrored) -> u64| report.mirrored.iter().map(of).sum::<u64>();
    say(&format_args!(
        "{} of {} in {}, {} objects of {} sent, {seconds:.2} s",
        report.mirrored.len(),
        report.mirrored.len() + report.dropped.len() + report.late.len() + report.damaged.len(),
        spec.to,
        sum(|one| one.objects),
        size(sum(|one| one.bytes)),
    ));
}
