//! A store behind a service: the same calls over HTTP.
//!
//! | file | what |
//! |---|---|
//! | `remote.rs` | endpoints, retries, failover, deadlines on progress |
//! | `lines.rs` | answers that come line by line while work goes on |
//! | `pace.rs` | the least speed of an answer |
//! | `pause.rs` | how long is waited between tries, and when a call is given up |
//! | `places.rs` | where a service lets its clients read past it |
//! | `reads.rs` | ranges of objects |
//! | `sent.rs` | bodies that are sent, and what became of them |
//! | `socket.rs` | bodies of objects, without a copy on the way |
//! | `upkeep.rs` | pins, drops, policies, collection |
//!
//! Must never return bytes of another length than asked for, nor send a call again that the service has answered.

mod lines;
mod pace;
mod pause;
mod places;
mod reads;
mod remote;
mod sent;
mod socket;
mod upkeep;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use gigastore_formats::ambient::Ambient;
use gigastore_formats::damage::DamageMark;
use gigastore_formats::digest::Digest;
use gigastore_formats::name::{Name, ProjectName, Target};
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::plan::{PlanAnswer, PlanRequest};
use gigastore_formats::range::ByteRange;
use gigastore_formats::record::{Record, SaveBegin, TxnId};
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::{
    CommitInfo, Committed, DatasetRequest, DirectPlace, ExistsRequest, Fault, FaultCode, FinishRequest, LogPage,
    PlacesAnswer, Probe, ProbeReceipt, ProjectInfo, SaveRequest, ScrubReport, ScrubRequest, Session, VerifyReport,
    VerifyRequest,
};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{OnVerify, PackBytes, Pieces, Taker, Transport};
use crate::transfer::local::pass_file;
pub use pause::Deadlines;
use places::Places;
use remote::{Call, Remote};
use sent::Sent;

/// How long one call waits for other ranks or new records before it is asked again.
const WAIT_AT_ONCE: Duration = Duration::from_secs(15);

/// Objects that one call asks for: each is a question to the store of some 10 ms, 64 of them at once.
const ASKED_AT_ONCE: usize = 4096;

/// Bytes of an answer that is not an object: a plan of 100,000 boxes, a project of a million steps.
const MAX_ANSWER_BYTES: usize = 1 << 30;

