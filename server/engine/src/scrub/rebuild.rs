//! A pack's header made anew, from the rows of manifests that lie in the pack and from its data.
//!
//! A header says of each slice where it lies, its group values, and the lengths of its frames. Rows have the rest, data
//! have these. The pack's name is the BLAKE3 of its header: whatever is made here is the true header or is thrown away.
//! Must never return another header than that of the name.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::checkpoint::CheckpointRow;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::pack::codec::{Codec, MAX_FRAME_BYTES, decode_group, encode_group, frame_len};
use gigastore_formats::pack::{Coding, Frames, PackHeader, PackSlice, PackVersion};
use gigastore_formats::range::ByteRange;
use gigastore_formats::record::Sort;
use gigastore_formats::verified::StreamHasher;

use super::bodies::WINDOW_BYTES;
use super::copies::{Copies, Place};
use crate::engine::Engine;
use crate::log::State;
use crate::read::ReadError;
use crate::store::{StoreError, keys};

/// Content that is hashed as its groups come, and its frames where it is coded.
struct Gathered {
    logical: StreamHasher,
    stored: StreamHasher,
    frames: Frames,
}

impl Gathered {
    fn new(version: PackVersion) -> Self {
        let (logical, stored) = (StreamHasher::in_groups(version.group_bytes()), StreamHasher::default());
        Self { logical, stored, frames: Frames::default() }
    }

    fn frame(&mut self, frame: &[u8], group: &[u8]) {
        self.logical.update(group);
        self.stored.update(frame);
        self.frames.push(frame.len() as u64);
    }

    /// Returns the slice of a row, where this is its content.
    fn slice(self, row: &CheckpointRow) -> Option<PackSlice> {
        let tree = self.logical.finish();
        let coding = match row.place.codec {
            Codec::Raw => Coding::Raw,
            Codec::ZstdPlanes => Coding::ZstdPlanes { stored: self.stored.finish().root(), frames: self.frames },
        };
        let slice = PackSlice { slice: row.slice.clone(), tree, coding };
        let same = slice.tree.root() == row.blake3 && slice.stored_len() == row.place.stored_len;
        same.then_some(slice)
    }
}

