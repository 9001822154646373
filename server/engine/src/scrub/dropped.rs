//! What a verification did not find because it was dropped, and collected, while the verification ran.
//!
//! Must never excuse a finding about an object that something still live needs.

use std::collections::BTreeSet;

use gigastore_formats::object::ObjectKind;
use gigastore_formats::wire::{VerifyReport, VerifyRequest};

use crate::engine::Engine;
use crate::log::State;
use crate::read::ReadError;
use crate::store::keys;

impl Engine {
    /// Takes the findings out that are about objects of nothing but commits dropped since `before`: a verification of a
    /// large store takes longer than collectors wait.
    pub(super) async fn without_dropped(
        &self,
        request: &VerifyRequest,
        before: &State,
        report: &mut VerifyReport,
    ) -> Result<(), ReadError> {
        if report.findings.is_empty() {
            return Ok(());
        }
        let now = self.state(&request.project).await?;
        let is_live = |live: &crate::log::Live| {
            now.live(&live.commit.name, live.commit.number).is_some_and(|there| there.seq == live.seq)
        };
        if before.covered(request).all(is_live) {
            return Ok(());
        }
        let mut again = VerifyReport::default();
        let plan = match self.plan(request, &now, &mut again).await {
            // What the live ones need can't be told: nothing is excused.
            Ok(_) if !again.findings.is_empty() => return Ok(()),
            Ok(plan) => plan.items,
            // All that was asked for was dropped.
            Err(ReadError::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let project = &request.project;
        let indexes = now.covered(request).flat_map(|live| live.commit.indexes());
        let indexes = indexes.map(|index| keys::object(project, ObjectKind::Manifest, &index.object));
        let items = plan.iter().map(|item| keys::object(project, item.kind, &item.object));
        let needed: BTreeSet<String> = indexes.chain(items).collect();
        let kinds = [ObjectKind::Pack, ObjectKind::Blob, ObjectKind::Manifest];
        let is_object = |key: &str| kinds.iter().any(|kind| keys::object_of(project, *kind, key).is_some());
        report.findings.retain(|finding| needed.contains(&finding.object) || !is_object(&finding.object));
        Ok(())
    }
}
