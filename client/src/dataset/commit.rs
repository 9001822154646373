//! The way of a draft into the log: numbered after the highest version, standing on the newest one.
//!
//! Must never commit on a version that was not the newest one when the draft was made.

use bytes::Bytes;
use gigastore_formats::manifest::ManifestError;
use gigastore_formats::manifest::dataset::{DatasetMeta, FileRow, Lineage, TokenColumn, write_dataset};
use gigastore_formats::name::{Name, ProjectName, Target};
use gigastore_formats::record::Sort;
use gigastore_formats::wire::{Committed, DatasetRequest, Fault, FaultCode};

use super::read::{Dataset, DatasetError};
use crate::store::Store;

/// How often a version number is tried that another push took: each try means that somebody else succeeded.
const VERSION_TRIES: u32 = 20;

/// Where a version goes.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) project: ProjectName,
    pub(super) name: Name,
    pub(super) tag: Option<Name>,
}

/// A version without its number.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) metadata: std::collections::BTreeMap<String, String>,
    pub(super) tokens: Option<TokenColumn>,
    pub(super) lineage: Option<Lineage>,
    pub(super) rows: Vec<FileRow>,
}

impl Place {
    fn target(&self) -> Target {
        Target { project: self.project.clone(), name: self.name.clone(), selector: None }
    }
}

impl Store {
    /// Commits what `draft` makes of the newest version. Where another version was committed meanwhile, `draft` is
    /// asked again.
    pub(super) async fn commit_draft<E>(
        &self,
        place: &Place,
        epoch: u64,
        draft: impl Fn(Option<&Dataset>) -> Result<Draft, E>,
    ) -> Result<Committed, E>
    where
        E: From<Fault> + From<DatasetError> + From<ManifestError>,
    {
        let txn = self.new_txn("push");
        let mut tries = 1;
        loop {
            // Before the newest version is opened: one that is committed in between is a conflict then, and the next
            // try stands on it.
            let highest = self.highest(place).await?;
            let newest = self.newest(place).await?;
            let Draft { metadata, tokens, lineage, rows } = draft(newest.as_ref())?;
            let parent = newest.as_ref().map(|dataset| dataset.info().commit.number);
            let version = highest.map_or(1, |highest| highest + 1);
            let meta = DatasetMeta { name: place.name.clone(), version, parent, metadata, tokens, lineage };
            let manifest = self.ambient.computed(move || write_dataset(&meta, &rows)).await?;
            let request = DatasetRequest { project: place.project.clone(), txn, epoch, tag: place.tag.clone() };
            match self.transport.commit_dataset(&request, Bytes::from(manifest)).await {
                Err(fault) if fault.code == FaultCode::Conflict && tries < VERSION_TRIES => {
                    // Another push took this number, or the conflict is another one and stays.
                    if self.highest(place).await? == highest {
                        return Err(fault.into());
                    }
                    tries += 1;
                }
                done => return Ok(done?),
            }
        }
    }

    /// Returns the epoch that a project's files are uploaded under.
    pub(super) async fn epoch(&self, project: &ProjectName) -> Result<u64, Fault> {
        match self.transport.project(project).await {
            Ok(info) => Ok(info.epoch),
            Err(fault) if fault.code == FaultCode::NotFound => Ok(0),
            Err(fault) => Err(fault),
        }
    }

    /// Opens the newest live version, if there is one.
    pub(super) async fn newest(&self, place: &Place) -> Result<Option<Dataset>, DatasetError> {
        match self.dataset(&place.target()).await {
            Ok(dataset) => Ok(Some(dataset)),
            Err(DatasetError::Store(fault)) if fault.code == FaultCode::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the highest version that was ever committed.
    async fn highest(&self, place: &Place) -> Result<Option<u64>, Fault> {
        match self.transport.project(&place.project).await {
            Ok(info) => {
                let found = info.names.into_iter().find(|name| name.name == place.name && name.sort == Sort::Dataset);
                Ok(found.map(|name| name.highest))
            }
            Err(fault) if fault.code == FaultCode::NotFound => Ok(None),
            Err(fault) => Err(fault),
        }
    }
}
