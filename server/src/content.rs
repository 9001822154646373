//! The bytes of a file of a checkpoint or dataset, out of packs and blobs, each group verified before it is sent.
//!
//! Must never give a byte that was not checked against the commit: whoever reads files has no hashes of their own.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::checkpoint::CheckpointRow;
use gigastore_formats::manifest::dataset::FileRow;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::pack::PackEntry;
use gigastore_formats::range::ByteRange;
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::{Fault, FaultCode};

use crate::http::Shared;
use crate::packs::{damaged, len_of};

/// A file whose bytes can be read in groups.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    shared: Shared,
    project: ProjectName,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    /// A stored object of its own.
    Blob(Stored, GroupTree),
    /// A slice of a pack of so many bytes.
    Slice(Stored, u64, Arc<PackEntry>),
}

impl Content {
    /// Returns a file of a dataset.
    pub(crate) fn of_file(shared: &Shared, project: &ProjectName, row: &FileRow) -> Self {
        let place = Place::Blob(row.blob, row.tree.clone());
        Self { shared: Arc::clone(shared), project: project.clone(), place }
    }

    /// Finds a slice of a checkpoint, such as one of its files, in its pack.
    pub(crate) async fn of_slice(shared: &Shared, project: &ProjectName, row: &CheckpointRow) -> Result<Self, Fault> {
        let pack = row.place.pack;
        let (pack_len, entry) = match PackEntry::of_row(row) {
            Some(entry) => (len_of(shared, project, pack, entry.stored.end()).await?, Arc::new(entry)),
            None => {
                let (len, header) = shared.packs.header(shared, project, pack, row.place.header_len).await?;
                let entries = header.entries();
                let first = entries.partition_point(|entry| entry.stored.start() < row.place.offset);
                let here = entries[first..].iter().take_while(|entry| entry.stored.start() == row.place.offset);
                let same = |entry: &&Arc<PackEntry>| {
                    entry.slice.tree.root() == row.blake3 && entry.slice.tree.len() == row.slice.bytes()
                };
                let absent = || damaged(pack, &format!("no slice {} where its manifest has it", row.slice));
                (len, Arc::clone(here.into_iter().find(same).ok_or_else(absent)?))
            }
        };
        let place = Place::Slice(pack, pack_len, entry);
        Ok(Self { shared: Arc::clone(shared), project: project.clone(), place })
    }

    /// Reads the group in which `range` begins, verified, and tells where that starts. A group of a slice that is not
    /// wanted whole is kept, for whoever wants the rest.
    pub(crate) async fn group(&self, range: ByteRange) -> Result<(u64, Bytes), Fault> {
        let tree = self.tree();
        let index = range.start() / tree.group_bytes();
        let group = tree.group_range(index);
        let read = || self.read(group);
        let bytes = match &self.place {
            Place::Slice(..) if !range.contains(&group) => {
                let kept = self.shared.packs.group(&self.project, tree.root(), group, read).await;
                let (bytes, read_here) = kept?;
                let metrics = &self.shared.metrics;
                if read_here { &metrics.groups_read } else { &metrics.groups_kept }.inc();
                bytes
            }
            _ => read().await?,
        };
        Ok((group.start(), bytes))
    }

    fn tree(&self) -> &GroupTree {
        match &self.place {
            Place::Blob(_, tree) => tree,
            Place::Slice(_, _, entry) => &entry.slice.tree,
        }
    }

    /// Returns the bytes of each of its groups but the last.
    pub(crate) fn group_bytes(&self) -> u64 {
        self.tree().group_bytes()
    }

    /// Returns the file's bytes.
    pub(crate) fn len(&self) -> u64 {
        self.tree().len()
    }

    /// Returns BLAKE3 of the file.
    pub(crate) fn digest(&self) -> Digest {
        self.tree().root()
    }

    /// Reads `range`, verified.
    pub(crate) async fn read(&self, range: ByteRange) -> Result<Bytes, Fault> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let tree = self.tree();
        let (groups, widened) = (tree.groups_of(range), tree.widened(range));
        let (kind, object, len, stored) = match &self.place {
            Place::Blob(blob, tree) => (ObjectKind::Blob, *blob, tree.len(), widened),
            Place::Slice(pack, len, entry) => (ObjectKind::Pack, *pack, *len, entry.stored_groups(groups.clone())),
        };
        let bytes = self.shared.cache.read(&self.project, kind, object, stored, len).await?;
        let mut checked = self.checked(bytes, widened, groups.clone()).await;
        if checked.is_err() && self.shared.cache.forget(&self.project, kind, object, stored).await {
            // What was kept may have been damaged on its way here: the store itself is asked before it is blamed.
            let bytes = self.shared.cache.read(&self.project, kind, object, stored, len).await?;
            checked = self.checked(bytes, widened, groups).await;
        }
        let bytes = checked.map_err(|text| Fault {
            object: Some(object.key(kind)),
            ..Fault::of(FaultCode::Integrity, format!("integrity failure: {} at {stored}: {text}", object.key(kind)))
        })?;
        let start = (range.start() - widened.start()) as usize;
        Ok(bytes.slice(start..start + range.len() as usize))
    }

    /// Checks stored bytes, and returns the file's.
    async fn checked(&self, bytes: Bytes, widened: ByteRange, groups: Range<u64>) -> Result<Bytes, String> {
        let place = self.place.clone();
        let check = move || match &place {
            Place::Blob(_, tree) => {
                tree.check_range(widened.start(), &bytes).map(|()| bytes).map_err(|error| error.to_string())
            }
            Place::Slice(_, _, entry) => {
                let mut logical = BytesMut::with_capacity(widened.len() as usize);
                for (_, opened) in entry.open_groups(groups, &bytes) {
                    logical.extend_from_slice(&opened.map_err(|error| error.to_string())?);
                }
                Ok(logical.freeze())
            }
        };
        self.shared.ambient.computed(check).await
    }
}
