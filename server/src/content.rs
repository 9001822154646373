//! The bytes of a file of a checkpoint or dataset, out of packs and blobs, each group verified before it is sent.
//!
//! Must never give a byte that was not checked against the commit: whoever reads files has no hashes of their own.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gigastore_formats::ambient::Ambient;
use gigastore_formats::digest::Digest;
use gigastore_formats::limits::MAX_PACK_HEADER_BYTES;
use gigastore_formats::manifest::checkpoint::CheckpointRow;
use gigastore_formats::manifest::dataset::FileRow;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::pack::{PackEntry, PackHeader};
use gigastore_formats::range::ByteRange;
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::{Fault, FaultCode};

use crate::cache::Cache;

/// A file whose bytes can be read in groups.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    cache: Arc<Cache>,
    ambient: Arc<dyn Ambient>,
    project: ProjectName,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    /// A stored object of its own.
    Blob(Stored, GroupTree),
    /// A slice of a pack of so many bytes.
    Slice(Stored, u64, Box<PackEntry>),
}

impl Content {
    /// Returns a file of a dataset.
    pub(crate) fn of_file(
        cache: &Arc<Cache>,
        ambient: &Arc<dyn Ambient>,
        project: &ProjectName,
        row: &FileRow,
    ) -> Self {
        let place = Place::Blob(row.blob, row.tree.clone());
        Self { cache: Arc::clone(cache), ambient: Arc::clone(ambient), project: project.clone(), place }
    }

    /// Finds a file of a checkpoint in its pack.
    pub(crate) async fn of_slice(
        cache: &Arc<Cache>,
        ambient: &Arc<dyn Ambient>,
        project: &ProjectName,
        row: &CheckpointRow,
    ) -> Result<Self, Fault> {
        let pack = row.place.pack;
        let len = row.place.header_len.min(MAX_PACK_HEADER_BYTES);
        let range = ByteRange::new(0, len).map_err(|error| Fault::new(FaultCode::Integrity, &error))?;
        let lost = || Fault {
            object: Some(pack.key(ObjectKind::Pack)),
            ..Fault::of(FaultCode::Lost, format!("integrity failure: pack {pack} is not in the store"))
        };
        let pack_len = cache.len(project, ObjectKind::Pack, pack, len).await?.ok_or_else(lost)?;
        let parsed = async || {
            let bytes = cache.read(project, ObjectKind::Pack, pack, range, pack_len).await?;
            Ok::<_, Fault>(ambient.computed(move || PackHeader::parse(pack.digest, &bytes)).await)
        };
        let mut header = parsed().await?;
        if header.is_err() && cache.forget(project, ObjectKind::Pack, pack, range).await {
            header = parsed().await?;
        }
        let damaged = |text: String| Fault {
            object: Some(pack.key(ObjectKind::Pack)),
            ..Fault::of(FaultCode::Integrity, format!("pack {pack}: {text}"))
        };
        let header = header.map_err(|error| damaged(error.to_string()))?;
        let same =
            |entry: &&PackEntry| entry.stored.start() == row.place.offset && entry.slice.tree.root() == row.blake3;
        let entry = header.entries().iter().find(same);
        let entry = entry.ok_or_else(|| damaged(format!("no slice {} where its manifest has it", row.slice)))?;
        let place = Place::Slice(pack, pack_len, Box::new(entry.clone()));
        Ok(Self { cache: Arc::clone(cache), ambient: Arc::clone(ambient), project: project.clone(), place })
    }

    fn tree(&self) -> &GroupTree {
        match &self.place {
            Place::Blob(_, tree) => tree,
            Place::Slice(_, _, entry) => &entry.slice.tree,
        }
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
        let bytes = self.cache.read(&self.project, kind, object, stored, len).await?;
        let mut checked = self.checked(bytes, widened, groups.clone(), stored).await;
        if checked.is_err() && self.cache.forget(&self.project, kind, object, stored).await {
            // What was kept may have been damaged on its way here: the store itself is asked before it is blamed.
            let bytes = self.cache.read(&self.project, kind, object, stored, len).await?;
            checked = self.checked(bytes, widened, groups, stored).await;
        }
        let bytes = checked.map_err(|text| Fault {
            object: Some(object.key(kind)),
            ..Fault::of(FaultCode::Integrity, format!("integrity failure: {} at {stored}: {text}", object.key(kind)))
        })?;
        let start = (range.start() - widened.start()) as usize;
        Ok(bytes.slice(start..start + range.len() as usize))
    }

    /// Checks stored bytes, and returns the file's.
    async fn checked(
        &self,
        bytes: Bytes,
        widened: ByteRange,
        groups: Range<u64>,
        stored: ByteRange,
    ) -> Result<Bytes, String> {
        let place = self.place.clone();
        let check = move || match &place {
            Place::Blob(_, tree) => {
                tree.check_range(widened.start(), &bytes).map(|()| bytes).map_err(|error| error.to_string())
            }
            Place::Slice(_, _, entry) => {
                let mut logical = BytesMut::with_capacity(widened.len() as usize);
                for group in groups {
                    let at = entry.stored_groups(group..group + 1);
                    let (start, end) = (at.start() - stored.start(), at.end() - stored.start());
                    let piece = bytes.slice(start as usize..end as usize);
                    logical.extend_from_slice(&entry.open_group(group, &piece).map_err(|error| error.to_string())?);
                }
                Ok(logical.freeze())
            }
        };
        self.ambient.computed(check).await
    }
}
