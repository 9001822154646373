//! From what ranks say of their slices to where the slices really lie: every pack that a checkpoint refers to is looked
//! at before the commit.
//!
//! Must never take a rank's word for it: a pack's header is read, proven by the pack's name, and each slice found in
//! it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::digest::Digest;
use gigastore_formats::limits::MAX_PACK_HEADER_BYTES;
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::pack::{PackError, PackHeader};
use gigastore_formats::range::ByteRange;
use gigastore_formats::tensor::slice::{Place, SliceRow};

use crate::commit::{CommitError, Needs};
use crate::engine::Engine;
use crate::join::Merged;
use crate::log::State;
use crate::read::ReadError;
use crate::store::{StoreError, keys};

/// Pack headers read at once: some 10 KiB each, 8 MiB at most.
const HEADERS_IN_FLIGHT: usize = 16;

/// Slices that an error names one by one.
const SLICES_NAMED: usize = 8;

/// The rows of a checkpoint with their places.
pub(crate) struct Placed {
    /// Rows, in the order of the manifest.
    pub(crate) rows: Vec<SliceRow<Place<Stored>>>,
    /// Header length and length of each pack.
    pub(crate) packs: BTreeMap<Stored, (u64, u64)>,
    /// What must hold for the packs to stay.
    pub(crate) needs: Needs,
}

/// What live commits keep.
struct Kept {
    packs: HashMap<Digest, Stored>,
    needs: Needs,
    /// Why the list of packs of one of them can't be used.
    unread: Option<ReadError>,
}

/// A pack that is in the store, sound in its length and header.
struct Found {
    object: Stored,
    header_len: u64,
    len: u64,
}

/// Why slices are not where ranks say.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Slices whose bytes are not in the store.
    #[error("{count} slices are not in the store ({slices}): save again, only what is missing is sent")]
    Missing {
        /// How many.
        count: usize,
        /// The first of them.
        slices: String,
    },
    /// A pack's header is not that of its name.
    #[error("pack {key} is damaged")]
    Header {
        /// The pack's key.
        key: String,
        /// What is wrong with it.
        #[source]
        source: PackError,
    },
    /// A pack is shorter or longer than its header says.
    #[error("pack {key} is damaged: expected {expected} bytes, actual {actual}")]
    Length {
        /// The pack's key.
        key: String,
        /// Its bytes by its header.
        expected: u64,
        /// Its bytes in the store.
        actual: u64,
    },
    /// A pack does not have the slice that a rank says it has.
    #[error(
        "pack {key} has no slice with BLAKE3 {blake3} at byte {offset}, where {slice} should lie: the part of its \
         rank is wrong"
    )]
    Slice {
        /// The pack's key.
        key: String,
        /// The slice.
        slice: String,
        /// Where it should lie.
        offset: u64,
        /// Its digest.
        blake3: Digest,
    },
}

impl Engine {
    /// Finds the packs of all rows, and checks them.
    pub(crate) async fn place(
        &self,
        project: &ProjectName,
        state: &State,
        run: &Name,
        merged: Merged,
    ) -> Result<Placed, CommitError> {
        let mut by_pack: BTreeMap<Digest, Vec<usize>> = BTreeMap::new();
        let mut unplaced = Vec::new();
        for (i, row) in merged.rows.iter().enumerate() {
            match &row.place {
                Some(place) => by_pack.entry(place.pack).or_default().push(i),
                None => unplaced.push(i),
            }
        }
        if !unplaced.is_empty() {
            return Err(missing(&merged.rows, &unplaced).into());
        }
        let Kept { packs: kept, mut needs, unread } = self.kept_by(project, state, run, &merged.bases).await?;
        let rows = merged.rows.as_slice();
        let marked = self.marked(project).await?;
        let mut searches = Vec::with_capacity(by_pack.len());
        for (pack, members) in &by_pack {
            let mut candidates: Vec<Stored> = kept.get(pack).copied().into_iter().collect();
            candidates.extend(usable_epochs(state).map(|epoch| Stored { digest: *pack, epoch }));
            candidates.retain(|stored| !marked.contains(&(ObjectKind::Pack, *stored)));
            searches.push((*pack, candidates, members.clone()));
        }
        let found: Vec<(Digest, Option<Found>)> = futures::stream::iter(searches)
            .map(|(pack, candidates, members)| async move {
                Ok::<_, CommitError>((pack, self.find_pack(project, candidates, rows, &members).await?))
            })
            .buffer_unordered(HEADERS_IN_FLIGHT)
            .try_collect()
            .await?;
        let mut packs = BTreeMap::new();
        let mut stored = HashMap::new();
        for (pack, found) in found {
            let Some(Found { object, header_len, len }) = found else {
                let missing = || missing(&merged.rows, &by_pack[&pack]).into();
                return Err(unread.map_or_else(missing, CommitError::from));
            };
            packs.insert(object, (header_len, len));
            stored.insert(pack, object);
            // What a base keeps is its own object; the same pack in another epoch is kept by nobody yet.
            if kept.get(&pack) != Some(&object) {
                needs.oldest = Some(needs.oldest.map_or(object.epoch, |oldest| oldest.min(object.epoch)));
            }
        }
        self.keep_names(project, ObjectKind::Pack, packs.keys().copied()).await?;
        let rows = merged.rows.into_iter().filter_map(|row| {
            let Place { pack, header_len, offset, stored_len, codec } = row.place?;
            let place = Place { pack: stored[&pack], header_len, offset, stored_len, codec };
            Some(SliceRow { slice: row.slice, blake3: row.blake3, place })
        });
        Ok(Placed { rows: rows.collect(), packs, needs })
    }

