//! Packs out: slices are loaded, hashed, coded and sent, as many at once as get their turns and the budget holds.
//!
//! A pack of files that fits in memory is read once, hashed in the buffer it is sent from, and so can't change between
//! the two. A longer one (most often one slice above [`LOAD_BYTES`]) is read twice, and checked again as it passes the
//! second time, as is memory that somebody else may write to (`watched.rs`). Must never send a pack that is in the
//! store.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use gigastore_formats::digest::Digest;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::pack::{Coding, PackEntry, PackError, PackHeader, PackSlice};
use gigastore_formats::tensor::slice::{Codec, Place, SliceId, SliceRow};
use gigastore_formats::timeline::Phase;
use gigastore_formats::verified::{GroupTree, StreamHasher};
use gigastore_formats::wire::Fault;

use super::buffer::BufferPool;
use super::coding::{Compressor, Decided};
use super::encode::{coded, raw};
use super::hash::{marked_trees, trees};
use super::phases::Phases;
use super::progress::Progress;
use super::source::{SliceData, SourceError};
use super::watched::{COPIES_BYTES, Changed, Loaded, Part, Watch, body, with_pads};
use crate::store::Store;
use crate::transport::{PackBytes, Pieces, UploadError};

/// Packs up to this length are held in memory while they are hashed and sent, where it is no more than half of the
/// budget: 256 MiB. A pack of the usual size is held in any case.
const LOAD_BYTES: u64 = 256 << 20;

/// Bytes read at once of a longer slice: thirty-two groups.
const PIECE_BYTES: u64 = 8 << 20;

/// Why a pack was not stored.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The source did not give its bytes.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is no memory for the pack.
    #[error("no memory for a pack of {bytes} bytes: set a smaller budget or pack size")]
    Memory {
        /// Its bytes.
        bytes: u64,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The slices do not make a pack.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The store refused it.
    #[error(transparent)]
    Store(#[from] Fault),
}

/// What packs are written with.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) store: Store,
    pub(crate) project: ProjectName,
    pub(crate) epoch: u64,
    /// Bytes that packs of several slices have.
    pub(crate) pack_bytes: u64,
    pub(crate) compressor: Compressor,
    pub(crate) pool: BufferPool,
    /// Copies of groups that are on their way.
    pub(crate) groups: BufferPool,
    pub(crate) progress: Progress,
    pub(crate) phases: Phases,
}

/// A row of a part.
pub(crate) type PartRow = SliceRow<Option<Place<Digest>>>;

impl Writer {
    /// Stores one pack of slices. `known` gives the place of content that the store has already; such slices are not
    /// sent.
    pub(crate) async fn pack(
        &self,
        slices: Vec<(SliceId, SliceData)>,
        known: &(dyn Fn(Digest, u64) -> Option<Place<Digest>> + Send + Sync),
    ) -> Result<Vec<PartRow>, WriteError> {
        let bytes: u64 = slices.iter().map(|(_, data)| data.len()).sum();
        let _taken = self.store.budget.take(self.held(&slices)).await;
        let rows = if bytes <= self.load_bytes() {
            self.loaded(slices, bytes, known).await?
        } else {
            // The plan puts only single slices into packs of more than the target.
            let mut rows = Vec::with_capacity(slices.len());
            for (slice, data) in slices {
                rows.push(self.streamed(slice, data, known).await?);
            }
            rows
        };
        self.progress.done(bytes);
        Ok(rows)
    }

    /// Returns the bytes that a pack of these slices takes of our memory on its way.
    fn held(&self, slices: &[(SliceId, SliceData)]) -> u64 {
        let bytes = |of: fn(&SliceData) -> bool| -> u64 {
            slices.iter().filter(|(_, data)| of(data)).map(|(_, data)| data.len()).sum()
        };
        let (all, files) = (bytes(|_| true), bytes(|data| matches!(data, SliceData::File(_))));
        let shared = bytes(|data| matches!(data, SliceData::Shared(_)));
        if files > 0 && all > self.load_bytes() {
            return all.min(2 * LOAD_BYTES);
        }
        if self.compressor.codes() {
            // What is not in memory of ours is copied, and coded beside that.
            return files + shared + all;
        }
        files + if shared > 0 { all.min(COPIES_BYTES) } else { 0 }
    }

