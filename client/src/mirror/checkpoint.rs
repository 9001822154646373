//! A checkpoint into another store: its packs as they are, and its rows as the parts of a save there.
//!
//! Must never send a pack that the destination has.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::Cursors;
use gigastore_formats::manifest::packs::PackRow;
use gigastore_formats::manifest::part::{PartMeta, PartRow, write_part};
use gigastore_formats::name::{Selector, Target};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::pack::PackHeader;
use gigastore_formats::range::ByteRange;
use gigastore_formats::tensor::slice::Place;
use gigastore_formats::wire::{
    CommitInfo, Fault, FaultCode, FinishRequest, NameInfo, SaveRequest, Session, with_causes,
};

use super::{Mirror, MirrorError, OBJECTS_IN_FLIGHT, Sent};
use crate::checkpoint::open::Checkpoint;
use crate::transport::PackBytes;

/// Parts that are delivered at once: they are short, and the store's latency is all they take.
const PARTS_IN_FLIGHT: usize = 16;

/// How long a save waits for its own parts, which are all there: the store's latency.
const DEADLINE_MS: u64 = 60_000;

/// What the destination has of the run already.
#[derive(Default)]
struct Base {
    step: Option<u64>,
    packs: BTreeMap<Digest, Stored>,
}

impl Mirror<'_> {
    /// Copies a checkpoint; `None` where it was dropped in the destination after it had been copied.
    pub(super) async fn checkpoint(
        &self,
        info: &CommitInfo,
        known: Option<&NameInfo>,
    ) -> Result<Option<(CommitInfo, Sent, bool)>, MirrorError> {
        let commit = &info.commit;
        if let Some(there) =
            known.and_then(|known| known.live.iter().find(|there| there.commit.number == commit.number))
        {
            return self.same(info, there.clone()).map(|there| Some((there, Sent::default(), true)));
        }
        let request = SaveRequest {
            project: self.spec.to.clone(),
            run: commit.name.clone(),
            step: commit.number,
            // The same content is the same save, so that a mirror that was broken off goes on with it.
            attempt: format!("mirror {}", commit.content),
            world_size: commit.world_size,
        };
        // Before the save is announced: it would hold a collection of the destination back.
        let selector = Some(Selector::Number(commit.number));
        let target = Target { project: self.spec.project.clone(), name: commit.name.clone(), selector };
        let (source, packs) = (self.from.checkpoint(&target).await?, self.from.packs(&target).await?);
        if source.info().commit.content != commit.content {
            return Err(Fault::of(FaultCode::Gone, format!("{target} was dropped and saved anew meanwhile")).into());
        }
        let session = self.to.transport.begin_save(&request).await?;
        if let Some(there) = session.existing {
            return self.same(info, there).map(|there| Some((there, Sent::default(), true)));
        }
        let finish = |deadline_ms| FinishRequest { save: request.clone(), tag: None, deadline_ms, waited_ms: 0 };
        match self.to.transport.finish_save(&finish(0)).await {
            Ok(done) => return self.same(info, done.info).map(|there| Some((there, Sent::default(), true))),
            Err(fault) if fault.code == FaultCode::Gone => return Ok(None),
            Err(fault) if fault.code == FaultCode::MissingRanks => {}
            Err(fault) => return Err(fault.into()),
        }
        let base = self.base(&source, known).await?;
        let sent = self.send_packs(&session, &packs, &base).await?;
        self.deliver(&session, &request, &source, &base).await?;
        let done = self.to.transport.finish_save(&finish(DEADLINE_MS)).await?;
        self.same(info, done.info).map(|there| Some((there, sent, done.existed)))
    }

    /// Checks that what is in the destination is what was read.
    fn same(&self, source: &CommitInfo, there: CommitInfo) -> Result<CommitInfo, MirrorError> {
        let (expected, actual) = (source.commit.content, there.commit.content);
        if expected == actual {
            return Ok(there);
        }
        let target = format!("{}/{}@{}", self.spec.to, there.commit.name, there.commit.number);
        Err(MirrorError::Different { target, expected, actual })
    }

    /// Finds a step of the run in the destination whose packs may be referred to, whatever epoch they are of: the
    /// parent of the source, or the newest before it.
    async fn base(&self, source: &Checkpoint, known: Option<&NameInfo>) -> Result<Base, MirrorError> {
        let step = source.info().commit.number;
        let is_live =
            |number: &u64| known.is_some_and(|known| known.live.iter().any(|one| one.commit.number == *number));
        let parent = source.meta().parent.filter(is_live);
        let numbers = known.iter().flat_map(|known| known.live.iter().map(|one| one.commit.number));
        let Some(base) = parent.or_else(|| numbers.filter(|number| *number < step).max()) else {
            return Ok(Base::default());
        };
        let (name, selector) = (source.info().commit.name.clone(), Some(Selector::Number(base)));
        let target = Target { project: self.spec.to.clone(), name, selector };
        match self.to.packs(&target).await {
            Ok(rows) => {
                let packs = rows.into_iter().map(|row| (row.pack.digest, row.pack)).collect();
                Ok(Base { step: Some(base), packs })
            }
            // Everything is sent then.
            Err(error) => match crate::Coded::code(&error) {
                FaultCode::Integrity | FaultCode::Lost | FaultCode::NotFound | FaultCode::Gone => Ok(Base::default()),
                _ => Err(error.into()),
            },
        }
    }

    async fn send_packs(&self, session: &Session, packs: &[PackRow], base: &Base) -> Result<Sent, MirrorError> {
        self.progress.plan(packs.iter().map(|row| row.bytes).sum());
        let sending = packs.iter().map(|row| async move {
            let sent = self.send_pack(session, row, base).await?;
            self.progress.done(row.bytes);
            Ok::<bool, MirrorError>(sent)
        });
        // Boxed one by one: what is polled by several at once has no lifetime of its own then.
        let sending: Vec<futures::future::BoxFuture<'_, _>> =
            sending.map(|one| Box::pin(one) as futures::future::BoxFuture<'_, _>).collect();
        let sent: Vec<bool> = futures::stream::iter(sending).buffered(OBJECTS_IN_FLIGHT).try_collect().await?;
        let sent = packs.iter().zip(sent).filter(|(_, sent)| *sent);
        Ok(sent.fold(Sent::default(), |sum, (row, _)| Sent { objects: sum.objects + 1, bytes: sum.bytes + row.bytes }))
    }

    /// Sends a pack unless it is there; tells whether it was sent.
    async fn send_pack(&self, session: &Session, row: &PackRow, base: &Base) -> Result<bool, MirrorError> {
        let named = |epoch| Stored { digest: row.pack.digest, epoch };
        let mut candidates = vec![named(session.epoch)];
        candidates.extend(session.epoch.checked_sub(1).map(named));
        candidates.extend(base.packs.get(&row.pack.digest).copied());
        if self.there(ObjectKind::Pack, &candidates, row.bytes).await?.is_some() {
            return Ok(false);
        }
        let (kind, name) = (ObjectKind::Pack, row.pack.digest);
        let range = ByteRange::new(0, row.header_len).expect("0 is the smallest number");
        let check = move |bytes: Bytes| PackHeader::parse(name, &bytes).map(|_| bytes);
        let header = self.from.read_checked(&self.spec.project, kind, &row.pack, range, check).await?;
        let damaged = |error| MirrorError::Damaged { object: row.pack.key(kind), problem: with_causes(&error) };
        let header = header.map_err(damaged)?;
        let body = PackBytes::Reread(self.pieces(kind, row.pack, row.header_len, row.bytes));
        match self.to.transport.put_pack(&self.spec.to, named(session.epoch), header, body).await {
            Ok(()) => Ok(true),
            Err(fault) => Err(self.refused(kind, &row.pack, fault).await),
        }
    }

    /// Delivers the rows, as the parts of as many ranks as saved the source. Which rank had which row is not known any
    /// more, and no reader needs it.
    async fn deliver(
        &self,
        session: &Session,
        request: &SaveRequest,
        source: &Checkpoint,
        base: &Base,
    ) -> Result<(), MirrorError> {
        let world_size = request.world_size;
        let rows: Vec<PartRow> = source
            .rows()
            .iter()
            .map(|row| {
                let Place { pack, header_len, offset, stored_len, codec } = row.place.clone();
                let place = Place { pack: pack.digest, header_len, offset, stored_len, codec };
                PartRow { slice: row.slice.clone(), blake3: row.blake3, place: Some(place) }
            })
            .collect();
        let used: BTreeSet<Digest> = source.rows().iter().map(|row| row.place.pack.digest).collect();
        let bases = base.step.filter(|_| base.packs.keys().any(|pack| used.contains(pack)));
        let each = rows.len().div_ceil(world_size as usize).max(1);
        let parts = (0..world_size).map(|rank| {
            let meta = PartMeta {
                bases: bases.into_iter().collect(),
                metadata: source.meta().metadata.clone(),
                // What all ranks had seen together, said once.
                cursors: if rank == 0 { source.meta().cursors.clone() } else { Cursors::new() },
                ..PartMeta::of_rank(rank, world_size)
            };
            let start = (rank as usize * each).min(rows.len());
            (meta, rows[start..(start + each).min(rows.len())].to_vec())
        });
        futures::stream::iter(parts)
            .map(|(meta, rows)| async move {
                let rank = meta.rank;
                let part = self.to.ambient.computed(move || write_part(&meta, &rows)).await?;
                let put = self.to.transport.put_part(&self.spec.to, session.save, rank, Bytes::from(part));
                put.await.map_err(|fault: Fault| MirrorError::from(fault))
            })
            .buffer_unordered(PARTS_IN_FLIGHT)
            .try_collect()
            .await
    }
}
