//! What the records of a log add up to.
//!
//! Must never change but by folding a record.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use gigastore_formats::collect::Fence;
use gigastore_formats::digest::Digest;
use gigastore_formats::name::{LATEST, Name, Selector};
use gigastore_formats::record::{Commit, Record, Sort, TxnId};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

/// The state of a project after record [`seq`](Self::seq). Its large maps are shared by all clones: whoever holds an
/// older state, such as each commit under way, costs the next record no copy of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Number of the last record folded; 0 for none.
    pub seq: u64,
    /// Its digest.
    pub head: Digest,
    /// The epoch that fences have raised the project to.
    pub epoch: u64,
    /// The fences, ascending. Folded states of older programs know none of those before them, which only delays what
    /// these condemned until the next one.
    #[serde(default)]
    pub fences: Vec<Fence>,
    /// Runs and datasets.
    pub names: OrdMap<Name, Named>,
    /// Every transaction seen, and what became of it.
    pub(super) txns: OrdMap<TxnId, Outcome>,
}

/// A run or dataset.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Named {
    /// Which of the two.
    pub sort: Sort,
    /// Live steps or versions.
    pub live: OrdMap<u64, Arc<Live>>,
    /// Tags that people set, each at a live step or version.
    pub tags: BTreeMap<Name, u64>,
    /// Pinned steps or versions, all live.
    pub pins: BTreeSet<u64>,
    /// The highest number ever committed: a dataset's next version is one more, even after drops.
    pub highest: u64,
    /// What retention keeps, where a policy was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// A live checkpoint or dataset version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Live {
    /// The commit.
    pub commit: Commit,
    /// The record that made it visible.
    pub seq: u64,
    /// Milliseconds since 1970 at the writer.
    pub time: u64,
}

/// What became of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It took effect in this record.
    Took(u64),
    /// A precondition did not hold where it stands: it has no effect, for everyone alike.
    Void(u64, VoidReason),
}

/// Why an entry has no effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VoidReason {
    /// There is a live commit of this number.
    Taken,
    /// The name is that of a dataset, not a run, or the other way round.
    WrongSort,
    /// A dataset's version is not one more than its newest.
    NotNext,
    /// The target is not live.
    NotLive,
    /// The target is pinned.
    Pinned,
    /// A tag points at the target.
    Tagged,
    /// The target is the newest restorable step of its run: the one that `latest` means.
    Newest,
    /// The tag is one that nobody may set: `latest`, or all digits.
    NotATag,
    /// A fence that does not raise the epoch by one.
    NotNextEpoch,
}

impl fmt::Display for VoidReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Taken => "that number is taken",
            Self::WrongSort => "the name is taken by the other of run and dataset",
            Self::NotNext => "another version was committed first",
            Self::NotLive => "its target is not live",
            Self::Pinned => "its target is pinned",
            Self::Tagged => "its target is tagged",
            Self::Newest => "its target is the newest step, the one that latest means",
            Self::NotATag => "latest and names of digits alone can't be tags",
            Self::NotNextEpoch => "another fence was first",
        })
    }
}

impl State {
    /// Returns the state before the first record.
    pub fn origin() -> Self {
        Self { seq: 0, head: Record::origin(), epoch: 0, fences: Vec::new(), names: OrdMap::new(), txns: OrdMap::new() }
    }

    /// Returns what became of a transaction; `None` where no record has it.
    pub fn outcome(&self, txn: TxnId) -> Option<Outcome> {
        self.txns.get(&txn).copied()
    }

    /// Returns a live checkpoint or dataset version.
    pub fn live(&self, name: &Name, number: u64) -> Option<&Arc<Live>> {
        self.names.get(name)?.live.get(&number)
    }

    /// Returns the fence whose deletions may begin at `now`, with so much time for readers: the newest that looks old
    /// enough by its writer's clock, whatever those before it say.
    pub fn fence_of_age(&self, now_ms: u64, grace_ms: u64) -> Option<Fence> {
        self.fences.iter().rev().find(|fence| now_ms.saturating_sub(fence.time) >= grace_ms).copied()
    }

    /// Tells whether an object uploaded in `epoch` is safe from every collection that a fence up to here started.
    pub fn is_usable(&self, epoch: u64) -> bool {
        epoch <= self.epoch && epoch + 1 >= self.epoch
    }
}

impl Named {
    pub(super) fn new(sort: Sort) -> Self {
        let (live, tags, pins) = (OrdMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { sort, live, tags, pins, highest: 0, policy: None }
    }

    /// Returns the newest restorable step or version, which `latest` means: the live one that was committed last, in
    /// the order of the log. It need not have the highest number: a run may go back and save anew from an older step.
    pub fn latest(&self) -> Option<&Arc<Live>> {
        // Commits of one record are of different numbers; the later of them has the higher.
        self.live.values().max_by_key(|live| (live.seq, live.commit.number))
    }

    /// Returns the live commit that a selector means.
    pub fn select(&self, selector: &Selector) -> Option<&Arc<Live>> {
        match selector {
            Selector::Number(number) => self.live.get(number),
            Selector::Tag(tag) if tag.as_str() == LATEST => self.latest(),
            Selector::Tag(tag) => self.live.get(self.tags.get(tag)?),
        }
    }

    /// Returns the tags that point at `number`, `latest` included.
    pub fn tags_of(&self, number: u64) -> Vec<String> {
        let set = self.tags.iter().filter(|(_, at)| **at == number).map(|(tag, _)| tag.to_string());
        let latest = self.latest().filter(|live| live.commit.number == number);
        set.chain(latest.map(|_| LATEST.to_owned())).collect()
    }
}
