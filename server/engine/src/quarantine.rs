//! Damaged objects are marked, so that nothing new refers to them until their true bytes are back.
//!
//! A marked object stays where it is and goes on to serve what is sound in it. An upload of the same content, or a
//! scrub that finds another copy, puts the true bytes over it and takes the mark away. Must never hold anything that
//! the safety of commits rests on: a mark may be missing, late or stale.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::damage::{Damage, DamageMark, MAX_MARK_BYTES};
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::sealed::{seal, unseal};
use gigastore_formats::wire::Finding;

use crate::engine::Engine;
use crate::store::{StoreError, keys};

/// How long the marks of a project are believed before they are listed again: a listing is one request, and a save that
/// refers to an object in the seconds after it was found damaged refers to what older commits refer to as well.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Projects whose marks are remembered: 1,024. One that is asked for later is listed again.
const PROJECTS_KEPT: usize = 1024;

/// Marks read at once.
const MARKS_IN_FLIGHT: usize = 16;

/// The objects of one project that are marked.
pub(crate) type Marked = Arc<BTreeSet<(ObjectKind, Stored)>>;

/// What is known of the marks of each project, and since when.
#[derive(Default)]
pub(crate) struct Marks(Mutex<BTreeMap<ProjectName, (Duration, Marked)>>);

impl Engine {
    /// Lists the objects of a project that are marked as damaged, with what was found.
    pub async fn damaged(&self, project: &ProjectName) -> Result<Vec<DamageMark>, StoreError> {
        let listed = self.list_marks(project).await?;
        let read = listed.into_iter().map(|(kind, object)| async move {
            let key = keys::damaged(project, kind, &object);
            let bytes = match self.objects.get(&key, MAX_MARK_BYTES).await {
                Ok(bytes) => bytes,
                // Taken away meanwhile.
                Err(StoreError::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let mark = unseal::<DamageMark>(&bytes, MAX_MARK_BYTES).map(|(mark, _)| mark);
            let same = |mark: &DamageMark| (mark.kind, mark.object) == (kind, object);
            // That it is there says the most important thing, whatever became of its text.
            Ok(Some(mark.ok().filter(same).unwrap_or_else(|| {
                let problem = format!("damaged; its mark {key} can't be read, so that no more is known");
                DamageMark { kind, object, since: 0, damages: vec![Damage { range: None, problem }] }
            })))
        });
        let read: Vec<Option<DamageMark>> = futures::stream::iter(read).buffered(MARKS_IN_FLIGHT).try_collect().await?;
        Ok(read.into_iter().flatten().collect())
    }

    /// Returns which objects of a project are marked, as of some seconds ago.
    pub(crate) async fn marked(&self, project: &ProjectName) -> Result<Marked, StoreError> {
        let now = self.ambient.monotonic();
        let known = self.marks.0.lock().unwrap_or_else(PoisonError::into_inner).get(project).cloned();
        if let Some((_, marked)) = known.filter(|(seen, _)| now.saturating_sub(*seen) < LOOK_EVERY) {
            return Ok(marked);
        }
        let marked: Marked = Arc::new(self.list_marks(project).await?);
        let mut all = self.marks.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= PROJECTS_KEPT {
            all.clear();
        }
        all.insert(project.clone(), (now, Arc::clone(&marked)));
        Ok(marked)
    }

    pub(crate) async fn list_marks(&self, project: &ProjectName) -> Result<BTreeSet<(ObjectKind, Stored)>, StoreError> {
        let listed = self.objects.list(&keys::damaged_objects(project)).await?;
        Ok(listed.iter().filter_map(|(key, _)| keys::damaged_of(key)).collect())
    }

    /// Marks an object as damaged. One that is marked keeps the moment at which it was.
    pub(crate) async fn mark(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        object: Stored,
        findings: &[Finding],
    ) -> Result<(), StoreError> {
        let key = keys::damaged(project, kind, &object);
        let since = match self.objects.get(&key, MAX_MARK_BYTES).await {
            Ok(bytes) => unseal::<DamageMark>(&bytes, MAX_MARK_BYTES).ok().map(|(mark, _)| mark.since),
            Err(StoreError::NotFound { .. } | StoreError::TooLong { .. }) => None,
            Err(error) => return Err(error),
        };
        let since = since.unwrap_or_else(|| self.ambient.wall_ms());
        let mark = DamageMark::new(kind, object, since, findings);
        self.objects.put_cache(&key, Bytes::from(seal(&mark).0)).await?;
        self.look_again(project);
        Ok(())
    }

    /// Takes the mark of an object away: its bytes are true, or it is not there any more and nothing needs it.
    pub(crate) async fn unmark(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        object: Stored,
    ) -> Result<(), StoreError> {
        self.objects.delete_cache(&keys::damaged(project, kind, &object)).await?;
        self.look_again(project);
        Ok(())
    }

    fn look_again(&self, project: &ProjectName) {
        self.marks.0.lock().unwrap_or_else(PoisonError::into_inner).remove(project);
    }
}
