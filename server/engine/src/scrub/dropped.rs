//! What was dropped, and perhaps collected, while a verification or a scrub ran: these take hours of a large store, and
//! collectors do not wait for them.
//!
//! Must never excuse a finding about an object that something still live needs.

use std::collections::BTreeSet;

use gigastore_formats::object::ObjectKind;
use gigastore_formats::wire::{Finding, VerifyReport, VerifyRequest};

use crate::engine::Engine;
use crate::log::{Live, State};
use crate::read::ReadError;
use crate::store::keys;

/// The objects that are needed still.
pub(super) enum Needed {
    /// All that were.
    All,
    /// These keys.
    Only(BTreeSet<String>),
}

impl Needed {
    pub(super) fn has(&self, key: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(keys) => keys.contains(key),
        }
    }
}

impl Engine {
    /// Finds which objects are needed now, of those that the commits of `before` needed. Reads manifests only where one
    /// of these was dropped since.
    pub(super) async fn needed_since(&self, request: &VerifyRequest, before: &State) -> Result<Needed, ReadError> {
        let now = self.state(&request.project).await?;
        let is_live =
            |live: &Live| now.live(&live.commit.name, live.commit.number).is_some_and(|there| there.seq == live.seq);
        if before.covered(request).all(is_live) {
            return Ok(Needed::All);
        }
        let mut again = VerifyReport::default();
        let plan = match self.plan(request, &now, &mut again).await {
            // What the live ones need can't be told: nothing is excused.
            Ok(_) if !again.findings.is_empty() => return Ok(Needed::All),
            Ok(plan) => plan.items,
            // All that was asked for was dropped.
            Err(ReadError::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let project = &request.project;
        let indexes = now.covered(request).flat_map(|live| live.commit.indexes());
        let indexes = indexes.map(|index| keys::object(project, ObjectKind::Manifest, &index.object));
        let items = plan.iter().map(|item| keys::object(project, item.kind, &item.object));
        Ok(Needed::Only(indexes.chain(items).collect()))
    }

    /// Takes the findings out that are about objects of nothing but commits dropped since `before`.
    pub(super) async fn without_dropped(
        &self,
        request: &VerifyRequest,
        before: &State,
        findings: &mut Vec<Finding>,
    ) -> Result<(), ReadError> {
        if findings.is_empty() {
            return Ok(());
        }
        let needed = self.needed_since(request, before).await?;
        let is_object =
            |key: &str| ObjectKind::ALL.iter().any(|kind| keys::object_of(&request.project, *kind, key).is_some());
        findings.retain(|finding| needed.has(&finding.object) || !is_object(&finding.object));
        Ok(())
    }
}
