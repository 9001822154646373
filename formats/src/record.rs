//! The records of the log: what was committed, in what order, chained by digests.
//!
//! A record is a [sealed](crate::sealed) document: `{"seq":7,"prev":"…","entries":[…]}` and its BLAKE3. `prev` is the
//! digest of the record before it, so a changed byte or a swapped record shows. Must never decide whether an entry
//! takes effect: that is the fold's, from all records before it.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::{MAX_MANIFEST_BYTES, MAX_RECORD_BYTES, MAX_RECORD_ENTRIES};
use crate::name::Name;
use crate::object::Stored;
use crate::sealed::{SealError, seal, unseal};
use crate::verified::{GroupTree, TreeError};

/// Version of the stored formats that this crate reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// `gigastore.json` at the root of a store: what it is, and in which version of the formats.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Marker {
    /// Always `gigastore`.
    pub format: String,
    /// The version of the formats; a store of a newer one is refused.
    pub version: u32,
}

impl Marker {
    /// Returns the marker of [`FORMAT_VERSION`].
    pub fn current() -> Self {
        Self { format: "gigastore".to_owned(), version: FORMAT_VERSION }
    }
}

/// The identity of an operation on the log: the same through every retry and restart of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TxnId(pub Digest);

impl TxnId {
    /// Derives an id from the parts that name the operation. Parts are length-prefixed, so that no two lists collide.
    pub fn derive(parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("gigastore 1 transaction id");
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(Digest::from(hasher.finalize()))
    }
}

impl std::fmt::Display for TxnId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One record of a project's log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Position in the log; the first is 1.
    pub seq: u64,
    /// Digest of the record before it; of no bytes for the first.
    pub prev: Digest,
    /// What happened, in order.
    pub entries: Vec<Entry>,
}

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The operation.
    pub txn: TxnId,
    /// Milliseconds since 1970 at the writer: for people and retention only, no part of any decision on commits.
    pub time: u64,
    /// What it does.
    #[serde(flatten)]
    pub action: Action,
}

/// What an entry does, if its preconditions hold where it stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Action {
    /// Makes a checkpoint or a dataset version visible. Needs: the name is of that sort or new; the number is not taken
    /// (a dataset's version is one more than its newest).
    Commit(Box<Commit>),
    /// Points a tag of a run or dataset at one of its live steps or versions. Needs: the target is live, and the tag is
    /// neither `latest`, which follows commits by itself, nor all digits.
    Tag {
        /// The run or dataset.
        name: Name,
        /// The tag.
        tag: Name,
        /// The step or version.
        number: u64,
    },
    /// Keeps a step or version from being dropped. Needs: the target is live.
    Pin {
        /// The run or dataset.
        name: Name,
        /// The step or version.
        number: u64,
    },
    /// Takes a pin away.
    Unpin {
        /// The run or dataset.
        name: Name,
        /// The step or version.
        number: u64,
    },
    /// Ends the life of a step or version; deletes nothing by itself and is final. Needs: live, unpinned, untagged (by
    /// a tag a person set), and not the newest restorable step of its run: the one committed last, which `latest`
    /// means.
    Drop {
        /// The run or dataset.
        name: Name,
        /// The step or version.
        number: u64,
    },
    /// Sets what retention keeps; the text is that of the policy's own format.
    Policy {
        /// The run or dataset.
        name: Name,
        /// The policy.
        policy: String,
    },
    /// Raises the project's epoch, by exactly one.
    Fence {
        /// The new epoch.
        epoch: u64,
    },
}

/// What a commit is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// A step of a run.
    Checkpoint,
    /// A version of a dataset.
    Dataset,
}

/// A checkpoint or a dataset version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Commit {
    /// Checkpoint or dataset.
    pub sort: Sort,
    /// The run or dataset.
    pub name: Name,
    /// The step or version.
    pub number: u64,
    /// The index of all it has.
    pub manifest: Index,
    /// A checkpoint's list of distinct packs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packs: Option<Index>,
    /// What the phases of its save took. Two committers of one save may have measured different times: this is the
    /// timeline of the one whose record it is; that of the other is an object that nothing refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Index>,
    /// Digest of what it holds, independent of where things lie.
    pub content: Digest,
    /// Logical bytes.
    pub bytes: u64,
    /// Slices of a checkpoint, files of a dataset.
    pub items: u64,
    /// Ranks that saved a checkpoint; 0 for a dataset.
    pub world_size: u32,
}

