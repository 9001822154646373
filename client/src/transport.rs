//! The seam between the client and a store: the same calls for a store in this process and for one behind a service.
//!
//! A transport moves bytes and answers; it verifies nothing for the client. Must never return fewer bytes than were
//! asked for.

#[cfg(feature = "embedded")]
pub mod embedded;
pub mod http;
pub mod upkeep;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use gigastore_formats::ambient::Ambient;
use gigastore_formats::damage::DamageMark;
use gigastore_formats::name::{Name, ProjectName, Target};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::plan::{PlanAnswer, PlanRequest};
use gigastore_formats::range::ByteRange;
use gigastore_formats::record::{Record, TxnId};
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::{
    CommitInfo, Committed, DatasetRequest, Fault, FaultCode, FinishRequest, Probe, ProjectInfo, RebuildReport,
    SaveRequest, ScrubReport, ScrubRequest, Session, VerifyProgress, VerifyReport, VerifyRequest,
};

use upkeep::Upkeep;

/// Why the bytes of an upload did not come.
pub type UploadError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The bytes of an upload as they are read from their source.
pub type PieceStream = BoxStream<'static, Result<Bytes, UploadError>>;

/// The bytes of an upload, each piece made when it is asked for.
pub type MadePieces = Box<dyn Iterator<Item = Result<Bytes, UploadError>> + Send>;

/// A source that can be read again from its start, where an upload has to be sent again.
pub struct Again<T>(Arc<dyn Fn() -> T + Send + Sync>);

/// Bytes that are read from their source.
pub type Pieces = Again<PieceStream>;

/// Bytes that are made from memory.
pub type Made = Again<MadePieces>;

impl<T> Again<T> {
    /// Each call of `read` reads the source from its start.
    pub fn new(read: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Reads the source from its start.
    pub fn read(&self) -> T {
        (self.0)()
    }
}

impl Made {
    /// Returns them as what is read: each is made on a thread that may wait, as none that serves sockets may.
    pub fn pieces(self, ambient: Arc<dyn Ambient>) -> Pieces {
        Pieces::new(move || {
            let ambient = Arc::clone(&ambient);
            let next = move |mut pieces: MadePieces| {
                let ambient = Arc::clone(&ambient);
                async move { ambient.waited(move || pieces.next().map(|piece| (piece, pieces))).await }
            };
            futures::stream::unfold(self.read(), next).boxed()
        })
    }
}

impl<T> Clone for Again<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Again<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Again")
    }
}

/// The bytes of a pack after its header.
#[derive(Clone, Debug)]
pub enum PackBytes {
    /// In memory, and hashed there: they can't have changed since.
    Hashed(Vec<Bytes>),
    /// Read again from a source that was hashed before and may have changed: checked again as they pass.
    Reread(Pieces),
    /// Made from memory that was hashed before, by whoever sees whether it has changed since, and fails then.
    Watched(Made),
}

/// Bytes of one object, in order.
pub trait Source {
    /// Fills `into` with the bytes from `position` of the object on. From call to call positions only grow.
    fn fill_at(&mut self, position: u64, into: &mut [u8]) -> Result<(), Fault>;

    /// Lends the bytes of `range` of the object where they lie, or come, in memory as one piece that stays as it is;
    /// `None` where they have to be asked for. The next call is for the same bytes or later ones.
    fn lend(&mut self, range: ByteRange) -> Option<&[u8]> {
        let _ = range;
        None
    }

    /// Tells whether all that was lent so far stayed as it was, until now.
    fn stayed(&self) -> bool {
        true
    }
}

/// A source was asked for bytes that it does not have.
pub(crate) fn absent(position: u64) -> Fault {
    Fault::of(FaultCode::Integrity, format!("bytes at {position} were not read"))
}

/// Somebody who takes the bytes of a part of an object in order, and checks them.
pub trait Taker: fmt::Debug + Send + Sync + 'static {
    /// Returns the bytes that are still wanted; none when all were taken, or when a byte was not right.
    fn rest(&self) -> ByteRange;

    /// Takes the rest from `source`. May block for as long as the source does. An error is the source's own: what was
    /// taken before it counts, and the rest may be had from another source.
    fn take(&self, source: &mut dyn Source) -> Result<(), Fault>;
}

