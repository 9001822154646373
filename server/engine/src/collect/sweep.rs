//! The listing of a project against what a fence condemned, and the deletion.
//!
//! Must never delete a key that it can't read as that of an object: somebody else put it there.

use futures::stream::TryStreamExt;
use gigastore_formats::collect::{CollectReport, CollectRequest, Tally};
use gigastore_formats::object::ObjectKind;

use super::CollectError;
use super::condemned::Condemned;
use crate::engine::Engine;
use crate::store::keys;

/// Objects deleted at once: 1,000, the most that one request of S3 takes.
const DELETED_AT_ONCE: usize = 1000;

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
            let (mut batch, mut tally) = (Vec::new(), Tally::default());
            loop {
                let next = listed.try_next().await?;
                let ended = next.is_none();
                if let Some(object) = next {
                    report.listed.add(object.len);
                    let stored = keys::object_of(project, kind, &object.key);
                    if stored.is_some_and(|stored| condemned.has(kind, &stored)) {
                        tally.add(object.len);
                        batch.push(object.key);
                    }
                }
                if ended || batch.len() == DELETED_AT_ONCE {
                    let keys = std::mem::take(&mut batch);
                    if !request.dry_run {
                        self.objects.delete_all(keys).await?;
                    }
                    let counted = report.tally_mut(kind);
                    *counted = counted.plus(std::mem::take(&mut tally));
                }
                if ended {
                    break;
                }
            }
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
