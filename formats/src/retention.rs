//! What is kept: pins, drops, and the policies by which old steps are dropped.
//!
//! A policy is stored in the log as JSON of its own version. It compares times of the log with each other, never with a
//! clock. Must never drop by itself: it only says what it would not keep.

use serde::{Deserialize, Serialize};

use crate::name::{Name, ProjectName};
use crate::record::TxnId;

/// Version of the stored policies that this crate reads and writes.
pub const POLICY_VERSION: u32 = 1;

/// Bytes of a stored policy: 4 KiB; it has four numbers, and newer versions may say more.
pub const MAX_POLICY_BYTES: usize = 4096;

/// What is done to a step or version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Keeps it from being dropped.
    Pin,
    /// Takes its pin away.
    Unpin,
    /// Ends its life. Final; what it alone needs is collected later.
    Drop,
}

/// A step or version to which something was done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Done {
    /// The run or dataset.
    pub name: Name,
    /// The step or version.
    pub number: u64,
    /// What was done.
    pub verb: Verb,
    /// The record by which it took effect.
    pub seq: u64,
}

/// Which steps of a run, or versions of a dataset, are kept: those that any of its rules names. Whatever it says, what
/// is tagged or pinned, the newest, and the newest that verifies are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Policy {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    every: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    younger_than_ms: Option<u64>,
}

/// A policy as it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    version: u32,
    last: Option<u64>,
    every: Option<u64>,
    younger_than_ms: Option<u64>,
}

impl TryFrom<Unchecked> for Policy {
    type Error = PolicyError;

    fn try_from(read: Unchecked) -> Result<Self, PolicyError> {
        let Unchecked { version, last, every, younger_than_ms } = read;
        if version > POLICY_VERSION {
            return Err(PolicyError::Newer { actual: version });
        }
        Self::new(last, every, younger_than_ms)
    }
}

/// Why a policy can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It keeps nothing.
    #[error("a policy that keeps nothing: expected at least one of last (1 or more), every (1 or more), younger than")]
    Empty,
    /// It is too long.
    #[error("a policy of {actual} bytes, over the limit of {MAX_POLICY_BYTES}")]
    TooLong {
        /// Its bytes.
        actual: usize,
    },
    /// It is of a newer version.
    #[error("a policy of version {actual}, this program knows up to {POLICY_VERSION}: use a newer gigastore")]
    Newer {
        /// Its version.
        actual: u32,
    },
    /// It is no policy.
    #[error("not a policy (was it written by a newer version?): {0}")]
    Content(#[source] serde_json::Error),
}

impl Policy {
    /// Makes a policy of its rules, at least one of which keeps something.
    pub fn new(last: Option<u64>, every: Option<u64>, younger_than_ms: Option<u64>) -> Result<Self, PolicyError> {
        let rules = [last, every, younger_than_ms];
        let sound = rules.iter().any(Option::is_some) && rules.iter().flatten().all(|number| *number > 0);
        if sound { Ok(Self { version: POLICY_VERSION, last, every, younger_than_ms }) } else { Err(PolicyError::Empty) }
    }

    /// Returns the so many that are kept for having been committed last.
    pub fn last(&self) -> Option<u64> {
        self.last
    }

    /// Returns the number whose multiples are kept.
    pub fn every(&self) -> Option<u64> {
        self.every
    }

    /// Returns how much older than the newest those may be that are kept for their age.
    pub fn younger_than_ms(&self) -> Option<u64> {
        self.younger_than_ms
    }

    /// Returns the stored text.
    ///
    /// # Panics
    /// Never: a policy is plain data.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a policy is plain data")
    }

    /// Reads a stored text.
    pub fn of_text(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLong { actual: text.len() });
        }
        /// What every version has.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_str(text).map_err(PolicyError::Content)?;
        if version > POLICY_VERSION {
            return Err(PolicyError::Newer { actual: version });
        }
        serde_json::from_str::<Unchecked>(text).map_err(PolicyError::Content)?.try_into()
    }

    /// Returns the numbers that no rule keeps, ascending; of all live steps or versions in any order.
    pub fn drops(&self, live: &[Candidate]) -> Vec<u64> {
        let mut by_age: Vec<&Candidate> = live.iter().collect();
        by_age.sort_unstable_by_key(|one| std::cmp::Reverse((one.seq, one.number)));
        let newest = by_age.first().map_or(0, |one| one.time);
        let last = self.last.map_or(1, |last| last.max(1));
        let keeps = |(age, one): &(usize, &Candidate)| {
            one.held
                || (*age as u64) < last
                || self.every.is_some_and(|every| one.number.is_multiple_of(every))
                || self.younger_than_ms.is_some_and(|most| newest.saturating_sub(one.time) < most)
        };
        let dropped = by_age.into_iter().enumerate().filter(|one| !keeps(one));
        let mut dropped: Vec<u64> = dropped.map(|(_, one)| one.number).collect();
        dropped.sort_unstable();
        dropped
    }
}