impl Engine {
    /// Makes the header of a pack anew; `None` where a slice of it is in no live manifest, or its bytes are nowhere.
    pub(super) async fn rebuilt_header(
        &self,
        project: &ProjectName,
        state: &State,
        pack: &Stored,
        copies: &mut Copies,
    ) -> Result<Option<(PackHeader, Bytes)>, ReadError> {
        let key = keys::object(project, ObjectKind::Pack, pack);
        let rows = self.rows_in(project, state, pack).await?;
        // The version of the pack was written in the header.
        'versions: for version in PackVersion::ALL {
            let mut slices = Vec::new();
            for row in &rows {
                let found = match self.slice_in_place(version, &key, row).await? {
                    Some(slice) => Some(slice),
                    None => self.slice_of_copy(version, row, pack, copies).await?,
                };
                match found {
                    Some(slice) => slices.push(slice),
                    None => continue 'versions,
                }
            }
            let built = self.ambient.computed(move || PackHeader::build_as(version, slices)).await;
            if let Some(built) = built.ok().filter(|(header, _)| header.name() == pack.digest) {
                return Ok(Some(built));
            }
        }
        Ok(None)
    }

    /// Returns the rows of live checkpoints that lie in a pack, one for each place. Of several the oldest is taken: the
    /// pack was written for it, and has its names.
    async fn rows_in(
        &self,
        project: &ProjectName,
        state: &State,
        pack: &Stored,
    ) -> Result<Vec<CheckpointRow>, ReadError> {
        let live = state.names.values().flat_map(|named| named.live.values());
        let mut commits: Vec<_> = live.filter(|live| live.commit.sort == Sort::Checkpoint).collect();
        commits.sort_by_key(|live| live.seq);
        let mut rows: BTreeMap<(u64, u64, Digest, String), CheckpointRow> = BTreeMap::new();
        let mut taken: BTreeMap<u64, u64> = BTreeMap::new();
        for live in commits {
            // A manifest that can't be read is a finding of its own; others may have what this one has.
            let Ok(packs) = self.packs_of(project, &live.commit).await else { continue };
            if !packs.iter().any(|row| row.pack == *pack) {
                continue;
            }
            let Ok(manifest) = self.checkpoint(project, &live.commit).await else { continue };
            for row in manifest.rows.into_iter().filter(|row| row.place.pack == *pack) {
                let (start, len) = (row.place.offset, row.place.stored_len);
                // Slices without bytes share their place with others.
                if len == 0 || taken.get(&start).is_none_or(|seq| *seq == live.seq) {
                    taken.insert(start, live.seq);
                    rows.insert((start, len, row.blake3, row.slice.entry_name()), row);
                }
            }
        }
        Ok(rows.into_values().collect())
    }

    /// Reads a slice where it lies; `None` where its bytes are not what the row says.
    async fn slice_in_place(
        &self,
        version: PackVersion,
        key: &str,
        row: &CheckpointRow,
    ) -> Result<Option<PackSlice>, ReadError> {
        let end = row.place.offset.saturating_add(row.place.stored_len);
        let Ok(stored) = ByteRange::new(row.place.offset, end) else { return Ok(None) };
        let (mut gathered, mut waiting) = (Gathered::new(version), BytesMut::new());
        let (codec, dtype, mut left) = (row.place.codec, row.slice.dtype(), row.slice.bytes());
        for range in stored.cut(WINDOW_BYTES) {
            let bytes = match self.objects.get_range(key, range).await {
                Ok(bytes) => bytes,
                Err(StoreError::NotFound { .. } | StoreError::Short { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let last = range.end() == end;
            let taken = self.ambient.computed(move || {
                if codec == Codec::Raw {
                    gathered.logical.update(&bytes);
                    return Some((gathered, waiting, left));
                }
                waiting.extend_from_slice(&bytes);
                // A whole frame is there when the longest would be, or when no more bytes come.
                while left > 0 && !waiting.is_empty() && (last || waiting.len() as u64 >= MAX_FRAME_BYTES) {
                    let frame = waiting.split_to(usize::try_from(frame_len(&waiting).ok()?).ok()?);
                    let group = decode_group(&frame, dtype, left.min(version.group_bytes())).ok()?;
                    gathered.frame(&frame, &group);
                    left -= group.len() as u64;
                }
                Some((gathered, waiting, left))
            });
            match taken.await {
                Some(taken) => (gathered, waiting, left) = taken,
                None => return Ok(None),
            }
        }
        Ok(gathered.slice(row))
    }

    /// Makes a slice from the same content in another pack.
    async fn slice_of_copy(
        &self,
        version: PackVersion,
        row: &CheckpointRow,
        pack: &Stored,
        copies: &mut Copies,
    ) -> Result<Option<PackSlice>, ReadError> {
        for place in copies.slices(row.blake3, pack).await? {
            if let Some(slice) = self.coded_as(version, row, &place).await {
                return Ok(Some(slice));
            }
        }
        Ok(None)
    }

    async fn coded_as(&self, version: PackVersion, row: &CheckpointRow, place: &Place) -> Option<PackSlice> {
        let entry = place.entry.as_ref()?;
        if row.place.codec == Codec::Raw && entry.slice.tree.group_bytes() == version.group_bytes() {
            // Its group values are proven by the name of the other pack; no byte is needed.
            let slice = PackSlice { slice: row.slice.clone(), tree: entry.slice.tree.clone(), coding: Coding::Raw };
            return Some(slice);
        }
        // The other pack may have other groups.
        let (mut gathered, mut waiting) = (Gathered::new(version), BytesMut::new());
        let (codec, dtype, groups) = (row.place.codec, row.slice.dtype(), entry.slice.tree.groups());
        for window in entry.windows(WINDOW_BYTES) {
            let stored = place.store.objects.get_range(&place.key, entry.stored_groups(window.clone())).await.ok()?;
            let (entry, most) = (Arc::clone(entry), version.group_bytes() as usize);
            let taken = self.ambient.computed(move || {
                let last = window.end == groups;
                for (_, opened) in entry.open_groups(window, &stored) {
                    let opened = opened.ok()?;
                    match codec {
                        Codec::Raw => gathered.logical.update(&opened),
                        Codec::ZstdPlanes => waiting.extend_from_slice(&opened),
                    }
                }
                while waiting.len() >= most || (last && !waiting.is_empty()) {
                    let group = waiting.split_to(most.min(waiting.len()));
                    gathered.frame(&encode_group(dtype, &group), &group);
                }
                Some((gathered, waiting))
            });
            (gathered, waiting) = taken.await?;
        }
        gathered.slice(row)
    }
}