    /// Returns the length up to which packs are held in memory.
    fn load_bytes(&self) -> u64 {
        LOAD_BYTES.min((self.store.budget.bytes() / 2).max(self.pack_bytes))
    }

    /// Hashes slices without sending any.
    pub(crate) async fn hash(&self, slices: &[(SliceId, SliceData)]) -> Result<Vec<Digest>, WriteError> {
        let bytes: u64 = slices.iter().map(|(_, data)| data.len()).sum();
        let _taken = self.store.budget.take(bytes.min(self.load_bytes())).await;
        let mut digests = Vec::with_capacity(slices.len());
        if bytes <= self.load_bytes() {
            digests.extend(self.load(slices, bytes).await?.iter().map(|one| one.tree.root()));
        } else {
            for (_, data) in slices {
                let tree = self.phases.timed(Phase::Hash, data.len(), self.tree(data)).await?;
                digests.push(tree.root());
            }
        }
        self.progress.done(bytes);
        Ok(digests)
    }

    async fn loaded(
        &self,
        slices: Vec<(SliceId, SliceData)>,
        bytes: u64,
        known: &(dyn Fn(Digest, u64) -> Option<Place<Digest>> + Send + Sync),
    ) -> Result<Vec<PartRow>, WriteError> {
        let loaded = self.load(&slices, bytes).await?;
        let mut rows = Vec::with_capacity(slices.len());
        let mut sent = Vec::new();
        for ((slice, _), Loaded { content, tree, watch }) in slices.into_iter().zip(loaded) {
            match known(tree.root(), tree.len()) {
                Some(place) => rows.push(SliceRow { slice, blake3: tree.root(), place: Some(place) }),
                None => sent.push((slice, tree, Part::new(content, watch))),
            }
        }
        if sent.is_empty() {
            return Ok(rows);
        }
        let begin = self.store.ambient.monotonic();
        let mut decided = self.compressor.decide().await;
        let (packed, stored): (Vec<PackSlice>, Vec<Vec<Part>>) = match decided.code {
            true => {
                let bytes = sent.iter().map(|(_, tree, _)| tree.len()).sum();
                let coding =
                    join_all(sent.into_iter().map(|(slice, tree, part)| coded(&self.store.ambient, slice, tree, part)));
                let coded = coding.await.into_iter().unzip();
                // With the wait for a turn, which is why the save took so long.
                self.phases.took(Phase::Code, bytes, begin);
                coded
            }
            false => sent.into_iter().map(|(slice, tree, part)| raw(slice, tree, part)).unzip(),
        };
        let is_coded = |one: &&PackSlice| one.coding.codec() != Codec::Raw;
        decided.coded(packed.iter().filter(is_coded).map(|one| one.tree.len()).sum());
        // The header has its slices in its own order; so must the bytes.
        let mut order: Vec<usize> = (0..packed.len()).collect();
        order.sort_by(|a, b| packed[*a].slice.order().cmp(&packed[*b].slice.order()));
        let (header, head) = PackHeader::build(packed)?;
        let body = order.iter().map(|i| stored[*i].clone()).collect();
        self.put_parts(&header, head, with_pads(&header, body), &decided).await?;
        rows.extend(rows_of(&header));
        Ok(rows)
    }

