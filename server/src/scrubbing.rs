//! The scrub in the background: one project after the other, at a bounded rate, a pass a day; and what is told of it.
//!
//! Must never hold up a request: it has a rate of its own, and waits for the store like everyone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gigastore_formats::name::ProjectName;
use gigastore_formats::wire::{Coverage, Fault, ScrubReport, ScrubRequest, VerifyProgress, with_causes};

use crate::http::Shared;

/// How far the clocks of two services may differ: 5 minutes, more than machines that keep time.
pub(crate) const CLOCKS_DIFFER_MS: u64 = 5 * 60 * 1000;

/// Pause between two looks for a project whose turn it is.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Time between the end of a pass over a project and the next one: a day. A store of 4 TB takes as long at 50 MB/s; of
/// a smaller one nothing more would be learned by reading it again and again.
const PASS_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Pause between two looks at how far a pass is, for the metrics: 5 minutes, as what is read for it has 80 bytes of
/// each object.
const TELL_EVERY: Duration = Duration::from_secs(300);

/// Scrubs all projects, as long as the service runs.
pub(crate) async fn scrub_always(shared: Shared, rate: u64) {
    // What was damaged when the service started is looked at at once: it may have come with a replica for it.
    let mut started = true;
    let mut known: BTreeMap<ProjectName, Coverage> = BTreeMap::new();
    loop {
        match shared.engine.projects().await {
            Ok(projects) => {
                for project in projects {
                    let now = scrub(&shared, &project, rate, started, known.remove(&project)).await;
                    known.extend(now.map(|coverage| (project, coverage)));
                }
                started = false;
            }
            Err(error) => tracing::warn!(error = with_causes(&error), "projects can't be listed: nothing is scrubbed"),
        }
        shared.ambient.sleep(LOOK_EVERY).await;
    }
}

/// Scrubs a project where its turn has come; says in the log why where that does not go well. Takes and returns what is
/// known of its coverage.
async fn scrub(
    shared: &Shared,
    project: &ProjectName,
    rate: u64,
    started: bool,
    known: Option<Coverage>,
) -> Option<Coverage> {
    let coverage = look(shared, project, known).await?;
    let has_come = is_due(shared, coverage) || started && coverage.damaged > 0;
    if !has_come {
        return Some(coverage);
    }
    let request = ScrubRequest { project: project.clone(), rate: Some(rate), dry_run: false };
    let counted = AtomicU64::new(0);
    let count = |now: VerifyProgress| {
        let before = counted.swap(now.bytes_done, Ordering::Relaxed);
        shared.metrics.scrubbed.inc_by(now.bytes_done.saturating_sub(before));
    };
    let scrub = shared.engine.scrub(&request, shared.replica.as_ref(), &count);
    let mut scrub = std::pin::pin!(scrub);
    loop {
        tokio::select! {
            ended = &mut scrub => {
                return match ended {
                    Ok(report) => {
                        tell(shared, project, &report);
                        Some(report.coverage)
                    }
                    Err(error) => {
                        let error = Fault::from(&error).message;
                        tracing::warn!(%project, error, "the scrub was broken off; it goes on later");
                        None
                    }
                };
            }
            () = shared.ambient.sleep(TELL_EVERY) => { look(shared, project, None).await; }
        }
    }
}

/// Tells the metrics how far a project is. What is known of it already is read again only when its next pass is due:
/// another service may have made that one.
async fn look(shared: &Shared, project: &ProjectName, known: Option<Coverage>) -> Option<Coverage> {
    let coverage = match known.filter(|known| !is_due(shared, *known)) {
        Some(known) => {
            let damaged = shared.engine.damaged(project).await;
            damaged.map(|marks| Coverage { damaged: marks.len() as u64, ..known })
        }
        None => shared.engine.coverage(project).await,
    };
    match coverage {
        Ok(coverage) => {
            shared.metrics.coverage(project, coverage);
            Some(coverage)
        }
        Err(error) => {
            tracing::warn!(%project, error = with_causes(&error), "what was scrubbed can't be read");
            None
        }
    }
}

/// Whether the next pass over a project is due, or one is under way.
fn is_due(shared: &Shared, coverage: Coverage) -> bool {
    let now = shared.ambient.wall_ms();
    // One that ended by a clock far ahead of this one says nothing of its age.
    let completed = coverage.completed.filter(|then| *then <= now + CLOCKS_DIFFER_MS);
    completed.is_none_or(|then| Duration::from_millis(now.saturating_sub(then)) >= PASS_EVERY)
}

/// Tells log and metrics what a scrub found.
pub(crate) fn tell(shared: &Shared, project: &ProjectName, report: &ScrubReport) {
    for repair in &report.repaired {
        let (object, from) = (&repair.object, repair.from.join(", "));
        tracing::warn!(%project, object, bytes = repair.bytes, from, "a damaged object was repaired");
    }
    for finding in &report.findings {
        let (object, affects) = (&finding.object, finding.affects.join(", "));
        tracing::error!(%project, object, affects, problem = finding.problem, "stored bytes are damaged");
    }
    shared.metrics.repaired.inc_by(report.repaired.len() as u64);
    shared.metrics.verification_failures.inc_by(report.findings.len() as u64);
    shared.metrics.coverage(project, report.coverage);
    let (objects, bytes) = (report.objects, report.bytes_read);
    tracing::info!(%project, objects, bytes, before = report.before, "scrubbed");
}
