//! Policies and collections that the service runs by itself, one project at a time.
//!
//! Any number of services may do so on one store: each finds in the log that another's fence is young, and appends none
//! then. Must never end with a failure: what failed is tried again the next time, and said meanwhile.

use std::time::Duration;

use gigastore_formats::collect::CollectRequest;
use gigastore_formats::name::ProjectName;
use gigastore_formats::record::TxnId;
use gigastore_formats::retention::RetainRequest;
use gigastore_formats::wire::{Fault, FaultCode};

use crate::http::{Service, Shared};
use crate::scrubbing::CLOCKS_DIFFER_MS;

/// Shortest pause between two rounds: a second, so that a mistyped length does not keep the store busy.
const SHORTEST: Duration = Duration::from_secs(1);

/// Applies policies and collects, every so often and for as long as the service runs. Services that start together do
/// not begin together.
pub(crate) async fn collect_forever(service: Shared, every: Duration, grace: Duration) {
    let every = every.max(SHORTEST);
    let half = every / 2;
    let drawn = service.ambient.random() % (half.as_millis() as u64 + 1);
    service.ambient.sleep(half + Duration::from_millis(drawn)).await;
    loop {
        match service.engine.projects().await {
            Ok(projects) => {
                for project in projects {
                    if let Err(fault) = one(&service, &project, every, grace).await {
                        service.metrics.collection_failures.inc();
                        tracing::warn!(%project, %fault, "the project was not collected");
                    }
                }
            }
            Err(error) => {
                service.metrics.collection_failures.inc();
                tracing::warn!(fault = %Fault::from(&error), "projects could not be listed, and none was collected");
            }
        }
        service.ambient.sleep(every).await;
    }
}

async fn one(service: &Service, project: &ProjectName, every: Duration, grace: Duration) -> Result<(), Fault> {
    let _collecting = service.admission.collection_turn().await;
    let txn = |what: &[u8]| TxnId::derive(&[what, &service.ambient.random_bytes()]);
    let state = service.engine.state(project).await.map_err(|error| Fault::from(&error))?;
    let mut damaged = None;
    if state.seq > 0 {
        let (name, policy, dry_run) = (None, None, false);
        let request = RetainRequest { project: project.clone(), name, txn: txn(b"retain"), policy, dry_run };
        match service.engine.retain(&request).await {
            Ok(report) => {
                service.metrics.retention(&report);
                for one in &report.unusable {
                    let (name, problem) = (&one.name, &one.problem);
                    damaged = Some(Fault::of(FaultCode::NewerFormat, format!("{project}/{name}: {problem}")));
                    tracing::warn!(%project, %name, problem, "a policy can't be used, and nothing was dropped by it");
                }
                for one in report.names.iter().filter(|one| !one.dropped.is_empty()) {
                    tracing::info!(%project, name = %one.name, dropped = ?one.dropped, "dropped by policy");
                }
            }
            // A policy that can't be applied is no reason to keep what was dropped before.
            Err(error) => damaged = Some(Fault::from(&error)),
        }
    }
    let now = service.ambient.wall_ms();
    // One from a clock far ahead of this one says nothing of its age.
    let young = |fence: &gigastore_formats::collect::Fence| {
        fence.time <= now + CLOCKS_DIFFER_MS && now.saturating_sub(fence.time) < every.as_millis() as u64 / 2
    };
    let request = CollectRequest {
        fence: !state.fences.last().is_some_and(young),
        grace_ms: grace.as_millis() as u64,
        ..CollectRequest::new(project.clone(), txn(b"fence"))
    };
    let report = service.engine.collect(&request).await.map_err(|error| Fault::from(&error))?;
    service.metrics.collection(project, &report, service.ambient.monotonic());
    if let Some(why) = &report.uploads_unknown {
        tracing::warn!(%project, why, "unfinished uploads of the project are not known");
    }
    let deleted = report.deleted();
    tracing::info!(%project, epoch = report.epoch, objects = deleted.count, bytes = deleted.bytes, "collected");
    damaged.map_or(Ok(()), Err)
}
