//! What a client and a store say to each other: requests, answers, faults. The same for a store in this process and for
//! one behind HTTP.
//!
//! Must never hold behaviour beyond parsing and printing.

mod scrub;
mod seal;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::name::{Name, ProjectName};
use crate::object::{ObjectKind, Stored};
use crate::record::{Commit, Record, Sort, TxnId};

pub use scrub::{Coverage, LeftOut, RebuildReport, Recovered, Repair, ScrubReport, ScrubRequest};
pub use seal::{SEAL_HEADER, check_seal};

/// A save of one checkpoint, as every rank of it describes it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SaveRequest {
    /// The project.
    pub project: ProjectName,
    /// The run.
    pub run: Name,
    /// The step.
    pub step: u64,
    /// What tells this attempt from others at the same step: from the launcher, or drawn at random.
    pub attempt: String,
    /// Ranks that take part.
    pub world_size: u32,
}

/// An open save.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// Its id, which is also its transaction.
    pub save: TxnId,
    /// The epoch to upload under.
    pub epoch: u64,
    /// The checkpoint that is live at this step already, if there is one.
    pub existing: Option<CommitInfo>,
}

/// How a save is finished.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FinishRequest {
    /// The save.
    pub save: SaveRequest,
    /// A tag to set at the checkpoint, in the same record.
    pub tag: Option<Name>,
    /// How long to wait for the parts of other ranks, in milliseconds.
    pub deadline_ms: u64,
    /// How long the caller has waited in earlier calls for the same, in milliseconds: for the timeline only.
    #[serde(default)]
    pub waited_ms: u64,
}

/// How a dataset version is committed; its manifest comes beside it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatasetRequest {
    /// The project.
    pub project: ProjectName,
    /// The operation, the same through every retry.
    pub txn: TxnId,
    /// The epoch that its files were uploaded under, as far as the client knows: for messages only. What is safe is
    /// decided by the names of the files.
    pub epoch: u64,
    /// A tag to set at the version, in the same record.
    pub tag: Option<Name>,
}

/// A checkpoint or dataset version that was committed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Committed {
    /// What is live now.
    pub info: CommitInfo,
    /// It was there before with the same content; nothing was committed.
    pub existed: bool,
}

/// A live checkpoint or dataset version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CommitInfo {
    /// What was committed.
    pub commit: Commit,
    /// The record that made it visible.
    pub seq: u64,
    /// Milliseconds since 1970 at the writer.
    pub time: u64,
    /// Tags that point at it, `latest` included.
    pub tags: Vec<String>,
    /// Whether it is pinned.
    pub pinned: bool,
}

/// A run or dataset.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NameInfo {
    /// Its name.
    pub name: Name,
    /// Which of the two.
    pub sort: Sort,
    /// Live steps or versions, ascending.
    pub live: Vec<CommitInfo>,
    /// The highest step or version ever committed; a dataset's next version is one more, even after drops.
    pub highest: u64,
}

/// A file of a checkpoint or dataset version: one that was saved, or one that tensors make.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileInfo {
    /// Its path.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// What names its content for caches: files of one tag have the same bytes.
    pub tag: Digest,
    /// BLAKE3 of its bytes, where that is known: not of a file that tensors make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<Digest>,
}

/// A project as a reader sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProjectInfo {
    /// The project.
    pub project: ProjectName,
    /// Number of the newest record.
    pub seq: u64,
    /// The epoch.
    pub epoch: u64,
    /// Runs and datasets, by name.
    pub names: Vec<NameInfo>,
}

/// How much of each object a verification reads.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// Every object is there with the right length; log, manifests and lists are read whole.
    Quick,
    /// As quick, and this share of the packs and files (more than 0, at most 1) is read whole.
    Sample(f64),
    /// Every byte of every object is read and hashed.
    Full,
}

/// What a verification covers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// The project.
    pub project: ProjectName,
    /// Only this run or dataset.
    pub name: Option<Name>,
    /// Only this step or version of it.
    pub number: Option<u64>,
    /// How much is read.
    pub depth: Depth,
}

/// What a verification found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Log records read.
    pub records: u64,
    /// Checkpoints and dataset versions looked at.
    pub commits: u64,
    /// Objects looked at.
    pub objects: u64,
    /// Bytes of objects read and hashed.
    pub bytes_read: u64,
    /// Bytes of objects whose length alone was checked.
    pub bytes_by_length: u64,
    /// Everything that is not as it should be.
    pub findings: Vec<Finding>,
}

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// The object's key.
    pub object: String,
    /// What a reader would lose: each row of a manifest that needs the bytes, as target and slice (`run@100 w[0:4]`) or
    /// path (`data@3 train/a.parquet`), or everything after a record. Where a whole pack is lost, its first slices.
    pub affects: Vec<String>,
    /// The damaged bytes of the object, where they are known: first, and after the last.
    pub range: Option<(u64, u64)>,
    /// What was found, with expected and actual.
    pub problem: String,
}