/// A live step or version, as a policy looks at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The step or version.
    pub number: u64,
    /// The record of its commit.
    pub seq: u64,
    /// Milliseconds since 1970 at its writer.
    pub time: u64,
    /// Tagged or pinned: it is kept.
    pub held: bool,
}

/// The policy of a run or dataset.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NamePolicy {
    /// The run or dataset.
    pub name: Name,
    /// What it keeps.
    pub policy: Policy,
}

/// Which policies are applied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetainRequest {
    /// The project.
    pub project: ProjectName,
    /// Only this run or dataset.
    #[serde(default)]
    pub name: Option<Name>,
    /// The operation, the same through every retry.
    pub txn: TxnId,
    /// A policy to be tried instead of the stored ones; only in a dry run.
    #[serde(default)]
    pub policy: Option<Policy>,
    /// Says what would be dropped, and drops nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What retention did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RetainReport {
    /// Runs and datasets that have a policy, by name.
    pub names: Vec<Retained>,
    /// Those whose policy can't be used: nothing of them was dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unusable: Vec<UnusablePolicy>,
}

/// A stored policy that can't be used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnusablePolicy {
    /// The run or dataset.
    pub name: Name,
    /// Why.
    pub problem: String,
}

/// What retention did to one run or dataset.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Retained {
    /// The run or dataset.
    pub name: Name,
    /// Its policy.
    pub policy: Policy,
    /// What was dropped, ascending.
    pub dropped: Vec<u64>,
    /// How many are live after that.
    pub live: u64,
    /// The newest that verifies, kept whatever the policy says; `None` where none does.
    pub newest_sound: Option<u64>,
    /// Those newer than it, which do not verify.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u64, seq: u64, time: u64) -> Candidate {
        Candidate { number, seq, time, held: false }
    }

    #[test]
    fn every_rule_keeps_and_none_takes_what_another_keeps() {
        let live: Vec<Candidate> = (1..=10).map(|n| at(n * 10, n, n * 1000)).collect();
        let drops = |last, every, younger| Policy::new(last, every, younger).unwrap().drops(&live);
        assert_eq!(drops(Some(3), None, None), [10, 20, 30, 40, 50, 60, 70]);
        assert_eq!(drops(None, Some(50), None), [10, 20, 30, 40, 60, 70, 80, 90]);
        assert_eq!(drops(None, None, Some(2001)), [10, 20, 30, 40, 50, 60, 70]);
        assert_eq!(drops(Some(1), Some(40), Some(1)), [10, 20, 30, 50, 60, 70, 90]);
        assert_eq!(drops(Some(u64::MAX), None, None), [0; 0]);
        let mut held = live.clone();
        held[1].held = true;
        assert!(!Policy::new(Some(1), None, None).unwrap().drops(&held).contains(&20));
        assert!(Policy::new(Some(1), None, None).unwrap().drops(&[]).is_empty());
    }

    #[test]
    fn the_newest_is_what_was_committed_last_whatever_its_number_or_clock() {
        // A run that went back to step 10, on a machine whose clock is behind.
        let live = [at(30, 1, 5000), at(40, 2, 6000), at(10, 3, 100)];
        assert_eq!(Policy::new(Some(1), None, None).unwrap().drops(&live), [30, 40]);
        assert_eq!(
            Policy::new(None, None, Some(1)).unwrap().drops(&live),
            [0; 0],
            "none is older by the newest's time"
        );
        assert_eq!(Policy::new(None, Some(7), None).unwrap().drops(&live), [30, 40]);
    }

    #[test]
    fn a_policy_of_version_1_is_still_read_and_others_are_refused() {
        let policy = Policy::new(Some(5), Some(1000), Some(86_400_000)).unwrap();
        let text = r#"{"version":1,"last":5,"every":1000,"younger_than_ms":86400000}"#;
        assert_eq!((policy.to_text().as_str(), Policy::of_text(text).unwrap()), (text, policy));
        assert!(matches!(Policy::of_text(r#"{"version":2,"keep":1}"#), Err(PolicyError::Newer { actual: 2 })));
        assert!(matches!(Policy::of_text(r#"{"version":1}"#), Err(PolicyError::Empty)));
        assert!(matches!(Policy::of_text(r#"{"version":1,"last":0}"#), Err(PolicyError::Empty)));
        assert!(matches!(Policy::of_text(r#"{"version":1,"last":1,"x":1}"#), Err(PolicyError::Content(_))));
        assert!(matches!(Policy::of_text("last 5"), Err(PolicyError::Content(_))));
        assert!(matches!(Policy::of_text(&" ".repeat(5000)), Err(PolicyError::TooLong { actual: 5000 })));
        assert!(Policy::new(None, None, None).is_err() && Policy::new(Some(1), Some(0), None).is_err());
    }
}
