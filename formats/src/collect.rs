//! What is asked of a collection, and what it says that it did.
//!
//! Must never decide what is garbage: that is the log's, at the record of a fence.

use serde::{Deserialize, Serialize};

use crate::name::{Name, ProjectName};
use crate::object::ObjectKind;
use crate::record::TxnId;

/// How long readers keep what they have bound to, unless told: an hour, four times as long as a signed URL is good.
pub const DEFAULT_GRACE_MS: u64 = 60 * 60 * 1000;

/// After how long without a sign of life a save counts as abandoned, unless told: a day, longer than any save takes and
/// than most queues hold a job between two launches.
pub const DEFAULT_SAVE_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;

/// How a collection is run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CollectRequest {
    /// The project.
    pub project: ProjectName,
    /// The fence's transaction, the same through every retry.
    pub txn: TxnId,
    /// Whether a fence is appended, from which later collections know what is garbage. Without one only what earlier
    /// fences condemned is deleted.
    #[serde(default = "yes")]
    pub fence: bool,
    /// Counts, and changes nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Age that a fence must have before what it condemned is deleted, in milliseconds.
    #[serde(default = "grace")]
    pub grace_ms: u64,
    /// After how many milliseconds without a sign of life a save counts as abandoned.
    #[serde(default = "save_timeout")]
    pub save_timeout_ms: u64,
}

fn yes() -> bool {
    true
}

fn grace() -> u64 {
    DEFAULT_GRACE_MS
}

fn save_timeout() -> u64 {
    DEFAULT_SAVE_TIMEOUT_MS
}

impl CollectRequest {
    /// Returns a collection with a fence, and the default grace and timeout.
    pub fn new(project: ProjectName, txn: TxnId) -> Self {
        let (fence, dry_run, grace_ms, save_timeout_ms) = (yes(), false, grace(), save_timeout());
        Self { project, txn, fence, dry_run, grace_ms, save_timeout_ms }
    }
}

/// A fence of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fence {
    /// The epoch that it raised the project to.
    pub epoch: u64,
    /// Its record.
    pub seq: u64,
    /// Milliseconds since 1970 at the writer.
    pub time: u64,
}

/// A save that is open.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OpenSave {
    /// The save.
    pub save: TxnId,
    /// The run; not known where the announcement is damaged.
    pub run: Option<Name>,
    /// The step.
    pub step: Option<u64>,
    /// The epoch in which it began.
    pub epoch: Option<u64>,
    /// Milliseconds since its last sign of life.
    pub idle_ms: u64,
}

/// What became of the fence.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FenceFate {
    /// None was asked for.
    #[default]
    NotAsked,
    /// It would be appended.
    Would,
    /// It stands in the log.
    Raised(Fence),
    /// An open save that began in an older epoch would be collected under its feet: no fence until it ends, or counts
    /// as abandoned.
    Held(OpenSave),
    /// Another collector's fence came first: its work.
    Raced,
}

/// How many, and how many bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Tally {
    /// Counts one more, of so many bytes.
    pub fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }

    /// Adds up.
    pub fn plus(self, other: Self) -> Self {
        Self { count: self.count + other.count, bytes: self.bytes + other.bytes }
    }
}

/// What a collection did; of a dry run, what it would have done.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CollectReport {
    /// The project's epoch at the end.
    pub epoch: u64,
    /// What became of the fence.
    pub fence: FenceFate,
    /// The fence whose condemned objects were deleted: the newest that is old enough; `None` where none is.
    pub swept: Option<Fence>,
    /// A newer collection has deleted what this one would have, and more.
    pub superseded: bool,
    /// Checkpoints and versions that were live at that fence, all of whose manifests were read and verified.
    pub live: u64,
    /// Packs, files and manifests looked at.
    pub listed: Tally,
    /// Packs deleted.
    pub packs: Tally,
    /// Dataset files deleted.
    pub blobs: Tally,
    /// Manifests, lists of packs and timelines deleted.
    pub manifests: Tally,
    /// Objects deleted of saves that ended or were abandoned.
    pub saves: Tally,
    /// Unfinished files of dead processes deleted, in stores that are folders.
    pub staging: Tally,
    /// Unfinished uploads in parts given up, in stores on S3; their bytes are not known.
    #[serde(default)]
    pub uploads: u64,
    /// Why the unfinished uploads are not known, where the store did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploads_unknown: Option<String>,
}

impl CollectReport {
    /// Returns the tally of a kind of object.
    pub fn tally_mut(&mut self, kind: ObjectKind) -> &mut Tally {
        match kind {
            ObjectKind::Pack => &mut self.packs,
            ObjectKind::Blob => &mut self.blobs,
            ObjectKind::Manifest => &mut self.manifests,
        }
    }

    /// Returns all that was deleted.
    pub fn deleted(&self) -> Tally {
        [self.packs, self.blobs, self.manifests, self.saves, self.staging]
            .into_iter()
            .fold(Tally::default(), Tally::plus)
    }
}

/// Of which project it is added up what is stored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UsageRequest {
    /// The project.
    pub project: ProjectName,
    /// Age that a fence must have before what it condemned counts as reclaimable, in milliseconds.
    #[serde(default = "grace")]
    pub grace_ms: u64,
}

/// What a project stores.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UsageReport {
    /// The epoch.
    pub epoch: u64,
    /// Live checkpoints and versions.
    pub live: u64,
    /// Their bytes, as if each were alone.
    pub logical: u64,
    /// Packs, files and manifests in the store.
    pub stored: Tally,
    /// Those that something live refers to.
    pub needed: Tally,
    /// Those that a collection would delete now.
    pub reclaimable: Tally,
    /// Those that nothing live refers to, and that no fence has condemned yet; uploads of open saves are among them.
    pub later: Tally,
    /// Packs of which less than a quarter is used.
    pub sparse: Tally,
    /// Bytes of those that are used.
    pub sparse_used: u64,
}
