//! What is known of packs: their parsed headers, and groups that were opened and will be wanted again, as where a file
//! takes a little of each of many slices, piece after piece.
//!
//! Must never keep what was not checked: a header against the name of its pack, a group against its value.

use std::sync::Arc;

use bytes::Bytes;
use gigastore_formats::digest::Digest;
use gigastore_formats::limits::MAX_PACK_HEADER_BYTES;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::pack::{PackEntry, PackError, PackHeader};
use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::{Fault, FaultCode};
use tokio::sync::Semaphore;

use crate::http::Service;
use crate::kept::Kept;

/// Bytes of parsed headers that are kept: those of some 1,500 packs of a few dozen slices, or of the seven longest.
const HEADERS_BYTES: u64 = 64 << 20;

/// Bytes of opened groups that are kept. Each block of an answer takes a little of a group, of a model in eight column
/// shards of one or two groups of each shard. Eight answers at once, as many as clients of hubs ask for, want 128 of
/// them again, which have 1 MiB in packs of version 1, and half as many make room for those that come next.
const GROUPS_BYTES: u64 = 192 << 20;

/// What a group counts at least, so that there are never more than 768, which are looked through for the oldest.
const LEAST_GROUP_BYTES: u64 = 256 << 10;

/// Headers that are read at once: each holds up to three times 8 MiB for a moment, which are counted nowhere else.
const HEADERS_AT_ONCE: usize = 2;

/// A pack's length, and its header.
pub(crate) type Known = (u64, Arc<PackHeader>);

/// Headers and groups, each within a number of bytes.
#[derive(Debug)]
pub(crate) struct Packs {
    headers: Kept<(ProjectName, Stored), Known>,
    /// By BLAKE3 of the slice, against which they were checked, and bytes of it: the same content has other groups in
    /// packs of another version.
    groups: Kept<(ProjectName, Digest, ByteRange), Bytes>,
    reading: Semaphore,
}

impl Packs {
    pub(crate) fn new() -> Self {
        let reading = Semaphore::new(HEADERS_AT_ONCE);
        Self { headers: Kept::new(HEADERS_BYTES), groups: Kept::new(GROUPS_BYTES), reading }
    }

    /// Returns the header of a pack, of so many bytes as its manifest says.
    pub(crate) async fn header(
        &self,
        service: &Service,
        project: &ProjectName,
        pack: Stored,
        header_len: u64,
    ) -> Result<Known, Fault> {
        let len = header_len.min(MAX_PACK_HEADER_BYTES);
        let range = ByteRange::new(0, len).map_err(|error| Fault::new(FaultCode::Integrity, &error))?;
        let read = || async {
            let _turn = self.reading.acquire().await;
            let pack_len = len_of(service, project, pack, len).await?;
            let parsed = async || {
                let bytes = service.cache.read(project, ObjectKind::Pack, pack, range, pack_len).await?;
                Ok::<_, Fault>(service.ambient.computed(move || PackHeader::parse(pack.digest, &bytes)).await)
            };
            let mut header = parsed().await?;
            let newer = header.as_ref().is_err_and(PackError::is_newer);
            if header.is_err() && !newer && service.cache.forget(project, ObjectKind::Pack, pack, range).await {
                header = parsed().await?;
            }
            let header = header.map_err(|error| {
                let fault = damaged(pack, &error.to_string());
                if newer { Fault { code: FaultCode::NewerFormat, ..fault } } else { fault }
            })?;
            Ok((memory(&header), (pack_len, Arc::new(header))))
        };
        Ok(self.headers.get((project.clone(), pack), read).await?.0)
    }

    /// Returns a group of the slice of this BLAKE3 that is kept, or that `read` gives; tells whether it
    /// was read.
    pub(crate) async fn group<F>(
        &self,
        project: &ProjectName,
        slice: Digest,
        group: ByteRange,
        read: impl FnOnce() -> F,
    ) -> Result<(Bytes, bool), Fault>
    where
        F: Future<Output = Result<Bytes, Fault>>,
    {
        let counted = || async {
            // A part of a longer block would keep all of it in memory.
            let bytes = Bytes::copy_from_slice(&read().await?);
            Ok(((bytes.len() as u64).max(LEAST_GROUP_BYTES), bytes))
        };
        self.groups.get((project.clone(), slice, group), counted).await
    }
}

/// Returns the length of a pack that a manifest refers to, which should be `least` or more.
pub(crate) async fn len_of(service: &Service, project: &ProjectName, pack: Stored, least: u64) -> Result<u64, Fault> {
    let lost = || Fault {
        object: Some(pack.key(ObjectKind::Pack)),
        ..Fault::of(FaultCode::Lost, format!("integrity failure: pack {pack} is not in the store"))
    };
    service.cache.len(project, ObjectKind::Pack, pack, least).await?.ok_or_else(lost)
}

/// A pack that is not what its name or its manifest says.
pub(crate) fn damaged(pack: Stored, text: &str) -> Fault {
    Fault {
        object: Some(pack.key(ObjectKind::Pack)),
        ..Fault::of(FaultCode::Integrity, format!("pack {pack}: {text}"))
    }
}

/// Returns the memory of a parsed header: its text is as long as what is parsed out of it, and each slice has a few
/// allocations.
fn memory(header: &PackHeader) -> u64 {
    header.header_len() + header.entries().len() as u64 * size_of::<PackEntry>() as u64
}