impl Commit {
    /// Returns everything beside packs and files that it refers to: manifest, list of packs, timeline.
    pub fn indexes(&self) -> impl Iterator<Item = &Index> {
        std::iter::once(&self.manifest).chain(&self.packs).chain(&self.timeline)
    }
}

/// A stored manifest with all that is needed to check any range of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Index {
    /// The object.
    pub object: Stored,
    /// Bytes.
    pub len: u64,
    /// Group values, hex; empty for one group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub groups: String,
}

impl Index {
    /// Describes a manifest that is stored as `object`.
    pub fn new(object: Stored, tree: &GroupTree) -> Self {
        Self { object, len: tree.len(), groups: tree.values_hex() }
    }

    /// Returns the group tree, proven against the object's digest.
    pub fn tree(&self) -> Result<GroupTree, TreeError> {
        let len = self.len.min(MAX_MANIFEST_BYTES);
        GroupTree::proven_hex(self.object.digest, len, &self.groups)
    }
}

/// Why bytes are not the record that should stand at their place.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The document does not check.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The record is another one.
    #[error("log record says it is number {actual}, expected {expected}: it was moved or copied")]
    Seq {
        /// Its place.
        expected: u64,
        /// What it says.
        actual: u64,
    },
    /// The record does not follow the one before it.
    #[error(
        "log record {seq} follows a record with digest {actual}, but record {before} has {expected}",
        before = seq - 1
    )]
    Chain {
        /// Its place.
        seq: u64,
        /// Digest of the record before it.
        expected: Digest,
        /// What it says.
        actual: Digest,
    },
    /// More entries than a record may have.
    #[error("log record {seq} has {entries} entries, over the limit of {MAX_RECORD_ENTRIES}")]
    Entries {
        /// Its place.
        seq: u64,
        /// Entries.
        entries: usize,
    },
}

impl Record {
    /// Returns the digest that `prev` of the first record has.
    pub fn origin() -> Digest {
        Digest::of(&[])
    }

    /// Returns the stored bytes and their digest.
    pub fn seal(&self) -> (Vec<u8>, Digest) {
        seal(self)
    }

    /// Checks the bytes of record `seq`, which must follow the record with digest `prev`.
    pub fn unseal(bytes: &[u8], seq: u64, prev: Digest) -> Result<(Self, Digest), RecordError> {
        let (record, digest): (Self, Digest) = unseal(bytes, MAX_RECORD_BYTES)?;
        if record.seq != seq {
            return Err(RecordError::Seq { expected: seq, actual: record.seq });
        }
        if record.prev != prev {
            return Err(RecordError::Chain { seq, expected: prev, actual: record.prev });
        }
        if record.entries.len() > MAX_RECORD_ENTRIES {
            return Err(RecordError::Entries { seq, entries: record.entries.len() });
        }
        Ok((record, digest))
    }
}

/// `saves/<save>/begin.json`: a save is open, and which one it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaveBegin {
    /// The run.
    pub run: Name,
    /// The step.
    pub step: u64,
    /// What tells this attempt from others at the same step: from the launcher, or drawn at random.
    pub attempt: String,
    /// Ranks that take part.
    pub world_size: u32,
    /// The project's epoch when the save began: a hint for collectors.
    pub epoch: u64,
}

impl SaveBegin {
    /// Returns the save's id, which is also its transaction id: a function of target and attempt alone, so that every
    /// rank finds it without asking.
    pub fn id(project: &Name, run: &Name, step: u64, attempt: &str) -> TxnId {
        let step = step.to_le_bytes();
        TxnId::derive(&[b"save", project.as_str().as_bytes(), run.as_str().as_bytes(), &step, attempt.as_bytes()])
    }
}

#[cfg(test)]
#[path = "record_test.rs"]
mod tests;
