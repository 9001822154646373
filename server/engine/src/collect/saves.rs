//! The saves of a project: which are open and hold a fence back, which have ended or were abandoned and are swept.
//!
//! An announcement is a hint. Sweeping the one of a save that lives after all can lose no data: what it uploaded is
//! found where it is still usable and sent again where it is not, and it is committed only with all of its parts. Must
//! never sweep what tells a rank that its save was given up, while one may still ask.

use std::collections::BTreeMap;

use futures::stream::TryStreamExt;
use gigastore_formats::collect::{CollectReport, CollectRequest, OpenSave};
use gigastore_formats::record::{SaveBegin, TxnId};
use gigastore_formats::sealed::unseal;

use super::CollectError;
use crate::engine::Engine;
use crate::log::{Outcome, State};
use crate::save::MAX_BEGIN_BYTES;
use crate::store::{DELETED_AT_ONCE, Listed, StoreError, keys};

/// The saves that were found.
#[derive(Debug, Default)]
pub(super) struct Saves {
    held: Option<OpenSave>,
    /// Objects that nobody needs.
    swept: Vec<Listed>,
}

/// What lies in the folder of one save.
#[derive(Debug, Default)]
struct Folder {
    objects: Vec<Listed>,
    announced: bool,
    ended: bool,
    /// When something last came.
    newest_ms: u64,
}

/// What becomes of a save's folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// The save is open.
    Open,
    /// It stays for now.
    Stays,
    /// All of it is swept but for the word that the save has ended.
    PartsSwept,
    /// All of it is swept.
    Swept,
}

impl Saves {
    /// Returns an open save under which a fence would pull the ground away.
    pub(super) fn holds(&self) -> Option<&OpenSave> {
        self.held.as_ref()
    }
}

impl Engine {
    /// Lists the saves of a project, whose log was read to `state` before.
    pub(super) async fn saves(&self, request: &CollectRequest, state: &State) -> Result<Saves, CollectError> {
        let project = &request.project;
        let mut folders: BTreeMap<TxnId, Folder> = BTreeMap::new();
        let mut listed = self.objects.listed(&keys::saves(project));
        while let Some(object) = listed.try_next().await? {
            let Some((save, name)) = keys::save_of(project, &object.key) else { continue };
            let folder = folders.entry(save).or_default();
            folder.announced |= name == keys::BEGIN;
            folder.ended |= name == keys::ENDED;
            folder.newest_ms = folder.newest_ms.max(object.modified_ms);
            folder.objects.push(object);
        }
        let (now, mut saves) = (self.ambient.wall_ms(), Saves::default());
        for (save, folder) in folders {
            let idle_ms = now.saturating_sub(folder.newest_ms);
            let fate = fate(&folder, state.outcome(save), idle_ms, request);
            if fate == Fate::Open && saves.held.is_none() {
                saves.held = self.held_by(request, state, save, idle_ms).await?;
            }
            let goes = |object: &Listed| match fate {
                Fate::Swept => true,
                Fate::PartsSwept => object.key != keys::save_ended(project, save),
                Fate::Open | Fate::Stays => false,
            };
            saves.swept.extend(folder.objects.into_iter().filter(goes));
        }
        Ok(saves)
    }

    /// Says whether an open save began in an older epoch, and may still be committed. What its announcement says is not
    /// known where it is damaged: that one holds too.
    async fn held_by(
        &self,
        request: &CollectRequest,
        state: &State,
        save: TxnId,
        idle_ms: u64,
    ) -> Result<Option<OpenSave>, CollectError> {
        let bytes = match self.objects.get(&keys::save_begin(&request.project, save), MAX_BEGIN_BYTES).await {
            Ok(bytes) => bytes,
            // It was swept meanwhile.
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(StoreError::TooLong { .. } | StoreError::Short { .. }) => Default::default(),
            Err(error) => return Err(error.into()),
        };
        let open = match unseal::<SaveBegin>(&bytes, MAX_BEGIN_BYTES) {
            Ok((begin, _)) if begin.epoch >= state.epoch => return Ok(None),
            // Its step is taken: it was refused or will be, or finds its content there. Who lost a race leaves it open.
            Ok((begin, _)) if state.live(&begin.run, begin.step).is_some() => return Ok(None),
            Ok((begin, _)) => {
                OpenSave { save, run: Some(begin.run), step: Some(begin.step), epoch: Some(begin.epoch), idle_ms }
            }
            Err(_) => OpenSave { save, run: None, step: None, epoch: None, idle_ms },
        };
        Ok(Some(open))
    }

    /// Deletes what nobody needs of saves that have ended or were abandoned.
    pub(super) async fn sweep_saves(
        &self,
        request: &CollectRequest,
        saves: Saves,
        report: &mut CollectReport,
    ) -> Result<(), CollectError> {
        for objects in saves.swept.chunks(DELETED_AT_ONCE) {
            if !request.dry_run {
                self.objects.delete_all(objects.iter().map(|object| object.key.clone()).collect()).await?;
            }
            objects.iter().for_each(|object| report.saves.add(object.len));
        }
        Ok(())
    }
}

/// Decides what becomes of a folder from which nothing was heard for `idle_ms`.
fn fate(folder: &Folder, outcome: Option<Outcome>, idle_ms: u64, request: &CollectRequest) -> Fate {
    if idle_ms >= request.save_timeout_ms {
        return Fate::Swept;
    }
    // In the log a save is found for ever. Elsewhere its end alone says that it was given up, or that its content was
    // live before; a rank may ask for as long as a save may be silent.
    match (outcome, folder.ended) {
        (Some(_), _) if idle_ms >= request.grace_ms => Fate::Swept,
        (None, true) if idle_ms >= request.grace_ms => Fate::PartsSwept,
        (None, false) if folder.announced => Fate::Open,
        _ => Fate::Stays,
    }
}

#[cfg(test)]
mod tests {
    use gigastore_formats::digest::Digest;

    use super::*;

    #[test]
    fn a_folder_goes_when_nobody_can_need_it() {
        let request = CollectRequest {
            grace_ms: 10,
            save_timeout_ms: 100,
            ..CollectRequest::new("p".parse().unwrap(), TxnId(Digest::of(b"x")))
        };
        let of = |announced, ended, outcome, idle_ms| {
            fate(&Folder { announced, ended, ..Folder::default() }, outcome, idle_ms, &request)
        };
        let took = Some(Outcome::Took(1));
        assert_eq!(of(true, false, None, 99), Fate::Open);
        assert_eq!(of(true, false, None, 100), Fate::Swept, "abandoned");
        assert_eq!(of(false, false, None, 99), Fate::Stays, "parts of a save whose announcement was swept");
        assert_eq!((of(true, true, None, 9), of(true, true, None, 10)), (Fate::Stays, Fate::PartsSwept));
        assert_eq!(of(false, true, None, 100), Fate::Swept);
        assert_eq!((of(true, true, took, 9), of(true, false, took, 10)), (Fate::Stays, Fate::Swept));
    }
}
