//! True bytes over damaged ones: what is sound of an object stays, what is not comes from another place that holds it,
//! and all of it is checked against the object's name on the way.
//!
//! Must never put a byte into the store that does not verify, nor leave an object in a worse state than it was found.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::pack::codec::encode_group;
use gigastore_formats::pack::{Coding, PackCheck, PackEntry, PackFault, PackHeader};
use gigastore_formats::range::ByteRange;
use gigastore_formats::verified::{GroupTree, StreamCheck};
use gigastore_formats::wire::{Depth, Repair, VerifyRequest};

use super::bodies::WINDOW_BYTES;
use super::copies::{Copies, Place};
use super::pace::Meter;
use super::plan::{Holds, Item};
use crate::engine::Engine;
use crate::log::State;
use crate::read::ReadError;
use crate::store::{Body, BodyError, StoreError, keys};
use crate::upload::checked;

/// Windows of a file read at once: 32 MiB.
const WINDOWS_IN_FLIGHT: usize = 4;

/// Groups of a pack read at once: 4 MiB, 16 of version 1. A store's latency is longer than the transfer of one.
const GROUPS_IN_FLIGHT: usize = 16;

/// Where a header comes from that nobody has.
const MADE_ANEW: &str = "manifest rows and data";

/// What repairs of one project have in common.
pub(super) struct Mending<'a> {
    pub(super) project: &'a ProjectName,
    pub(super) state: &'a State,
    pub(super) copies: &'a mut Copies,
    /// Everything is done but the writing.
    pub(super) dry_run: bool,
    pub(super) meter: &'a Meter<'a>,
}

/// Why an object was not repaired.
#[derive(Debug, thiserror::Error)]
pub(super) enum RepairError {
    /// Nobody has the bytes.
    #[error(
        "no other true copy of {range} was found{troubles}; a scrub with --replica URL looks in a second store, too"
    )]
    NoCopy {
        /// The bytes.
        range: ByteRange,
        /// What kept copies from being looked at.
        troubles: String,
    },
    /// The header is damaged, and can't be had.
    #[error(
        "its header was found nowhere else, and can't be made anew: a slice of the pack is in no live manifest, or its \
         bytes are damaged too{troubles}"
    )]
    Header {
        /// What kept copies from being looked at.
        troubles: String,
    },
    /// Nothing needs the object any more, so that it may be condemned: to put it back would be to upload under a key
    /// that others delete.
    #[error("it was dropped meanwhile")]
    Dropped,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that is needed for it could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What an object is when it is right.
enum Whole {
    Pack { header: PackHeader, head: Bytes },
    File(GroupTree),
}

/// A part of an object that has one source.
#[derive(Clone, Copy)]
struct Piece {
    range: ByteRange,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Pad,
    Group { entry: usize, index: u64 },
    Window,
}

/// What is taken of a coded slice whose frames are found as they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Frames {
    /// The frames themselves.
    AsTheyAre,
    /// What they decode to, coded again: frames that decode to the right groups need not be those that were stored.
    CodedAgain,
}

/// A group can't be given the form that the damaged pack has.
#[derive(Debug, thiserror::Error)]
#[error("{range} of {place} can't be coded as the damaged pack has it")]
struct Uncoded {
    range: ByteRange,
    place: String,
}

impl Whole {
    /// Returns the parts of the object, without the header, in order.
    fn pieces(&self) -> Vec<Piece> {
        match self {
            Self::File(tree) => {
                let all = ByteRange::new(0, tree.len()).expect("0 is the smallest number");
                all.cut(WINDOW_BYTES).map(|range| Piece { range, what: What::Window }).collect()
            }
            Self::Pack { header, .. } => {
                let groups = header.entries().iter().enumerate().flat_map(|(entry, pack)| {
                    (0..pack.slice.tree.groups()).map(move |index| {
                        let range = pack.stored_groups(index..index + 1);
                        Piece { range, what: What::Group { entry, index } }
                    })
                });
                let pads = header.pads().iter().map(|range| Piece { range: *range, what: What::Pad });
                let mut pieces: Vec<Piece> = groups.chain(pads).collect();
                pieces.sort_by_key(|piece| piece.range);
                pieces
            }
        }
    }

