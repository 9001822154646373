//! Saving: begin, one call for each rank, finish. Ranks may be in one process or in many; none waits for another until
//! finish.
//!
//! Everything may be run again after a crash: what is in the store is found by its digest and not sent again. Must
//! never make anything visible before finish.

mod error;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::digest::{Digest, hex};
use gigastore_formats::limits::{MAX_SLICE_BYTES, MAX_USER_METADATA_BYTES, PACK_TARGET_BYTES};
use gigastore_formats::manifest::part::{PartMeta, write_part};
use gigastore_formats::manifest::{Cursors, check_cursors};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::pack::plan_packs;
use gigastore_formats::record::TxnId;
use gigastore_formats::tensor::slice::{SliceId, SliceRow};
use gigastore_formats::timeline::Phase;
use gigastore_formats::wire::{Committed, FaultCode, FinishRequest, SaveRequest, Session};

use super::known::Known;
use crate::store::Store;
use crate::transfer::buffer::BufferPool;
use crate::transfer::coding::{Compression, Compressor};
use crate::transfer::phases::Phases;
use crate::transfer::progress::Progress;
use crate::transfer::source::SliceData;
use crate::transfer::watched::COPIES_KEPT;
use crate::transfer::write::{PartRow, Writer};

pub use error::SaveError;

/// Packs of one rank that are worked on at once, where the budget has room for what they take of our memory. Twelve:
/// eight that are sent, and four that are hashed or wait for their turn.
const PACKS_IN_FLIGHT: usize = 12;

/// A slice to be saved.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Which box of which tensor.
    pub id: SliceId,
    /// Its bytes, row-major.
    pub data: SliceData,
    /// All ranks that hold the same box with the same bytes, this one included; empty where only this one does. One of
    /// them, chosen by hash, sends the bytes; the others only prove that theirs are the same.
    pub replicas: Vec<u32>,
}

/// What is saved, and how.
#[derive(Clone, Debug)]
pub struct SaveSpec {
    /// The project.
    pub project: ProjectName,
    /// The run.
    pub run: Name,
    /// The step.
    pub step: u64,
    /// Ranks that take part.
    pub world_size: u32,
    /// What tells this attempt from others at the same step; the same on every rank, and another after a restart of the
    /// job. `None`: drawn at random, for saves of one process.
    pub attempt: Option<String>,
    /// User metadata; ranks that give the same key must give the same value.
    pub metadata: BTreeMap<String, String>,
    /// Where this process's data streams are, by the streams' names (such as `data`, each of the form of a [`Name`]),
    /// committed in the same record. Each rank gives what it saw itself, and these add up; ranks must be at the same
    /// place. Of ranks that read the same data, as those of one tensor-parallel group, only one gives cursors. Where
    /// one process saves several ranks, the part of the rank that it saves first has them, for all.
    pub cursors: Cursors,
    /// A tag to set in the same record.
    pub tag: Option<Name>,
    /// Whether slices are stored compressed where that makes them at least 5 % smaller.
    pub compress: Compression,
    /// Pack size to aim at, in bytes.
    pub pack_bytes: u64,
    /// Whether content of the run's latest checkpoint is referred to instead of sent again.
    pub dedup: bool,
    /// How long finish waits for other ranks.
    pub deadline: Duration,
}

impl SaveSpec {
    /// Returns the spec of a save by `world_size` ranks, with everything else at its default.
    pub fn new(project: ProjectName, run: Name, step: u64, world_size: u32) -> Self {
        Self {
            project,
            run,
            step,
            world_size,
            attempt: None,
            metadata: BTreeMap::new(),
            cursors: Cursors::new(),
            tag: None,
            compress: Compression::Off,
            pack_bytes: PACK_TARGET_BYTES,
            dedup: true,
            deadline: Duration::from_secs(600),
        }
    }
}

/// A save in progress.
#[derive(Debug)]
pub struct CheckpointSave {
    pub(super) store: Store,
    pub(super) request: SaveRequest,
    pub(super) session: Session,
    pub(super) spec: SaveSpec,
    pool: BufferPool,
    groups: BufferPool,
    progress: Progress,
    /// What each rank of this process has delivered: slices and digests, no bytes.
    pub(super) delivered: Mutex<BTreeMap<u32, Vec<PartRow>>>,
    notes: Mutex<BTreeSet<String>>,
    /// The rank whose part has the cursors: what was seen counts once.
    with_cursors: OnceLock<u32>,
}

