//! A step that is there already with the same content: was it saved at the same place in the data?
//!
//! The digest of the content is of slices alone. Must never take a save for another that had read other data.

use std::collections::BTreeSet;

use gigastore_formats::manifest::Cursors;
use gigastore_formats::manifest::checkpoint::Selection;
use gigastore_formats::name::ProjectName;
use gigastore_formats::order::Cursor;
use gigastore_formats::record::Commit;

use super::{CommitError, Refusal, refused};
use crate::engine::Engine;

impl Engine {
    /// Checks that a live checkpoint has the cursors of a save. It may have more: a save that says nothing of a stream
    /// asks for nothing of it.
    pub(super) async fn check_cursors(
        &self,
        project: &ProjectName,
        live: &Commit,
        saved: &Cursors,
    ) -> Result<(), CommitError> {
        if saved.is_empty() {
            return Ok(());
        }
        // Of the manifest only what it says of itself.
        let stored = self.checkpoint_of(project, live, Selection::Names(BTreeSet::new())).await?.meta.cursors;
        for (stream, cursor) in saved {
            let (name, number) = (live.name.clone(), live.number);
            if let Some((expected, actual)) = difference(stored.get(stream), cursor) {
                return Err(refused(Refusal::OtherCursor { name, number, stream: stream.clone(), expected, actual }));
            }
        }
        Ok(())
    }
}

/// Returns in what a stored cursor and a saved one differ, what was seen included, as each has it.
fn difference(stored: Option<&Cursor>, saved: &Cursor) -> Option<(String, String)> {
    let Some(stored) = stored else {
        return Some(("no cursor of it".to_owned(), format!("{} samples", saved.samples)));
    };
    let seen = || {
        let text = |one: &Cursor| {
            let (digest, seen) = (String::from(one.seen.digest), &one.seen);
            format!("{} samples and {} tokens seen, with digest {digest}", seen.samples, seen.tokens)
        };
        (stored.seen != saved.seen).then(|| (text(stored), text(saved)))
    };
    stored.difference(saved).or_else(seen)
}