    /// Reads a piece from a place, checks it, and gives it the form that it has in this object.
    async fn fetch(&self, piece: Piece, place: &Place, frames: Frames) -> Result<Bytes, BodyError> {
        let ambient = place.store.ambient();
        match (self, piece.what) {
            (Self::Pack { header, .. }, What::Group { entry, index }) => {
                let target = Arc::clone(&header.entries()[entry]);
                let source = place.entry.clone().unwrap_or_else(|| Arc::clone(&target));
                // A copy may lie in a pack of another version, whose groups are others.
                let groups = source.slice.tree.groups_of(target.slice.tree.group_range(index));
                let bytes = place.store.objects.get_range(&place.key, source.stored_groups(groups)).await?;
                let uncoded = Uncoded { range: piece.range, place: place.name() };
                let stored = ambient.computed(move || as_stored(&target, &source, index, bytes, frames)).await?;
                stored.ok_or_else(|| uncoded.into())
            }
            (Self::File(tree), What::Window) => {
                let bytes = place.store.objects.get_range(&place.key, piece.range).await?;
                let tree = tree.clone();
                let checked =
                    ambient.computed(move || tree.check_range(piece.range.start(), &bytes).map(|()| bytes)).await;
                Ok(checked?)
            }
            (_, What::Pad | What::Group { .. } | What::Window) => Ok(Bytes::from(vec![0; piece.range.len() as usize])),
        }
    }

    /// Returns how many of its pieces are read at once.
    fn in_flight(&self) -> usize {
        match self {
            Self::Pack { .. } => GROUPS_IN_FLIGHT,
            Self::File(_) => WINDOWS_IN_FLIGHT,
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Pack { header, .. } => header.object_len(),
            Self::File(tree) => tree.len(),
        }
    }
}

/// Checks the stored bytes of those groups of `source` that a group of `target` touches, and returns that group as
/// `target` stores it; `None` where they can't be given that form.
fn as_stored(
    target: &PackEntry,
    source: &PackEntry,
    index: u64,
    bytes: Bytes,
    frames: Frames,
) -> Result<Option<Bytes>, BodyError> {
    // Content of one short group is one group in any version.
    let same = target.slice.tree.group_range(index) == source.slice.tree.group_range(index);
    let logical = match same {
        true => source.open_group(index, &bytes)?,
        false => Cow::Owned(cut_out(target.slice.tree.group_range(index), source, &bytes)?),
    };
    Ok(match (&target.slice.coding, &source.slice.coding) {
        (Coding::Raw, Coding::Raw) if same => Some(bytes),
        (Coding::Raw, _) => Some(Bytes::from(logical.into_owned())),
        (coding, other) if same && coding == other && frames == Frames::AsTheyAre => Some(bytes),
        (Coding::ZstdPlanes { .. }, _) => {
            let frame = encode_group(target.slice.slice.dtype(), &logical);
            let len = target.stored_groups(index..index + 1).len();
            (frame.len() as u64 == len).then(|| Bytes::from(frame))
        }
    })
}

/// Checks the stored bytes of the groups that a range touches, and returns the range's own.
fn cut_out(range: ByteRange, source: &PackEntry, bytes: &[u8]) -> Result<Vec<u8>, PackFault> {
    let (groups, widened) = (source.slice.tree.groups_of(range), source.slice.tree.widened(range));
    let mut logical = Vec::new();
    for (_, opened) in source.open_groups(groups, bytes) {
        logical.extend_from_slice(&opened?);
    }
    logical.truncate((range.end() - widened.start()) as usize);
    Ok(logical.split_off((range.start() - widened.start()) as usize))
}

impl Engine {
    /// Puts a damaged pack or file right.
    pub(super) async fn repair(&self, mending: &mut Mending<'_>, item: &Item) -> Result<Repair, RepairError> {
        let mut from = BTreeSet::new();
        let whole = match &item.holds {
            Holds::File { tree, .. } => Whole::File(tree.clone()),
            Holds::Slices { header_len, .. } => self.true_pack(mending, &item.object, *header_len, &mut from).await?,
        };
        self.mend(mending, (item.kind, item.object), whole, from).await
    }

    /// Puts a damaged manifest, list of packs or timeline right.
    pub(super) async fn repair_manifest(
        &self,
        mending: &mut Mending<'_>,
        tree: GroupTree,
        object: Stored,
    ) -> Result<Repair, RepairError> {
        self.mend(mending, (ObjectKind::Manifest, object), Whole::File(tree), BTreeSet::new()).await
    }

    /// Finds the header of a pack, proven by its name: in place, in a copy of the pack, or made anew.
    async fn true_pack(
        &self,
        Mending { project, state, copies, .. }: &mut Mending<'_>,
        pack: &Stored,
        header_len: u64,
        from: &mut BTreeSet<String>,
    ) -> Result<Whole, RepairError> {
        let own = keys::object(project, ObjectKind::Pack, pack);
        let mut found = self.pack_header(&own, pack.digest, header_len).await?;
        if found.is_none() {
            for place in copies.wholes(ObjectKind::Pack, pack).await? {
                if let Some(header) = place.store.pack_header(&place.key, pack.digest, header_len).await? {
                    from.insert(place.name());
                    found = Some(header);
                    break;
                }
            }
        }
        if found.is_none() {
            found = self.rebuilt_header(project, state, pack, copies).await?;
            from.insert(MADE_ANEW.to_owned());
        }
        let missing = || RepairError::Header { troubles: copies.told_troubles() };
        let (header, head) = found.ok_or_else(missing)?;
        Ok(Whole::Pack { header, head })
    }