    /// Hashes slices: those in files once they were read into one buffer, those in memory where they lie, with marks
    /// where somebody else may write there.
    async fn load(&self, slices: &[(SliceId, SliceData)], bytes: u64) -> Result<Vec<Loaded>, WriteError> {
        // What is coded is read more than once, so that a copy is looked at in any case.
        let copies = self.compressor.codes();
        let stays = move |data: &SliceData| match data {
            SliceData::Memory(_) => true,
            SliceData::Shared(_) => !copies,
            SliceData::File(_) => false,
        };
        let needed: u64 = slices.iter().filter(|(_, data)| !stays(data)).map(|(_, data)| data.len()).sum();
        let sources: Vec<SliceData> = slices.iter().map(|(_, data)| data.clone()).collect();
        let (pool, begin) = (self.pool.clone(), self.store.ambient.monotonic());
        let read = self.store.ambient.computed(move || {
            let memory = |source| WriteError::Memory { bytes, source };
            let mut buffer = pool.take(needed as usize).map_err(memory)?;
            let mut free = buffer.as_mut();
            for data in sources.iter().filter(|data| !stays(data)) {
                let (part, rest) = free.split_at_mut(data.len() as usize);
                data.read_at(0, part)?;
                free = rest;
            }
            let mut loaded = buffer.freeze();
            let contents = sources.into_iter().map(|data| match data {
                SliceData::Shared(bytes) if !copies => (bytes, true),
                SliceData::Memory(bytes) => (bytes, false),
                SliceData::Shared(_) | SliceData::File(_) => (loaded.split_to(data.len() as usize), false),
            });
            Ok::<Vec<(Bytes, bool)>, WriteError>(contents.collect())
        });
        let read = read.await?;
        if needed > 0 {
            self.phases.took(Phase::Stage, needed, begin);
        }
        let of = |shared| read.iter().filter(move |(_, is)| *is == shared).map(|(content, _)| content.clone());
        let (own, shared): (Vec<Bytes>, Vec<Bytes>) = (of(false).collect(), of(true).collect());
        let ambient = &*self.store.ambient;
        let turn = self.store.turns.hash.acquire().await;
        let hashing = futures::future::join(trees(ambient, &own), marked_trees(ambient, &shared));
        let (own, shared) = self.phases.timed(Phase::Hash, bytes, hashing).await;
        drop(turn);
        let (mut own, mut shared) = (own.into_iter(), shared.into_iter());
        let hashed = read.into_iter().map(|(content, is_shared)| match is_shared {
            true => shared.next().map(|(tree, marks)| (content, tree, Some(marks))),
            false => own.next().map(|tree| (content, tree, None)),
        });
        let loaded = hashed.zip(slices).map(|(hashed, (slice, _))| {
            let (content, tree, marks) = hashed.expect("each content was hashed once");
            Loaded { content, tree, watch: marks.map(|marks| Watch::new(slice, marks)) }
        });
        Ok(loaded.collect())
    }

    /// Stores a slice too long for memory as a pack of its own, raw: it is read once to be hashed, once to be sent.
    async fn streamed(
        &self,
        slice: SliceId,
        data: SliceData,
        known: &(dyn Fn(Digest, u64) -> Option<Place<Digest>> + Send + Sync),
    ) -> Result<PartRow, WriteError> {
        let mut marks = None;
        // One that is read from a file piece after piece takes no more than a core.
        let turn = match &data {
            SliceData::File(_) => None,
            SliceData::Memory(_) | SliceData::Shared(_) => Some(self.store.turns.hash.acquire().await),
        };
        let hashing = async {
            if let SliceData::Shared(bytes) = &data {
                let marked = marked_trees(&*self.store.ambient, std::slice::from_ref(bytes)).await;
                let (tree, of_groups) = marked.into_iter().next().expect("one content has one tree");
                marks = Some(of_groups);
                return Ok(tree);
            }
            self.tree(&data).await
        };
        let tree = self.phases.timed(Phase::Hash, data.len(), hashing).await?;
        drop(turn);
        if let Some(place) = known(tree.root(), tree.len()) {
            return Ok(SliceRow { slice, blake3: tree.root(), place: Some(place) });
        }
        let decided = self.compressor.raw();
        let watch = marks.map(|marks| Watch::new(&slice, marks));
        let (header, head) = PackHeader::build(vec![PackSlice { slice, tree, coding: Coding::Raw }])?;
        match data {
            SliceData::Memory(bytes) | SliceData::Shared(bytes) => {
                let parts = with_pads(&header, vec![vec![Part::new(bytes, watch)]]);
                self.put_parts(&header, head, parts, &decided).await?;
            }
            SliceData::File(_) => self.put(&header, head, PackBytes::Reread(self.pieces(data)), &decided).await?,
        }
        Ok(rows_of(&header).pop().expect("a pack of one slice has one row"))
    }

