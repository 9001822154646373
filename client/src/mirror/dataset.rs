//! A dataset version into another store: its files as they are, and its manifest with the names that they have there.
//!
//! Must never give a version another content than it had.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::dataset::{DatasetMeta, FileRow, same_file_facts, write_dataset};
use gigastore_formats::name::{ProjectName, Selector, Target};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::record::TxnId;
use gigastore_formats::wire::{CommitInfo, DatasetRequest, Fault, FaultCode, NameInfo};

use super::{Mirror, MirrorError, OBJECTS_IN_FLIGHT, Sent};
use crate::dataset::Dataset;

impl Mirror<'_> {
    /// Copies a version, after version `last` of the destination; finds it where it is there.
    pub(super) async fn version(
        &self,
        info: &CommitInfo,
        known: Option<&NameInfo>,
        last: Option<u64>,
    ) -> Result<Option<(CommitInfo, Sent, bool)>, MirrorError> {
        let (commit, to) = (&info.commit, &self.spec.to);
        let of = |project: &ProjectName, number| {
            let (project, name) = (project.clone(), commit.name.clone());
            Target { project, name, selector: Some(Selector::Number(number)) }
        };
        let source = self.from.dataset(&of(&self.spec.project, commit.number)).await?;
        let later = |number: u64| last.is_none_or(|last| number > last);
        let same = |there: &&CommitInfo| there.commit.content == commit.content && later(there.commit.number);
        for there in known.iter().flat_map(|known| known.live.iter().filter(same)) {
            if same_facts(&source, &self.to.dataset(&of(to, there.commit.number)).await?) {
                return Ok(Some((there.clone(), Sent::default(), true)));
            }
        }
        let (to_name, name) = (to.as_str().as_bytes(), commit.name.as_str().as_bytes());
        let (number, manifest) = (commit.number.to_le_bytes(), commit.manifest.object.digest);
        // The same version of the source is the same operation whatever its number in the destination, so that one
        // whose answer was lost is found, and one that was dropped there stays away.
        let txn = TxnId::derive(&[b"mirror", to_name, name, &number, manifest.as_bytes()]);
        if known.is_some_and(|known| known.highest > known.live.len() as u64) && self.stood(txn).await? {
            return Ok(None);
        }
        let (epoch, highest, newest) = self.newest_there(info).await?;
        let kept: BTreeMap<Digest, Stored> = match newest {
            Some(number) => {
                let there = self.to.dataset(&of(to, number)).await?;
                there.files().iter().map(|row| (row.blob.digest, row.blob)).collect()
            }
            None => BTreeMap::new(),
        };
        let (rows, sent) = self.send_files(epoch, &kept, source.files()).await?;
        let version = highest + 1;
        let DatasetMeta { name, metadata, tokens, lineage, .. } = source.meta().clone();
        let meta = DatasetMeta { name, version, parent: newest, metadata, tokens, lineage };
        let manifest = self.to.ambient.computed(move || write_dataset(&meta, &rows)).await?;
        let request = DatasetRequest { project: to.clone(), txn, epoch, tag: None };
        let done = self.to.transport.commit_dataset(&request, Bytes::from(manifest)).await?;
        let (expected, actual) = (commit.content, done.info.commit.content);
        if expected != actual {
            let target = format!("{to}/{}@{}", commit.name, done.info.commit.number);
            return Err(MirrorError::Different { target, expected, actual });
        }
        Ok(Some((done.info, sent, done.existed)))
    }

    /// Tells whether the destination's log had a transaction when that was first asked. One that came later is found
    /// when it is committed again.
    async fn stood(&self, txn: TxnId) -> Result<bool, MirrorError> {
        let read = async {
            let (mut all, mut after) = (HashSet::new(), 0);
            loop {
                let records = self.to.records(&self.spec.to, after, Duration::ZERO).await?;
                let Some(last) = records.last() else { return Ok::<_, Fault>(all) };
                after = last.seq;
                all.extend(records.iter().flat_map(|record| record.entries.iter().map(|entry| entry.txn)));
            }
        };
        Ok(self.stood.get_or_try_init(|| read).await?.contains(&txn))
    }

    /// Returns the epoch of the destination, and of the dataset there the highest version ever and the newest live one.
    async fn newest_there(&self, info: &CommitInfo) -> Result<(u64, u64, Option<u64>), MirrorError> {
        let found = match self.to.project(&self.spec.to).await {
            Ok(found) => found,
            Err(fault) if fault.code == FaultCode::NotFound => return Ok((0, 0, None)),
            Err(fault) => return Err(fault.into()),
        };
        let named = found.names.iter().find(|named| named.name == info.commit.name);
        let newest = named.and_then(|named| named.live.iter().map(|live| live.commit.number).max());
        Ok((found.epoch, named.map_or(0, |named| named.highest), newest))
    }

    /// Sends the files that are missing; returns all rows with the names that their files have in the destination.
    async fn send_files(
        &self,
        epoch: u64,
        kept: &BTreeMap<Digest, Stored>,
        files: &[FileRow],
    ) -> Result<(Vec<FileRow>, Sent), MirrorError> {
        self.progress.plan(files.iter().map(|row| row.bytes).sum());
        let sending = files.iter().map(|row| {
            let send: BoxFuture<'_, Result<(FileRow, bool), MirrorError>> = Box::pin(async move {
                let (blob, sent) = self.send_file(epoch, kept, row).await?;
                self.progress.done(row.bytes);
                Ok((FileRow { blob, ..row.clone() }, sent))
            });
            send
        });
        let sending: Vec<_> = sending.collect();
        let done: Vec<(FileRow, bool)> =
            futures::stream::iter(sending).buffered(OBJECTS_IN_FLIGHT).try_collect().await?;
        let sent = done
            .iter()
            .filter(|(_, sent)| *sent)
            .fold(Sent::default(), |sum, (row, _)| Sent { objects: sum.objects + 1, bytes: sum.bytes + row.bytes });
        Ok((done.into_iter().map(|(row, _)| row).collect(), sent))
    }

    /// Sends a file unless it is there; returns its name, and whether it was sent.
    async fn send_file(
        &self,
        epoch: u64,
        kept: &BTreeMap<Digest, Stored>,
        row: &FileRow,
    ) -> Result<(Stored, bool), MirrorError> {
        let named = |epoch| Stored { digest: row.blob.digest, epoch };
        let mut candidates: Vec<Stored> = kept.get(&row.blob.digest).copied().into_iter().collect();
        candidates.push(named(epoch));
        candidates.extend(epoch.checked_sub(1).map(named));
        if let Some(there) = self.there(ObjectKind::Blob, &candidates, row.bytes).await? {
            return Ok((there, false));
        }
        let bytes = self.pieces(ObjectKind::Blob, row.blob, 0, row.bytes);
        match self.to.transport.put_blob(&self.spec.to, epoch, row.tree.clone(), bytes).await {
            Ok(blob) => Ok((blob, true)),
            Err(fault) => Err(self.refused(ObjectKind::Blob, &row.blob, fault).await),
        }
    }
}

/// Whether as much is known of one version as of another one with the same files.
fn same_facts(one: &Dataset, other: &Dataset) -> bool {
    let (a, b) = (one.meta(), other.meta());
    a.tokens == b.tokens && a.metadata == b.metadata && same_file_facts(one.files(), other.files())
}