    /// Finds a source for every piece of an object, and writes it from these.
    async fn mend(
        &self,
        Mending { project, state, copies, dry_run, meter }: &mut Mending<'_>,
        (kind, object): (ObjectKind, Stored),
        whole: Whole,
        mut from: BTreeSet<String>,
    ) -> Result<Repair, RepairError> {
        let meter = *meter;
        let key = keys::object(project, kind, &object);
        let (own, whole) =
            (Place { store: self.clone(), key: key.clone(), entry: None, in_replica: false }, Arc::new(whole));
        let there = self.objects.len(&key).await?.unwrap_or_default();
        let mut sources: Vec<(Piece, Place)> = Vec::new();
        let mut looked = futures::stream::iter(whole.pieces())
            .map(|piece| {
                let (whole, own) = (&whole, &own);
                async move {
                    let sound = piece.range.end() <= there && whole.fetch(piece, own, Frames::AsTheyAre).await.is_ok();
                    meter.wait(piece.range.len()).await;
                    (piece, sound || matches!(piece.what, What::Pad))
                }
            })
            .buffered(whole.in_flight());
        let mut lost = 0;
        while let Some((piece, sound)) = looked.next().await {
            let place = if sound {
                own.clone()
            } else {
                lost += piece.range.len();
                let place = self.source_of(&whole, piece, (kind, object), copies).await?;
                from.insert(place.name());
                place
            };
            sources.push((piece, place));
        }
        drop(looked);
        if let (Whole::Pack { head, .. }, false) = (&*whole, from.is_empty()) {
            let in_place = self.pack_header(&key, object.digest, head.len() as u64).await?.is_some();
            lost += if in_place { 0 } else { head.len() as u64 };
        }
        // All of it is looked at before a byte is written: where the frames as they are do not make the pack, those
        // coded again may.
        let mut frames = Frames::AsTheyAre;
        if self.checked_through(&key, &whole, &sources, frames).await.is_err() {
            frames = Frames::CodedAgain;
            self.checked_through(&key, &whole, &sources, frames).await?;
        }
        if !*dry_run {
            let all = VerifyRequest { project: project.clone(), name: None, number: None, depth: Depth::Quick };
            if !self.needed_since(&all, state).await?.has(&key) {
                return Err(RepairError::Dropped);
            }
            let pieces = self.true_bytes(&whole, sources, frames);
            self.objects.replace(&key, Body::Stream { len: whole.len(), pieces }).await?;
        }
        Ok(Repair { object: key, bytes: lost, from: from.into_iter().collect() })
    }

    /// Finds a place from which a damaged piece can be had.
    async fn source_of(
        &self,
        whole: &Whole,
        piece: Piece,
        (kind, object): (ObjectKind, Stored),
        copies: &mut Copies,
    ) -> Result<Place, RepairError> {
        let mut places = copies.wholes(kind, &object).await?;
        if let (Whole::Pack { header, .. }, What::Group { entry, .. }) = (whole, piece.what) {
            places.extend(copies.slices(header.entries()[entry].slice.tree.root(), &object).await?);
        }
        for place in places {
            match whole.fetch(piece, &place, Frames::AsTheyAre).await {
                Ok(_) => return Ok(place),
                Err(error) => copies.troubles.push(error.to_string()),
            }
        }
        Err(RepairError::NoCopy { range: piece.range, troubles: copies.told_troubles() })
    }

    /// Reads all bytes of an object from their sources, and says whether they make it.
    async fn checked_through(
        &self,
        key: &str,
        whole: &Arc<Whole>,
        sources: &[(Piece, Place)],
        frames: Frames,
    ) -> Result<(), StoreError> {
        let pieces = self.true_bytes(whole, sources.to_vec(), frames);
        let read = pieces.try_for_each(|_| std::future::ready(Ok(()))).await;
        read.map_err(|source| StoreError::Body { key: key.to_owned(), source })
    }

    /// Returns all bytes of an object from their sources, checked as one stream.
    fn true_bytes(
        &self,
        whole: &Arc<Whole>,
        sources: Vec<(Piece, Place)>,
        frames: Frames,
    ) -> BoxStream<'static, Result<Bytes, BodyError>> {
        let of = Arc::clone(whole);
        let fetched = futures::stream::iter(sources).map(move |(piece, place)| {
            let whole = Arc::clone(&of);
            async move { whole.fetch(piece, &place, frames).await }
        });
        let body = fetched.buffered(whole.in_flight()).boxed();
        let ambient = Arc::clone(&self.ambient);
        match &**whole {
            Whole::File(tree) => checked(StreamCheck::new(tree.clone()), body, ambient).boxed(),
            Whole::Pack { header, head } => {
                let head = futures::stream::once(std::future::ready(Ok(head.clone())));
                head.chain(checked(PackCheck::new(header.clone()), body, ambient)).boxed()
            }
        }
    }
}