    /// Hashes content piece after piece, or in place where it is in memory.
    pub(crate) async fn tree(&self, data: &SliceData) -> Result<GroupTree, WriteError> {
        if let SliceData::Memory(bytes) = data {
            let mut trees = trees(&*self.store.ambient, std::slice::from_ref(bytes)).await;
            return Ok(trees.pop().expect("one content has one tree"));
        }
        let mut pieces = self.read_pieces(data.clone());
        let mut hasher = StreamHasher::default();
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            let update = move || {
                hasher.update(&piece);
                hasher
            };
            hasher = self.store.ambient.computed(update).await;
        }
        Ok(hasher.finish())
    }

    /// Returns data as an upload reads it, any number of times.
    fn pieces(&self, data: SliceData) -> Pieces {
        let writer = self.clone();
        let boxed = |error| -> UploadError { Box::new(error) };
        Pieces::new(move || writer.read_pieces(data.clone()).map_err(boxed).boxed())
    }

    /// Reads data piece after piece.
    fn read_pieces(&self, data: SliceData) -> BoxStream<'static, Result<Bytes, WriteError>> {
        let (pool, ambient) = (self.pool.clone(), self.store.ambient.clone());
        let starts = futures::stream::iter((0..data.len()).step_by(PIECE_BYTES as usize));
        let read = starts.then(move |start| {
            let (pool, data) = (pool.clone(), data.clone());
            let ambient = ambient.clone();
            async move {
                let read = ambient.computed(move || {
                    let bytes = (data.len() - start).min(PIECE_BYTES);
                    let memory = |source| WriteError::Memory { bytes, source };
                    let mut buffer = pool.take(bytes as usize).map_err(memory)?;
                    data.read_at(start, buffer.as_mut())?;
                    Ok(buffer.freeze())
                });
                read.await
            }
        });
        read.boxed()
    }

    /// Sends a pack of these parts; fails where memory of somebody else is not any more what was hashed.
    async fn put_parts(
        &self,
        header: &PackHeader,
        head: Bytes,
        parts: Vec<Part>,
        decided: &Decided,
    ) -> Result<(), WriteError> {
        let changed = Changed::default();
        let bytes = body(parts, &self.groups, &changed);
        let sent = self.put(header, head, bytes, decided).await;
        sent.map_err(|error| changed.error().map_or(error, WriteError::Source))
    }

    /// Sends a pack, unless it is there under an epoch that keeps it.
    async fn put(
        &self,
        header: &PackHeader,
        head: Bytes,
        bytes: PackBytes,
        decided: &Decided,
    ) -> Result<(), WriteError> {
        let named = |epoch| Stored { digest: header.name(), epoch };
        let mut candidates = vec![named(self.epoch)];
        candidates.extend(self.epoch.checked_sub(1).map(named));
        let transport = &self.store.transport;
        let asked = transport.lengths(&self.project, ObjectKind::Pack, &candidates);
        let lengths = self.phases.timed(Phase::Exists, 0, asked).await?;
        if lengths.contains(&Some(header.object_len())) {
            decided.sent(header.object_len());
            return Ok(());
        }
        let sent = async {
            let _turn = self.store.turns.send.acquire().await;
            transport.put_pack(&self.project, named(self.epoch), head, bytes).await
        };
        self.phases.timed(Phase::Upload, header.object_len(), sent).await?;
        decided.sent(header.object_len());
        self.progress.moved(header.object_len());
        Ok(())
    }

    /// Sends a local file as a dataset file, checked against `tree` as it is read again. Returns its name in the store.
    pub(crate) async fn blob(&self, tree: GroupTree, data: SliceData) -> Result<Stored, WriteError> {
        let len = tree.len();
        let _taken = self.store.budget.take(len.min(4 * PIECE_BYTES)).await;
        let stored = self.store.transport.put_blob(&self.project, self.epoch, tree, self.pieces(data)).await?;
        self.progress.moved(len);
        Ok(stored)
    }
}

fn rows_of(header: &PackHeader) -> Vec<PartRow> {
    let row = |entry: &Arc<PackEntry>| SliceRow {
        slice: entry.slice.slice.clone(),
        blake3: entry.slice.tree.root(),
        place: Some(Place {
            pack: header.name(),
            header_len: header.header_len(),
            offset: entry.stored.start(),
            stored_len: entry.stored.len(),
            codec: entry.slice.coding.codec(),
        }),
    };
    header.entries().iter().map(row).collect()
}
