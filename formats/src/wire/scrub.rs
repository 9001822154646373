//! What is said of scrubbing, of damaged objects and of a log that is made anew.
//!
//! Must never hold behaviour.

use serde::{Deserialize, Serialize};

use super::Finding;
use crate::digest::Digest;
use crate::name::{Name, ProjectName};
use crate::object::Stored;
use crate::record::Sort;

/// What is scrubbed, and how.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScrubRequest {
    /// The project.
    pub project: ProjectName,
    /// Most bytes read in a second; `None`: as fast as the store gives them.
    pub rate: Option<u64>,
    /// Only say what would be repaired: nothing is written, no mark either.
    pub dry_run: bool,
}

/// What a scrub found and did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Log records read.
    pub records: u64,
    /// Checkpoints and dataset versions whose manifests were read.
    pub commits: u64,
    /// Packs and files verified now.
    pub objects: u64,
    /// Those that an earlier call of the same pass has verified, which was interrupted.
    pub before: u64,
    /// Bytes read and hashed now.
    pub bytes_read: u64,
    /// Objects that were put right (with `dry_run`: could be).
    pub repaired: Vec<Repair>,
    /// What is damaged still.
    pub findings: Vec<Finding>,
    /// How much of the project was ever verified.
    pub coverage: Coverage,
}

/// An object that was damaged and is right again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Repair {
    /// The object's key.
    pub object: String,
    /// Bytes of it that were damaged.
    pub bytes: u64,
    /// Where the true ones came from: stores and keys, or `manifest rows and data` for a header.
    pub from: Vec<String>,
}

/// How much of a project was verified by scrubs, and how long ago.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Coverage {
    /// Packs and files that live commits refer to.
    pub objects: u64,
    /// Those of them that were ever verified whole.
    pub verified: u64,
    /// When the one verified longest ago was verified, in milliseconds since 1970; `None` where nothing was.
    pub oldest: Option<u64>,
    /// When a pass over everything last came to its end.
    pub completed: Option<u64>,
    /// Objects that are marked as damaged.
    pub damaged: u64,
}

/// A log that was made anew.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RebuildReport {
    /// What it commits, by name and number.
    pub recovered: Vec<Recovered>,
    /// Manifests that it does not commit, and why.
    pub left: Vec<LeftOut>,
    /// Records of the log.
    pub records: u64,
    /// The epoch that its fences raise the project to.
    pub epoch: u64,
    /// The record up to which a folded state was left, from which tags, pins, policies and drops are known.
    pub folded: Option<u64>,
}

/// A checkpoint or dataset version of a log that was made anew.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Recovered {
    /// The run or dataset.
    pub name: Name,
    /// The step or version.
    pub number: u64,
    /// Which of the two.
    pub sort: Sort,
    /// The content digest.
    pub content: Digest,
    /// The manifest.
    pub manifest: Stored,
    /// When the manifest was stored, in milliseconds since 1970.
    pub time: u64,
}

/// A manifest that no record commits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    /// The manifest's key.
    pub object: String,
    /// Why.
    pub why: String,
}