impl Store {
    /// Opens a save, or finds it open.
    pub async fn begin_save(&self, spec: SaveSpec, progress: Progress) -> Result<CheckpointSave, SaveError> {
        let actual = spec.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        if actual > MAX_USER_METADATA_BYTES {
            return Err(SaveError::Metadata { actual });
        }
        check_cursors(&spec.cursors).map_err(SaveError::Cursors)?;
        let request = SaveRequest {
            project: spec.project.clone(),
            run: spec.run.clone(),
            step: spec.step,
            attempt: spec.attempt.clone().unwrap_or_else(|| hex(&self.ambient.random_bytes()[..16])),
            world_size: spec.world_size,
        };
        let session = self.transport.begin_save(&request).await?;
        let (pool, groups) = (BufferPool::default(), BufferPool::keeping(COPIES_KEPT));
        Ok(CheckpointSave {
            store: self.clone(),
            request,
            session,
            spec,
            pool,
            groups,
            progress,
            delivered: Mutex::default(),
            notes: Mutex::default(),
            with_cursors: OnceLock::new(),
        })
    }
}

impl CheckpointSave {
    /// Gives this attempt up, for all its ranks: it can't be finished any more. What was uploaded serves later saves.
    pub async fn abort(&self) -> Result<(), SaveError> {
        Ok(self.store.transport.abort_save(&self.request.project, self.session.save).await?)
    }

    /// Stores the slices of one rank and delivers its part. Ranks may call it in any order, from any process.
    pub async fn rank(&self, rank: u32, slices: Vec<Slice>) -> Result<(), SaveError> {
        self.rank_since(Phases::begin(&self.store.ambient), rank, slices).await
    }

    /// As [`rank`](Self::rank), for a rank that began with `phases`.
    pub(super) async fn rank_since(&self, phases: Phases, rank: u32, slices: Vec<Slice>) -> Result<(), SaveError> {
        let retries = self.store.transport.retries();
        let (mine, theirs) = self.sort_slices(rank, slices)?;
        let sources: Vec<SliceData> = mine.iter().chain(&theirs).map(|(_, data)| data.clone()).collect();
        let bytes = sources.iter().map(SliceData::len).sum();
        self.progress.plan(bytes);
        let writer = self.writer(phases.clone());
        let mut meta = self.part_meta(rank);
        let mut rows = if let Some(existing) = &self.session.existing {
            meta.compared_to = Some(existing.commit.content);
            let mut all = mine;
            all.extend(theirs);
            let rows = self.hash_only(&writer, all).await?;
            self.compare(existing, &rows).await?;
            rows
        } else {
            let known = phases.timed(Phase::Plan, 0, self.known(&mine, &mut meta)).await?;
            let mut rows = self.send(&writer, mine, &known).await?;
            rows.extend(self.hash_only(&writer, theirs).await?);
            meta.bases.retain(|_| rows.iter().any(|row| refers_to(row, &known)));
            rows
        };
        // Last of all: whatever was read above was read from files that look as they did at first.
        for data in &sources {
            data.check_unchanged()?;
        }
        rows.sort_by(|a, b| a.slice.order().cmp(&b.slice.order()));
        let unplaced = rows.iter().map(|row| SliceRow { place: None, ..row.clone() }).collect();
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner).insert(rank, unplaced);
        let again = self.store.transport.retries().zip(retries).map(|(now, before)| now.saturating_sub(before));
        meta.timeline = Some(phases.end(bytes, again));
        self.deliver(self.session.save, meta, rows).await
    }

    /// Commits once the parts of all ranks are there, or finds the save committed. Every rank may call it.
    pub async fn finish(&self) -> Result<Committed, SaveError> {
        match self.store.transport.finish_save(&self.finish_request(&self.request)).await {
            // Only the refusal of a step that is taken names two digests.
            Err(fault) if fault.code == FaultCode::Conflict && fault.expected.is_some() && fault.actual.is_some() => {
                self.finish_as_existing(fault).await
            }
            done => Ok(done?),
        }
    }

    /// Returns what the caller should know of a save that succeeds all the same: why it sent more than it had to.
    pub fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(super) fn note(&self, text: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).insert(text);
    }

    pub(super) fn finish_request(&self, save: &SaveRequest) -> FinishRequest {
        let deadline_ms = u64::try_from(self.spec.deadline.as_millis()).unwrap_or(u64::MAX);
        FinishRequest { save: save.clone(), tag: self.spec.tag.clone(), deadline_ms, waited_ms: 0 }
    }

    /// Returns what the part of one rank says, before it is known where its bytes are.
    pub(super) fn part_meta(&self, rank: u32) -> PartMeta {
        let with_cursors = *self.with_cursors.get_or_init(|| rank) == rank;
        PartMeta {
            metadata: self.spec.metadata.clone(),
            cursors: if with_cursors { self.spec.cursors.clone() } else { Cursors::new() },
            ..PartMeta::of_rank(rank, self.request.world_size)
        }
    }

    /// Delivers the part of one rank.
    pub(super) async fn deliver(&self, save: TxnId, meta: PartMeta, rows: Vec<PartRow>) -> Result<(), SaveError> {
        let rank = meta.rank;
        let part = self.store.ambient.computed(move || write_part(&meta, &rows)).await;
        let part = part.map_err(|source| SaveError::Part { rank, source })?;
        Ok(self.store.transport.put_part(&self.request.project, save, rank, Bytes::from(part)).await?)
    }

    /// Checks slices, cuts those that are too long, and tells those that this rank sends from those that a replica
    /// does.
    fn sort_slices(&self, rank: u32, slices: Vec<Slice>) -> Result<(Vec<Loaded>, Vec<Loaded>), SaveError> {
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for Slice { id, data, replicas } in slices {
            let (expected, actual) = (id.bytes(), data.len());
            if expected != actual {
                return Err(SaveError::Length { slice: id.to_string(), expected, actual });
            }
            if !seen.insert((id.kind(), id.entry_name())) {
                return Err(SaveError::Twice { rank, slice: id.to_string() });
            }
            let sends = replicas.is_empty() || sender(&id, &replicas) == rank;
            let list = if sends { &mut mine } else { &mut theirs };
            list.extend(pieces(id, &data)?);
        }
        Ok((mine, theirs))
    }

    /// Sends what the store does not have. Rows come as their packs are done.
    async fn send(&self, writer: &Writer, slices: Vec<Loaded>, known: &Known) -> Result<Vec<PartRow>, SaveError> {
        let ids: Vec<SliceId> = slices.iter().map(|(id, _)| id.clone()).collect();
        let target = self.spec.pack_bytes;
        // Borders are planned before dedup, so that a save that is run again makes the same packs.
        let planned = self.store.ambient.computed(move || plan_packs(&ids, target));
        let plan = writer.phases.timed(Phase::Plan, 0, planned).await;
        let packs = plan.into_iter().map(|members| members.into_iter().map(|i| slices[i].clone()).collect());
        let packs: Vec<Vec<Loaded>> = packs.collect();
        let find = |digest, len| known.get(&(digest, len)).cloned();
        // Whichever is done makes room: behind a long one the others would wait for nothing.
        let rows = futures::stream::iter(packs).map(|slices| writer.pack(slices, &find));
        Ok(rows.buffer_unordered(PACKS_IN_FLIGHT).try_concat().await?)
    }

    /// Hashes slices that a replica sends, or that are there already.
    async fn hash_only(&self, writer: &Writer, slices: Vec<Loaded>) -> Result<Vec<PartRow>, SaveError> {
        let mut rows = Vec::with_capacity(slices.len());
        for batch in batches(slices, self.spec.pack_bytes) {
            let digests = writer.hash(&batch).await?;
            let batch = batch.into_iter().zip(digests);
            rows.extend(batch.map(|((slice, _), blake3)| SliceRow { slice, blake3, place: None }));
        }
        Ok(rows)
    }

    fn writer(&self, phases: Phases) -> Writer {
        Writer {
            store: self.store.clone(),
            project: self.request.project.clone(),
            epoch: self.session.epoch,
            pack_bytes: self.spec.pack_bytes,
            compressor: Compressor::new(self.spec.compress, &self.store.ambient),
            pool: self.pool.clone(),
            groups: self.groups.clone(),
            progress: self.progress.clone(),
            phases,
        }
    }
}

