//! The listing of a project against what a fence condemned, and the deletion.
//!
//! Must never delete a key that it can't read as that of an object: somebody else put it there.

use futures::stream::TryStreamExt;
use gigastore_formats::collect::{CollectReport, CollectRequest};
use gigastore_formats::object::ObjectKind;

use super::CollectError;
use super::condemned::Condemned;
use crate::engine::Engine;
use crate::store::{DELETED_AT_ONCE, keys};

impl Engine {
    /// Deletes the condemned objects that the store has; counts them where it is a dry run.
    pub(super) async fn sweep(
        &self,
        request: &CollectRequest,
        condemned: &Condemned,
        report: &mut CollectReport,
    ) -> Result<(), CollectError> {
        let project = &request.project;
        // Manifests last: they say of a damaged store what its packs are.
        for kind in ObjectKind::ALL {
            let mut listed = self.objects.listed(&keys::objects(project, kind));
            let mut batch = Vec::new();
            while let Some(object) = listed.try_next().await? {
                report.listed.add(object.len);
                let stored = keys::object_of(project, kind, &object.key);
                if !stored.is_some_and(|stored| condemned.has(kind, &stored)) {
                    continue;
                }
                report.tally_mut(kind).add(object.len);
                if !request.dry_run {
                    batch.push(object.key);
                }
                if batch.len() == DELETED_AT_ONCE {
                    self.objects.delete_all(std::mem::take(&mut batch)).await?;
                }
            }
            self.objects.delete_all(batch).await?;
        }
        if request.dry_run {
            return Ok(());
        }
        // A mark of what is gone would have scrubs look for it.
        for (kind, stored) in self.list_marks(project).await? {
            if condemned.has(kind, &stored) {
                self.unmark(project, kind, stored).await?;
            }
        }
        Ok(())
    }
}
