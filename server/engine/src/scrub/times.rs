//! When which object was verified last: what makes a scrub go on where it was, and says how much was ever looked at.
//!
//! A cache under `scrub/`: where it is missing, everything is verified again. Several scrubs of one project may write
//! it: each adds what it knows to what is there. Must never decide whether an object is sound.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::sealed::{seal, unseal};
use gigastore_formats::wire::Coverage;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::store::{StoreError, keys};

/// Bytes of the times of a project: 1 GiB, ten million objects.
const MAX_TIMES_BYTES: u64 = 1 << 30;

/// When the packs and files of a project were verified.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Times {
    /// When the pass that is under way, or was interrupted, began, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) began: Option<u64>,
    /// When a pass last came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) completed: Option<u64>,
    /// Packs and files that live commits referred to at the last look.
    pub(super) objects: u64,
    /// Packs that were verified whole, and when.
    packs: BTreeMap<Stored, u64>,
    /// Files.
    blobs: BTreeMap<Stored, u64>,
}

impl Times {
    /// Returns when an object was verified last; 0 for never.
    pub(super) fn of(&self, kind: ObjectKind, object: &Stored) -> u64 {
        self.map(kind).and_then(|map| map.get(object)).copied().unwrap_or_default()
    }

    /// Takes down that an object was verified.
    pub(super) fn verified(&mut self, kind: ObjectKind, object: Stored, now: u64) {
        match kind {
            ObjectKind::Pack => self.packs.insert(object, now),
            ObjectKind::Blob => self.blobs.insert(object, now),
            // Manifests are read whole by every pass.
            ObjectKind::Manifest => None,
        };
    }

    /// Forgets objects that are not among `there`.
    pub(super) fn keep(&mut self, there: &BTreeSet<(ObjectKind, Stored)>) {
        self.packs.retain(|object, _| there.contains(&(ObjectKind::Pack, *object)));
        self.blobs.retain(|object, _| there.contains(&(ObjectKind::Blob, *object)));
        self.objects = there.len() as u64;
    }

    /// Adds what another scrub has taken down.
    fn merge(&mut self, other: Self) {
        let newer = |mine: &mut BTreeMap<Stored, u64>, theirs: BTreeMap<Stored, u64>| {
            for (object, time) in theirs {
                let known = mine.entry(object).or_default();
                *known = (*known).max(time);
            }
        };
        newer(&mut self.packs, other.packs);
        newer(&mut self.blobs, other.blobs);
        self.completed = self.completed.max(other.completed);
    }

    /// Says how much was ever verified.
    pub(super) fn coverage(&self, damaged: u64) -> Coverage {
        let times = || self.packs.values().chain(self.blobs.values());
        let verified = times().count() as u64;
        let Self { objects, completed, .. } = *self;
        Coverage { objects, verified, oldest: times().min().copied(), completed, damaged }
    }

    fn map(&self, kind: ObjectKind) -> Option<&BTreeMap<Stored, u64>> {
        match kind {
            ObjectKind::Pack => Some(&self.packs),
            ObjectKind::Blob => Some(&self.blobs),
            ObjectKind::Manifest => None,
        }
    }
}

impl Engine {
    /// Says how much of a project scrubs have verified, as of the last time that one wrote it down.
    pub async fn coverage(&self, project: &ProjectName) -> Result<Coverage, StoreError> {
        let damaged = self.marked(project).await?.len() as u64;
        let times = self.scrub_times(project).await?;
        Ok(self.ambient.computed(move || times.coverage(damaged)).await)
    }

    /// Reads the times of a project; none where they are missing or can't be used.
    pub(super) async fn scrub_times(&self, project: &ProjectName) -> Result<Times, StoreError> {
        let bytes = match self.objects.get(&keys::scrub_times(project), MAX_TIMES_BYTES).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. } | StoreError::TooLong { .. } | StoreError::Short { .. }) => {
                return Ok(Times::default());
            }
            Err(error) => return Err(error),
        };
        let read = self.ambient.computed(move || unseal::<Times>(&bytes, MAX_TIMES_BYTES)).await;
        Ok(read.map(|(times, _)| times).unwrap_or_default())
    }

    /// Writes times down, with what others wrote meanwhile; returns all of them, and their bytes.
    pub(super) async fn keep_scrub_times(
        &self,
        project: &ProjectName,
        mut times: Times,
        there: &BTreeSet<(ObjectKind, Stored)>,
    ) -> Result<(Times, u64), StoreError> {
        times.merge(self.scrub_times(project).await?);
        times.keep(there);
        let copy = times.clone();
        let bytes = self.ambient.computed(move || seal(&copy).0).await;
        let len = bytes.len() as u64;
        if len <= MAX_TIMES_BYTES {
            self.objects.put_cache(&keys::scrub_times(project), Bytes::from(bytes)).await?;
        }
        Ok((times, len))
    }
}

#[cfg(test)]
mod tests {
    use gigastore_formats::digest::Digest;

    use super::*;

    fn stored(text: &[u8]) -> Stored {
        Stored { digest: Digest::of(text), epoch: 2 }
    }

    fn times() -> Times {
        let mut times = Times { began: Some(5), completed: Some(3), objects: 2, ..Times::default() };
        times.verified(ObjectKind::Pack, stored(b"pack"), 7);
        times.verified(ObjectKind::Blob, stored(b"blob"), 8);
        times
    }

    #[test]
    fn version_1_is_frozen() {
        let frozen = include_bytes!("../../fixtures/scrub-1.json");
        assert_eq!(seal(&times()).0, frozen, "{}", String::from_utf8(seal(&times()).0).unwrap());
        assert_eq!(unseal::<Times>(frozen, MAX_TIMES_BYTES).unwrap().0, times());
    }

    #[test]
    fn what_others_verified_counts_and_what_is_gone_does_not() {
        let (pack, blob) = (stored(b"pack"), stored(b"blob"));
        let (mut mine, mut theirs) = (times(), Times { completed: Some(9), ..Times::default() });
        theirs.verified(ObjectKind::Pack, pack, 6);
        theirs.verified(ObjectKind::Blob, blob, 20);
        theirs.verified(ObjectKind::Manifest, blob, 20);
        mine.merge(theirs);
        assert_eq!((mine.of(ObjectKind::Pack, &pack), mine.of(ObjectKind::Blob, &blob)), (7, 20));
        let there = [(ObjectKind::Blob, blob), (ObjectKind::Pack, stored(b"new"))];
        mine.keep(&there.into_iter().collect());
        let coverage = Coverage { objects: 2, verified: 1, oldest: Some(20), completed: Some(9), damaged: 4 };
        assert_eq!(mine.coverage(4), coverage);
    }
}