/// Bytes in memory, from a position of their object on.
#[derive(Debug)]
pub(crate) struct Held {
    position: u64,
    pieces: VecDeque<Bytes>,
    lent: Bytes,
}

impl Held {
    pub(crate) fn new(start: u64, pieces: impl Into<VecDeque<Bytes>>) -> Self {
        Self { position: start, pieces: pieces.into(), lent: Bytes::new() }
    }

    fn skip_to(&mut self, position: u64) -> Result<(), Fault> {
        let mut skip = position.checked_sub(self.position).ok_or_else(|| absent(position))?;
        while skip > 0 {
            match self.next(skip).len() as u64 {
                0 => return Err(absent(position)),
                skipped => skip -= skipped,
            }
        }
        Ok(())
    }

    /// Takes the next bytes, at most `most`; none when there are no more.
    fn next(&mut self, most: u64) -> Bytes {
        while let Some(piece) = self.pieces.front_mut() {
            let len = usize::try_from(most).unwrap_or(usize::MAX).min(piece.len());
            let taken = piece.split_to(len);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            if !taken.is_empty() || most == 0 {
                self.position += taken.len() as u64;
                return taken;
            }
        }
        Bytes::new()
    }
}

impl Source for Held {
    fn fill_at(&mut self, position: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.skip_to(position)?;
        let mut filled = 0;
        while filled < into.len() {
            let taken = self.next((into.len() - filled) as u64);
            if taken.is_empty() {
                return Err(absent(position));
            }
            into[filled..filled + taken.len()].copy_from_slice(&taken);
            filled += taken.len();
        }
        Ok(())
    }

    fn lend(&mut self, range: ByteRange) -> Option<&[u8]> {
        self.skip_to(range.start()).ok()?;
        if (self.pieces.front()?.len() as u64) < range.len() {
            return None;
        }
        self.lent = self.next(range.len());
        Some(&self.lent)
    }
}

/// Takes the progress of a verification.
pub type OnVerify<'a> = &'a (dyn Fn(VerifyProgress) + Send + Sync);