/// How the problem of a finding begins whose object could not be read.
const UNREADABLE: &str = "could not be read: ";

impl Finding {
    /// Returns a finding of an object that could not be read: whether it is damaged is not known.
    pub fn unreadable(object: String, affects: Vec<String>, why: &str) -> Self {
        Self { object, affects, range: None, problem: format!("{UNREADABLE}{why}") }
    }

    /// Tells whether the object could not be read.
    pub fn is_unreadable(&self) -> bool {
        self.problem.starts_with(UNREADABLE)
    }
}

/// How far a verification is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VerifyProgress {
    /// Objects done.
    pub objects_done: u64,
    /// Objects in all.
    pub objects: u64,
    /// Bytes read.
    pub bytes_done: u64,
    /// Bytes to be read in all.
    pub bytes: u64,
}

/// What kind of fault it is: decides exit codes and HTTP statuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultCode {
    /// The request makes no sense.
    Invalid,
    /// The named thing is not there.
    NotFound,
    /// The named thing was dropped.
    Gone,
    /// Something else is there already, or came first.
    Conflict,
    /// Ranks of a save have not delivered their parts in time.
    MissingRanks,
    /// The operation is under way and goes on; the same call waits for it.
    InProgress,
    /// Stored bytes are not what was committed.
    Integrity,
    /// An object that a commit refers to is not there: damage, unless the commit was dropped meanwhile.
    Lost,
    /// Bytes that were sent are not those that were promised.
    BadUpload,
    /// The store did not answer; the same call may succeed later.
    Unavailable,
    /// It is not known whether a commit took effect; the same call finds out.
    CommitStateUnknown,
    /// No room left in the store.
    StoreFull,
    /// The store takes no writes.
    ReadOnly,
    /// The credentials do not allow it.
    Denied,
    /// The store is of a newer format.
    NewerFormat,
}

/// A fault as a client sees it, whichever way it came.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// What kind.
    pub code: FaultCode,
    /// What happened, with all its causes.
    pub message: String,
    /// The object concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// What was expected of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Names that exist where the asked one does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<String>,
    /// The request that failed, as the service's own log names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// Returns the text of `error` and of all its causes.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let (mut message, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        let text = error.to_string();
        // A transparent wrapper prints its cause: said once is enough.
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = error.source();
    }
    message
}

impl Fault {
    /// Returns a fault with the text of `error` and of all its causes.
    pub fn new(code: FaultCode, error: &dyn std::error::Error) -> Self {
        Self::of(code, with_causes(error))
    }

    /// Returns a fault with this text alone.
    pub fn of(code: FaultCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            object: None,
            expected: None,
            actual: None,
            hint: None,
            known: Vec::new(),
            request_id: None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// What a trial of a store found. A store that fails a trial is a fault instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Probe {
    /// Bytes that were written and read.
    pub bytes: u64,
    /// Time of the write, in microseconds.
    pub write_us: u64,
    /// Time of the read, in microseconds.
    pub read_us: u64,
    /// The store's (or service's) clock less this machine's, in milliseconds, where it tells.
    pub skew_ms: Option<i64>,
}

/// What a service answers to the bytes of a trial.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProbeReceipt {
    /// Bytes that came.
    pub received: u64,
    /// Milliseconds since 1970 at the service.
    pub wall_ms: u64,
}

/// Objects whose lengths are asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExistsRequest {
    /// Their kind.
    pub kind: ObjectKind,
    /// The objects.
    pub objects: Vec<Stored>,
}

/// Where objects can be read without the service: the same bytes, which are verified all the same.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PlacesAnswer {
    /// Whether the service tells at all.
    pub direct: bool,
    /// A place for each object that was asked for, where there is one.
    pub places: Vec<Option<DirectPlace>>,
    /// Milliseconds for which the places are good.
    pub valid_ms: u64,
}

/// Where an object can be read without the service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DirectPlace {
    /// A file, on machines that share the store's file system.
    Path(PathBuf),
    /// A signed URL that may be read with GET and Range.
    Url(String),
}

/// Records of a log after a number, oldest first; empty where none came in the time that was waited.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogPage {
    /// The records.
    pub records: Vec<Record>,
}

/// One line of the answer to work that takes long: how far it is, until the last line has the report or a fault. Work
/// that can't tell how far it is has a progress of `null`: it goes on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line<R, P = VerifyProgress> {
    /// How far it is.
    Progress(P),
    /// What came of it.
    Report(R),
    /// Why it ended early.
    Fault(Fault),
}
