//! The store's engine in this process: no service, the same calls.
//!
//! Must never do more than convert: what a call means is the engine's.

mod upkeep;

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use gigastore_engine::store::OpenMode;
use gigastore_engine::{Engine, PackBody};
use gigastore_formats::ambient::Ambient;
use gigastore_formats::damage::DamageMark;
use gigastore_formats::manifest::checkpoint::Selection;
use gigastore_formats::name::{Name, ProjectName, Target};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::plan::{PlanAnswer, PlanRequest, Planner};
use gigastore_formats::range::ByteRange;
use gigastore_formats::record::{Record, TxnId};
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::{
    CommitInfo, Committed, DatasetRequest, Fault, FinishRequest, Probe, ProjectInfo, RebuildReport, SaveRequest,
    ScrubReport, ScrubRequest, Session, VerifyReport, VerifyRequest,
};

use super::{Held, OnVerify, PackBytes, Pieces, Taker, Transport};
use crate::transfer::local::pass_file;

/// Opens the store at `url` in this process, with the settings of the environment.
pub async fn open(url: &str, mode: OpenMode, ambient: &Arc<dyn Ambient>) -> Result<Engine, Fault> {
    let url = url.parse().map_err(fault)?;
    // No setting of a store has bytes that are not UTF-8; other programs' variables may.
    let text = |(key, value): (OsString, OsString)| Some((key.into_string().ok()?, value.into_string().ok()?));
    let settings: Vec<(String, String)> = std::env::vars_os().filter_map(text).collect();
    Engine::open(&url, mode, settings, Arc::clone(ambient)).await.map_err(fault)
}

/// Turns an error of the engine into what a client sees of it.
fn fault<E>(error: E) -> Fault
where
    for<'e> Fault: From<&'e E>,
{
    Fault::from(&error)
}

#[async_trait]
impl Transport for Engine {
    fn url(&self) -> &str {
        Engine::url(self)
    }

    async fn projects(&self) -> Result<Vec<ProjectName>, Fault> {
        Engine::projects(self).await.map_err(fault)
    }

    async fn project(&self, project: &ProjectName) -> Result<ProjectInfo, Fault> {
        Engine::project(self, project).await.map_err(fault)
    }

    async fn resolve(&self, target: &Target) -> Result<CommitInfo, Fault> {
        Engine::resolve(self, target).await.map_err(fault)
    }

    async fn lengths(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        objects: &[Stored],
    ) -> Result<Vec<Option<u64>>, Fault> {
        Engine::lengths(self, project, kind, objects).await.map_err(fault)
    }

    async fn read(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        object: &Stored,
        range: ByteRange,
        _afresh: bool,
    ) -> Result<Bytes, Fault> {
        Engine::read(self, project, kind, object, range).await.map_err(fault)
    }

    async fn pass(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        object: &Stored,
        taker: Arc<dyn Taker>,
        afresh: bool,
    ) -> Result<(), Fault> {
        let ambient = self.ambient();
        if let Some(path) = self.path(project, kind, object) {
            pass_file(&*ambient, path, &taker, afresh).await;
        }
        let rest = taker.rest();
        if rest.is_empty() {
            return Ok(());
        }
        let pieces = self.read_pieces(project, kind, object, rest).await.map_err(fault)?;
        ambient.computed(move || taker.take(&mut Held::new(rest.start(), pieces))).await
    }

    async fn put_pack(
        &self,
        project: &ProjectName,
        pack: Stored,
        header: Bytes,
        bytes: PackBytes,
    ) -> Result<(), Fault> {
        let body = match bytes {
            PackBytes::Hashed(pieces) => PackBody::Whole(pieces),
            PackBytes::Reread(pieces) => PackBody::Stream(pieces.read()),
            PackBytes::Watched(pieces) => PackBody::Watched(pieces.read()),
        };
        Engine::put_pack(self, project, pack, header, body).await.map_err(fault)
    }

    async fn put_blob(
        &self,
        project: &ProjectName,
        epoch: u64,
        tree: GroupTree,
        bytes: Pieces,
    ) -> Result<Stored, Fault> {
        Engine::put_blob(self, project, epoch, tree, bytes.read()).await.map_err(fault)
    }

    async fn begin_save(&self, request: &SaveRequest) -> Result<Session, Fault> {
        Engine::begin_save(self, request).await.map_err(fault)
    }

    async fn put_part(&self, project: &ProjectName, save: TxnId, rank: u32, part: Bytes) -> Result<(), Fault> {
        Engine::put_part(self, project, save, rank, part).await.map_err(fault)
    }

    async fn finish_save(&self, request: &FinishRequest) -> Result<Committed, Fault> {
        Engine::finish_save(self, request).await.map_err(|error| Fault::from(&*error))
    }

    async fn commit_dataset(&self, request: &DatasetRequest, manifest: Bytes) -> Result<Committed, Fault> {
        Engine::commit_dataset(self, request, manifest).await.map_err(|error| Fault::from(&*error))
    }

    async fn abort_save(&self, project: &ProjectName, save: TxnId) -> Result<(), Fault> {
        Engine::abort_save(self, project, save).await.map_err(fault)
    }

    async fn plan(&self, target: &Target, request: &PlanRequest) -> Result<PlanAnswer, Fault> {
        let info = Engine::resolve(self, target).await.map_err(fault)?;
        let names = request.boxes.iter().map(|wanted| wanted.name.clone()).collect();
        let found = Engine::checkpoint_of(self, &target.project, &info.commit, Selection::Names(names)).await;
        let checkpoint = found.map_err(fault)?;
        let meta = checkpoint.meta.clone();
        let slices = Planner::new(checkpoint).plan(request).map_err(fault)?;
        Ok(PlanAnswer { info, meta, slices })
    }

    async fn records(&self, project: &ProjectName, after: u64, wait: Duration) -> Result<Vec<Record>, Fault> {
        Engine::records(self, project, after, wait).await.map_err(fault)
    }

    async fn probe(&self, bytes: u64) -> Result<Probe, Fault> {
        Engine::probe(self, bytes as usize).await.map_err(fault)
    }

    async fn set_tag(
        &self,
        project: &ProjectName,
        txn: TxnId,
        name: &Name,
        tag: &Name,
        number: u64,
    ) -> Result<CommitInfo, Fault> {
        Engine::set_tag(self, project, txn, name, tag, number).await.map_err(fault)
    }

    async fn verify(&self, request: &VerifyRequest, progress: OnVerify<'_>) -> Result<VerifyReport, Fault> {
        Engine::verify(self, request, progress).await.map_err(fault)
    }

    async fn scrub(
        &self,
        request: &ScrubRequest,
        replica: Option<&str>,
        progress: OnVerify<'_>,
    ) -> Result<ScrubReport, Fault> {
        let replica = match replica {
            Some(url) => Some(open(url, OpenMode::Existing, &self.ambient()).await?),
            None => None,
        };
        Engine::scrub(self, request, replica.as_ref(), progress).await.map_err(fault)
    }

    async fn rebuild_log(&self, project: &ProjectName, dry_run: bool) -> Result<RebuildReport, Fault> {
        Engine::rebuild_log(self, project, dry_run).await.map_err(fault)
    }

    async fn damaged(&self, project: &ProjectName) -> Result<Vec<DamageMark>, Fault> {
        Engine::damaged(self, project).await.map_err(fault)
    }
}