/// A slice and its bytes.
pub(super) type Loaded = (SliceId, SliceData);

fn refers_to(row: &PartRow, known: &Known) -> bool {
    known.get(&(row.blake3, row.slice.bytes())).is_some_and(|place| Some(place) == row.place.as_ref())
}

/// Chooses which of the ranks that hold a slice sends it: by hash, so that they share the work without talking.
fn sender(id: &SliceId, replicas: &[u32]) -> u32 {
    let digest = Digest::of(id.entry_name().as_bytes());
    let drawn = u32::from_le_bytes(*digest.as_bytes().first_chunk().expect("32 bytes have 4"));
    replicas[drawn as usize % replicas.len()]
}

/// Cuts a slice over [`MAX_SLICE_BYTES`] along dimension 0.
fn pieces(id: SliceId, data: &SliceData) -> Result<Vec<Loaded>, SaveError> {
    if id.bytes() <= MAX_SLICE_BYTES {
        return Ok(vec![(id, data.clone())]);
    }
    let split = |source| SaveError::Split { slice: id.to_string(), source };
    let mut start = 0;
    let mut pieces = Vec::new();
    for area in id.area().split(id.dtype(), MAX_SLICE_BYTES).map_err(split)? {
        let piece = SliceId::new(id.kind(), id.name(), id.dtype(), id.global_shape(), area)?;
        let part = data.part(start, piece.bytes());
        start += piece.bytes();
        pieces.push((piece, part));
    }
    Ok(pieces)
}

/// Cuts a list into batches of about `bytes`.
fn batches(slices: Vec<Loaded>, bytes: u64) -> Vec<Vec<Loaded>> {
    let mut batches: Vec<Vec<Loaded>> = Vec::new();
    let mut filled = u64::MAX;
    for slice in slices {
        let len = slice.1.len();
        match batches.last_mut() {
            Some(batch) if filled.saturating_add(len) <= bytes => {
                filled += len;
                batch.push(slice);
            }
            _ => {
                filled = len;
                batches.push(vec![slice]);
            }
        }
    }
    batches
}