/// One store, however it is reached.
#[async_trait]
pub trait Transport: Upkeep + fmt::Debug + Send + Sync + 'static {
    /// Returns the store's URL.
    fn url(&self) -> &str;

    /// Returns how many requests were sent again so far; `None` where that is not known, as the store's own client does
    /// it.
    fn retries(&self) -> Option<u64> {
        None
    }

    /// Lists the projects.
    async fn projects(&self) -> Result<Vec<ProjectName>, Fault>;

    /// Describes a project: runs, datasets, steps, versions, tags.
    async fn project(&self, project: &ProjectName) -> Result<ProjectInfo, Fault>;

    /// Finds the live commit that a target means; `latest` where it names none.
    async fn resolve(&self, target: &Target) -> Result<CommitInfo, Fault>;

    /// Returns the length of each object, `None` for those that are not there.
    async fn lengths(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        objects: &[Stored],
    ) -> Result<Vec<Option<u64>>, Fault>;

    /// Reads a range of an object, exactly. `afresh`: past everything that keeps bytes on the way.
    async fn read(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        object: &Stored,
        range: ByteRange,
        afresh: bool,
    ) -> Result<Bytes, Fault>;

    /// Passes the bytes of an object that `taker` wants to it. `afresh`: as for `read`.
    async fn pass(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        object: &Stored,
        taker: Arc<dyn Taker>,
        afresh: bool,
    ) -> Result<(), Fault>;

    /// Stores a pack, unless it is there.
    async fn put_pack(&self, project: &ProjectName, pack: Stored, header: Bytes, bytes: PackBytes)
    -> Result<(), Fault>;

    /// Stores a dataset file of which `tree` is the group tree, unless it is there.
    async fn put_blob(
        &self,
        project: &ProjectName,
        epoch: u64,
        tree: GroupTree,
        bytes: Pieces,
    ) -> Result<Stored, Fault>;

    /// Opens a save, or finds it open.
    async fn begin_save(&self, request: &SaveRequest) -> Result<Session, Fault>;

    /// Delivers one rank's part of a save.
    async fn put_part(&self, project: &ProjectName, save: TxnId, rank: u32, part: Bytes) -> Result<(), Fault>;

    /// Commits a save once all parts are there, or finds it committed.
    async fn finish_save(&self, request: &FinishRequest) -> Result<Committed, Fault>;

    /// Commits a dataset version.
    async fn commit_dataset(&self, request: &DatasetRequest, manifest: Bytes) -> Result<Committed, Fault>;

    /// Gives a save up.
    async fn abort_save(&self, project: &ProjectName, save: TxnId) -> Result<(), Fault>;

    /// Plans the reads of boxes of a checkpoint.
    async fn plan(&self, target: &Target, request: &PlanRequest) -> Result<PlanAnswer, Fault>;

    /// Returns the records of the log after number `after`; waits up to `wait` for one.
    async fn records(&self, project: &ProjectName, after: u64, wait: Duration) -> Result<Vec<Record>, Fault>;

    /// Tries the store out: can it be reached and written, does it refuse a second creation, how fast is it, which time
    /// has it.
    async fn probe(&self, bytes: u64) -> Result<Probe, Fault>;

    /// Points a tag at a live step or version. The operation `txn` has one effect, however often it is asked for.
    async fn set_tag(
        &self,
        project: &ProjectName,
        txn: TxnId,
        name: &Name,
        tag: &Name,
        number: u64,
    ) -> Result<CommitInfo, Fault>;

    /// Verifies what a project stores.
    async fn verify(&self, request: &VerifyRequest, progress: OnVerify<'_>) -> Result<VerifyReport, Fault>;

    /// Verifies every object of a project, marks what is damaged and repairs what it can: from other objects, and from
    /// the second store at the URL `replica`.
    async fn scrub(
        &self,
        request: &ScrubRequest,
        replica: Option<&str>,
        progress: OnVerify<'_>,
    ) -> Result<ScrubReport, Fault>;

    /// Makes the log of a project anew where every record is lost; with `dry_run` only says what it would hold. For a
    /// store that is opened in this process only: whoever serves it is stopped meanwhile.
    async fn rebuild_log(&self, project: &ProjectName, dry_run: bool) -> Result<RebuildReport, Fault> {
        let _ = (project, dry_run);
        let text = "a log is made anew on the store itself (file:///…, s3://…), with its services stopped";
        Err(Fault::of(FaultCode::Invalid, text))
    }

    /// Lists the objects of a project that are marked as damaged.
    async fn damaged(&self, project: &ProjectName) -> Result<Vec<DamageMark>, Fault>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_had_across_pieces_and_never_made_up() {
        let pieces = ["", "abc", "", "d", "efgh"].map(|text| Bytes::from_static(text.as_bytes()));
        let held = || Held::new(10, pieces.to_vec());
        let mut read = held();
        let mut into = [0; 3];
        read.fill_at(11, &mut into).unwrap();
        assert_eq!(&into, b"bcd");
        read.fill_at(14, &mut []).unwrap();
        read.fill_at(15, &mut into).unwrap();
        assert_eq!(&into, b"fgh");
        assert!(read.fill_at(18, &mut [0]).is_err() && read.fill_at(17, &mut [0]).is_err());
        assert!(held().fill_at(9, &mut into).is_err() && held().fill_at(16, &mut into).is_err());
        assert!(held().fill_at(u64::MAX, &mut []).is_err());
        let lent = |start, end| held().lend(ByteRange::new(start, end).unwrap()).map(<[u8]>::to_vec);
        assert_eq!(lent(15, 18).as_deref(), Some(&b"fgh"[..]));
        assert!(lent(12, 14).is_none() && lent(15, 19).is_none() && lent(9, 10).is_none());
    }
}