    /// Returns the packs that live commits of `bases` keep, and those commits. A list of packs that can't be used is no
    /// error yet: the packs may be found without it.
    async fn kept_by(
        &self,
        project: &ProjectName,
        state: &State,
        run: &Name,
        bases: &BTreeSet<u64>,
    ) -> Result<Kept, CommitError> {
        let mut kept = Kept { packs: HashMap::new(), needs: Needs::default(), unread: None };
        for base in bases {
            let Some(live) = state.live(run, *base) else { continue };
            match self.packs_of(project, &live.commit).await {
                Ok(rows) => {
                    kept.packs.extend(rows.into_iter().map(|row| (row.pack.digest, row.pack)));
                    kept.needs.bases.insert((*base, live.seq));
                }
                Err(
                    error @ (ReadError::Lost { .. }
                    | ReadError::Damaged { .. }
                    | ReadError::Length { .. }
                    | ReadError::Index { .. }
                    | ReadError::Manifest { .. }),
                ) => kept.unread = Some(error),
                Err(error @ (ReadError::NotFound { .. } | ReadError::Log(_) | ReadError::Store(_))) => {
                    return Err(error.into());
                }
            }
        }
        Ok(kept)
    }

    /// Looks for a pack under each name it may have; checks its length, its header and the slices in it.
    async fn find_pack(
        &self,
        project: &ProjectName,
        candidates: Vec<Stored>,
        rows: &[SliceRow<Option<Place<Digest>>>],
        members: &[usize],
    ) -> Result<Option<Found>, CommitError> {
        let header_len = members.iter().filter_map(|i| rows[*i].place.as_ref()).map(|place| place.header_len).max();
        let header_len = header_len.unwrap_or_default().min(MAX_PACK_HEADER_BYTES);
        for stored in candidates {
            let key = keys::object(project, ObjectKind::Pack, &stored);
            let range = ByteRange::new(0, header_len).expect("0 is the smallest number");
            let (bytes, actual) = match self.objects.get_range_and_len(&key, range).await {
                Ok(found) => found,
                Err(StoreError::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let parsed = self.ambient.computed(move || PackHeader::parse(stored.digest, &bytes)).await;
            let header = parsed.map_err(|source| PlaceError::Header { key: key.clone(), source })?;
            if header.object_len() != actual {
                return Err(PlaceError::Length { key, expected: header.object_len(), actual }.into());
            }
            check_members(&key, &header, members.iter().map(|i| &rows[*i]))?;
            let (header_len, len) = (header.header_len(), header.object_len());
            return Ok(Some(Found { object: stored, header_len, len }));
        }
        Ok(None)
    }
}

/// Epochs in which an object may have been uploaded and still be safe: the newest first.
fn usable_epochs(state: &State) -> impl Iterator<Item = u64> + use<> {
    [Some(state.epoch), state.epoch.checked_sub(1)].into_iter().flatten()
}

/// Checks that each row's slice lies in the pack where the row says.
fn check_members<'r>(
    key: &str,
    header: &PackHeader,
    members: impl Iterator<Item = &'r SliceRow<Option<Place<Digest>>>>,
) -> Result<(), PlaceError> {
    let by_offset: HashMap<(u64, Digest), _> =
        header.entries().iter().map(|entry| ((entry.stored.start(), entry.slice.tree.root()), entry)).collect();
    for row in members {
        let Some(place) = &row.place else { continue };
        let fits = by_offset.get(&(place.offset, row.blake3)).is_some_and(|entry| {
            entry.stored.len() == place.stored_len
                && entry.slice.coding.codec() == place.codec
                && entry.slice.tree.len() == row.slice.bytes()
                && header.header_len() == place.header_len
        });
        if !fits {
            let (slice, offset, blake3) = (row.slice.to_string(), place.offset, row.blake3);
            return Err(PlaceError::Slice { key: key.to_owned(), slice, offset, blake3 });
        }
    }
    Ok(())
}

fn missing<L>(rows: &[SliceRow<L>], which: &[usize]) -> PlaceError {
    let named: Vec<String> = which.iter().take(SLICES_NAMED).map(|i| rows[*i].slice.to_string()).collect();
    let more = if which.len() > SLICES_NAMED { ", …" } else { "" };
    PlaceError::Missing { count: which.len(), slices: format!("{}{more}", named.join(", ")) }
}