/// A service, by one or several endpoints.
pub struct Http {
    url: String,
    remote: Remote,
    places: Places,
    ambient: Arc<dyn Ambient>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Http {
    /// Names a service by its endpoints, separated by commas, and the token that it asks for. Nothing is sent yet.
    pub fn new(endpoints: &str, token: Option<String>, ambient: Arc<dyn Ambient>) -> Result<Self, Fault> {
        let remote = Remote::new(endpoints, token, Arc::clone(&ambient))?;
        Ok(Self { url: endpoints.to_owned(), remote, places: Places::default(), ambient })
    }

    /// Waits for the service as long as `deadlines` say.
    pub fn with_deadlines(mut self, deadlines: Deadlines) -> Self {
        self.remote.deadlines = deadlines;
        self
    }

    async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T, Fault> {
        parse(&self.remote.answered(call, MAX_ANSWER_BYTES).await?)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(bytes).map_err(|error| {
        let text = format!("the service's answer can't be read (is it of another version?): {error}");
        Fault::of(FaultCode::NewerFormat, text)
    })
}

fn body<T: Serialize>(value: &T) -> Result<Sent, Fault> {
    let bytes = serde_json::to_vec(value).map_err(|error| Fault::new(FaultCode::Invalid, &error))?;
    let digest = Digest::of(&bytes);
    Ok(Sent::Sealed(bytes.into(), digest))
}

fn below(project: &ProjectName, path: impl fmt::Display) -> String {
    format!("/v1/projects/{project}{path}")
}

fn object_path(project: &ProjectName, kind: ObjectKind, object: &Stored) -> String {
    let folder = match kind {
        ObjectKind::Pack => "packs",
        ObjectKind::Blob => "blobs",
        ObjectKind::Manifest => "manifests",
    };
    below(project, format_args!("/{folder}/{object}"))
}

fn naming(fault: Fault, kind: ObjectKind, object: &Stored, range: ByteRange) -> Fault {
    let key = object.key(kind);
    let message = format!("{range} of object {key} could not be read: {}", fault.message);
    Fault { message, object: Some(fault.object.unwrap_or(key)), ..fault }
}

#[async_trait]
impl Transport for Http {
    fn url(&self) -> &str {
        &self.url
    }

    fn retries(&self) -> Option<u64> {
        Some(self.remote.retries())
    }

    async fn projects(&self) -> Result<Vec<ProjectName>, Fault> {
        self.ask(Call::get("/v1/projects")).await
    }

    async fn project(&self, project: &ProjectName) -> Result<ProjectInfo, Fault> {
        let asked = self.ask(Call::get(below(project, ""))).await;
        self.with_known_projects(asked).await
    }

    async fn resolve(&self, target: &Target) -> Result<CommitInfo, Fault> {
        let (name, selector) = (&target.name, target.selector_or_latest());
        let path = below(&target.project, format_args!("/names/{name}/{selector}"));
        let asked = self.ask(Call::get(path)).await;
        self.with_known_projects(asked).await
    }

    async fn lengths(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        objects: &[Stored],
    ) -> Result<Vec<Option<u64>>, Fault> {
        let mut lengths = Vec::with_capacity(objects.len());
        for objects in objects.chunks(ASKED_AT_ONCE) {
            let request = ExistsRequest { kind, objects: objects.to_vec() };
            let call = Call::new(Method::POST, below(project, "/exists"), body(&request)?);
            lengths.extend(self.ask::<Vec<Option<u64>>>(call).await?);
        }
        Ok(lengths)
    }

    async fn read(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        object: &Stored,
        range: ByteRange,
        afresh: bool,
    ) -> Result<Bytes, Fault> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let read = self.remote.range(&object_path(project, kind, object), range, afresh).await;
        read.map_err(|fault| naming(fault, kind, object, range))
    }

    async fn pass(
        &self,
        project: &ProjectName,
        kind: ObjectKind,
        object: &Stored,
        taker: Arc<dyn Taker>,
        afresh: bool,
    ) -> Result<(), Fault> {
        if !afresh {
            self.pass_by(project, kind, object, &taker).await;
        }
        let passed = self.remote.pass(&object_path(project, kind, object), Arc::clone(&taker), afresh).await;
        passed.map_err(|fault| naming(fault, kind, object, taker.rest()))
    }

    async fn put_pack(
        &self,
        project: &ProjectName,
        pack: Stored,
        header: Bytes,
        bytes: PackBytes,
    ) -> Result<(), Fault> {
        let stream = |pieces| {
            let parsed = gigastore_formats::pack::PackHeader::parse(pack.digest, &header);
            let len = parsed.map_err(|error| Fault::new(FaultCode::BadUpload, &error))?.object_len();
            Ok::<Sent, Fault>(Sent::Stream { first: header.clone(), pieces, len })
        };
        // The service checks what comes.
        let sent = match bytes {
            PackBytes::Hashed(mut pieces) => {
                pieces.insert(0, header);
                Sent::Bytes(pieces)
            }
            PackBytes::Reread(pieces) => stream(pieces)?,
            PackBytes::Watched(made) => stream(made.pieces(Arc::clone(&self.ambient)))?,
        };
        self.remote.done(Call::new(Method::PUT, object_path(project, ObjectKind::Pack, &pack), sent)).await
    }

    async fn put_blob(
        &self,
        project: &ProjectName,
        epoch: u64,
        tree: GroupTree,
        bytes: Pieces,
    ) -> Result<Stored, Fault> {
        let blob = Stored { digest: tree.root(), epoch };
        let sent = Sent::Stream { first: Bytes::new(), pieces: bytes, len: tree.len() };
        self.remote.done(Call::new(Method::PUT, object_path(project, ObjectKind::Blob, &blob), sent)).await?;
        Ok(blob)
    }

    async fn begin_save(&self, request: &SaveRequest) -> Result<Session, Fault> {
        self.ask(Call::new(Method::POST, below(&request.project, "/saves"), body(request)?)).await
    }

    async fn put_part(&self, project: &ProjectName, save: TxnId, rank: u32, part: Bytes) -> Result<(), Fault> {
        let path = below(project, format_args!("/saves/{save}/parts/{rank}"));
        let sent = Sent::sealed(&*self.ambient, part).await;
        self.remote.done(Call::new(Method::PUT, path, sent)).await
    }

    async fn finish_save(&self, request: &FinishRequest) -> Result<Committed, Fault> {
        let SaveRequest { project, run, step, attempt, .. } = &request.save;
        let save = SaveBegin::id(project, run, *step, attempt);
        let path = below(project, format_args!("/saves/{save}/commit"));
        let (started, deadline) = (self.ambient.monotonic(), Duration::from_millis(request.deadline_ms));
        loop {
            let waited = self.ambient.monotonic().saturating_sub(started);
            let left = deadline.saturating_sub(waited);
            let wait = left.min(WAIT_AT_ONCE);
            let (deadline_ms, waited_ms) = (wait.as_millis() as u64, waited.as_millis() as u64);
            let now = FinishRequest { deadline_ms, waited_ms, ..request.clone() };
            match self.ask(Call::new(Method::POST, path.clone(), body(&now)?)).await {
                Err(fault) if fault.code == FaultCode::MissingRanks && left > wait => {}
                // All parts are there: the deadline for them is met, however long the commit takes.
                Err(fault) if fault.code == FaultCode::InProgress => {}
                answered => return answered,
            }
        }
    }

    async fn commit_dataset(&self, request: &DatasetRequest, manifest: Bytes) -> Result<Committed, Fault> {
        let tag = request.tag.as_ref().map(|tag| format!("&tag={tag}")).unwrap_or_default();
        let query = format!("/datasets?txn={}&epoch={}{tag}", request.txn, request.epoch);
        let sent = Sent::sealed(&*self.ambient, manifest).await;
        let call = Call::new(Method::POST, below(&request.project, query), sent);
        loop {
            match self.ask(call.clone()).await {
                Err(fault) if fault.code == FaultCode::InProgress => {}
                answered => return answered,
            }
        }
    }

    async fn abort_save(&self, project: &ProjectName, save: TxnId) -> Result<(), Fault> {
        let path = below(project, format_args!("/saves/{save}"));
        self.remote.done(Call::new(Method::DELETE, path, Sent::Nothing)).await
    }

    async fn plan(&self, target: &Target, request: &PlanRequest) -> Result<PlanAnswer, Fault> {
        let (name, selector) = (&target.name, target.selector_or_latest());
        let path = below(&target.project, format_args!("/checkpoints/{name}/{selector}/plan"));
        self.ask(Call::new(Method::POST, path, body(request)?)).await
    }

    async fn records(&self, project: &ProjectName, after: u64, wait: Duration) -> Result<Vec<Record>, Fault> {
        let wait = wait.min(WAIT_AT_ONCE).as_millis();
        let call = Call::get(below(project, format_args!("/log?after={after}&wait_ms={wait}")));
        Ok(self.ask::<LogPage>(call).await?.records)
    }

    async fn probe(&self, bytes: u64) -> Result<Probe, Fault> {
        self.remote.done(Call::get("/readyz")).await?;
        let now = || self.ambient.monotonic();
        let started = now();
        let sent = Sent::Bytes(vec![vec![0x5a; bytes as usize].into()]);
        let receipt: ProbeReceipt = self.ask(Call::new(Method::PUT, "/v1/probe", sent)).await?;
        let write = now().saturating_sub(started);
        let wall = self.ambient.wall_ms();
        let started = now();
        let read = self.remote.answered(Call::get(format!("/v1/probe?bytes={bytes}")), MAX_ANSWER_BYTES).await?;
        let read_us = now().saturating_sub(started).as_micros() as u64;
        if (receipt.received, read.len() as u64) != (bytes, bytes) {
            let text = format!("of {bytes} bytes {} arrived at the service and {} here", receipt.received, read.len());
            return Err(Fault::of(FaultCode::Integrity, text));
        }
        let skew_ms = Some(receipt.wall_ms as i64 - wall as i64);
        Ok(Probe { bytes, write_us: write.as_micros() as u64, read_us, skew_ms })
    }

    async fn set_tag(
        &self,
        project: &ProjectName,
        txn: TxnId,
        name: &Name,
        tag: &Name,
        number: u64,
    ) -> Result<CommitInfo, Fault> {
        let sent = body(&serde_json::json!({ "number": number, "txn": txn }))?;
        let call = Call::new(Method::PUT, below(project, format_args!("/tags/{name}/{tag}")), sent);
        self.ask(call).await
    }

    async fn verify(&self, request: &VerifyRequest, progress: OnVerify<'_>) -> Result<VerifyReport, Fault> {
        let call = Call::new(Method::POST, below(&request.project, "/verify"), body(request)?);
        lines::last(&self.remote, call, progress).await
    }

    async fn scrub(
        &self,
        request: &ScrubRequest,
        replica: Option<&str>,
        progress: OnVerify<'_>,
    ) -> Result<ScrubReport, Fault> {
        if replica.is_some() {
            let text = "a service repairs from the store that it was started with (serve --scrub-replica URL), and \
                        opens no other for a client";
            return Err(Fault::of(FaultCode::Invalid, text));
        }
        let call = Call::new(Method::POST, below(&request.project, "/scrub"), body(request)?);
        lines::last(&self.remote, call, progress).await
    }

    async fn damaged(&self, project: &ProjectName) -> Result<Vec<DamageMark>, Fault> {
        self.ask(Call::get(below(project, "/damaged"))).await
    }
}

impl Http {
    /// Passes what `taker` wants to it from a place that the service tells, where it tells one: a file, or a signed
    /// URL. What does not come from there is asked of the service itself.
    async fn pass_by(&self, project: &ProjectName, kind: ObjectKind, object: &Stored, taker: &Arc<dyn Taker>) {
        let ask = || async {
            let request = ExistsRequest { kind, objects: vec![*object] };
            self.ask::<PlacesAnswer>(Call::new(Method::POST, below(project, "/places"), body(&request)?)).await
        };
        match self.places.of((project.clone(), kind, *object), &*self.ambient, ask).await {
            // The folder of the service may not be this machine's.
            Some(DirectPlace::Path(path)) => pass_file(&*self.ambient, path, taker, false).await,
            Some(DirectPlace::Url(url)) => {
                let before = taker.rest();
                self.remote.pass_signed(&url, taker).await;
                if !before.is_empty() && taker.rest() == before {
                    self.places.close(self.ambient.monotonic());
                }
            }
            None => {}
        }
    }

    /// Adds the projects that the caller may see to a fault about one that is not there, for suggestions.
    async fn with_known_projects<T: Send>(&self, asked: Result<T, Fault>) -> Result<T, Fault> {
        match asked {
            Err(fault) if fault.code == FaultCode::NotFound && fault.message.starts_with("no project") => {
                let known = self.projects().await.unwrap_or_default();
                Err(Fault { known: known.iter().map(Name::to_string).collect(), ..fault })
            }
            asked => asked,
        }
    }
}
