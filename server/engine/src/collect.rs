//! Collection: what no live commit refers to is deleted, long after the log has said so.
//!
//! A collection looks for open saves, appends a fence, and deletes what an *earlier* fence condemned: every key whose
//! epoch is two or more below the fence's and that no commit live at the fence's record refers to. Which keys these are
//! is a function of the log up to that record alone, so that any node finds the same at any later time; a condemned
//! key can never become usable again, so that deleting it may be repeated, interrupted and done by many at once. The
//! time between a fence and its deletions is for readers, who have bound to a commit that was dropped.
//!
//! | file | what |
//! |---|---|
//! | `saves.rs` | open saves hold the fence back; ended and abandoned ones are swept |
//! | `condemned.rs` | what a fence condemned: epoch and references, both at its record |
//! | `sweep.rs` | the listing against it, and the deletion |
//!
//! Must never take a manifest that can't be read for an empty one, never delete before the fence that condemns is
//! durable, never delete a log record, and never trust a clock with more than the readers' grace.

mod condemned;
mod error;
mod saves;
mod sweep;

use gigastore_formats::collect::{CollectReport, CollectRequest, Fence, FenceFate};
use gigastore_formats::name::ProjectName;
use gigastore_formats::record::{Action, Entry};
use gigastore_formats::wire::with_causes;

use crate::engine::Engine;
use crate::log::{AppendError, Appended, State};
use crate::store::keys;

use saves::Saves;

pub(crate) use condemned::{Condemned, Found};
pub use error::{CollectError, FenceRefusal};

impl Engine {
    /// Collects the garbage of a project: one fence, and the deletions of the newest fence that is old enough.
    ///
    /// What an open save of an older epoch needs is safe in any case; such a save only holds the fence back, which the
    /// report says. Two collections, each at least the grace after the one before, have deleted all that was garbage
    /// before the first of them.
    pub async fn collect(&self, request: &CollectRequest) -> Result<CollectReport, CollectError> {
        let project = &request.project;
        let mut report = CollectReport::default();
        let state = self.state(project).await?;
        if state.seq == 0 {
            self.check_project(project).await?;
        }
        // After the tail, and before the fence: a save that is announced later has read this epoch or a newer one.
        let saves = self.saves(request, &state).await?;
        if request.fence {
            report.fence = self.fence(request, &state, &saves).await?;
        }
        let state = self.state(project).await?;
        report.epoch = state.epoch;
        let now = self.ambient.wall_ms();
        if let Some(fence) = state.fence_of_age(now, request.grace_ms) {
            self.sweep_objects(request, fence, &mut report).await?;
        }
        self.sweep_saves(request, saves, &mut report).await?;
        let before_ms = now.saturating_sub(request.save_timeout_ms);
        let folder = keys::project(project);
        report.staging = self.objects.delete_staged(&folder, before_ms, request.dry_run).await?;
        // Some stores have no such list, and some keys may not see it: a part of the sweep, not a reason to fail.
        match self.objects.abort_uploads(&folder, before_ms, request.dry_run).await {
            Ok(uploads) => report.uploads = uploads,
            Err(error) => report.uploads_unknown = Some(with_causes(&error)),
        }
        Ok(report)
    }

    /// Refuses a project of which nothing is there. One with a first save that never ended has no log yet.
    pub(crate) async fn check_project(&self, project: &ProjectName) -> Result<(), CollectError> {
        let known = self.projects().await?;
        if known.contains(project) {
            return Ok(());
        }
        let known = known.iter().map(ToString::to_string).collect();
        Err(CollectError::NotFound { project: project.clone(), known })
    }

    /// Appends the fence, unless an open save or another collector's fence is in the way.
    async fn fence(&self, request: &CollectRequest, state: &State, saves: &Saves) -> Result<FenceFate, CollectError> {
        if let (Some(held), None) = (saves.holds(), state.outcome(request.txn)) {
            return Ok(FenceFate::Held(held.clone()));
        }
        if request.dry_run {
            return Ok(FenceFate::Would);
        }
        let (txn, time, expected) = (request.txn, self.ambient.wall_ms(), state.epoch);
        let log = self.log(&request.project);
        let propose = move |state: &State| match state.epoch {
            epoch if epoch == expected => Ok(vec![Entry { txn, time, action: Action::Fence { epoch: epoch + 1 } }]),
            actual => Err(FenceRefusal { expected, actual }),
        };
        let Appended { state, seq } = match log.append(txn, propose).await {
            Ok(appended) => appended,
            Err(AppendError::Refused(_) | AppendError::Void(_)) => return Ok(FenceFate::Raced),
            Err(error) => return Err(error.into()),
        };
        let Some(fence) = state.fences.iter().rev().find(|fence| fence.seq == seq) else {
            return Ok(FenceFate::Raced);
        };
        // The sweep of this fence begins here, in a process that may not have seen the log yet.
        if state.seq == seq && seq >= LONG_LOG {
            log.keep_at(&state).await;
        }
        Ok(FenceFate::Raised(*fence))
    }

    /// Deletes what `fence` condemned.
    async fn sweep_objects(
        &self,
        request: &CollectRequest,
        fence: Fence,
        report: &mut CollectReport,
    ) -> Result<(), CollectError> {
        report.swept = Some(fence);
        match self.condemned(&request.project, &fence, !request.dry_run, |_| false).await? {
            Found::Nothing => {}
            Found::Superseded => report.superseded = true,
            Found::Condemned(condemned) => {
                report.live = condemned.live;
                self.sweep(request, &condemned, report).await?;
            }
        }
        if !request.dry_run {
            self.log(&request.project).forget_before(fence.seq).await;
        }
        Ok(())
    }
}

/// Records from which on the state at a fence is kept: 1,024, which are read again in some tens of requests.
const LONG_LOG: u64 = 1024;
