//! What a save took: the phases of each rank, and those of whoever committed. Recorded with the checkpoint.
//!
//! Times are of monotonic clocks, in microseconds, and are for people: must never decide anything, nor enter a digest
//! of content.

use serde::{Deserialize, Serialize};

/// A phase of a save.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// A rank, from its first phase until its part was ready to be delivered (the delivery itself can't be in it).
    Total,
    /// What the store has already is looked up, and slices are put into packs.
    Plan,
    /// The state is copied to staging memory, or read from files.
    Stage,
    /// Slices are hashed.
    Hash,
    /// Slices are compressed.
    Code,
    /// The store is asked which packs it has.
    Exists,
    /// Packs are sent.
    Upload,
    /// The committer waits for the parts of all ranks, reads and merges them.
    Join,
    /// The committer looks up every pack, and writes manifest and list of packs. The log record, which comes after the
    /// timeline, can't be in it.
    Commit,
    /// One that this version does not know. Never stored.
    #[serde(other)]
    Other,
}

/// What one phase took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Span {
    /// The phase.
    pub phase: Phase,
    /// When its first work began: microseconds after the rank (or the committer) began; of [`Phase::Total`], after the
    /// rank that began first did, by the clocks of the ranks.
    pub begin_us: u64,
    /// From when its first work began until its last ended, in microseconds.
    pub wall_us: u64,
    /// Its pieces of work added up, in microseconds: more than `wall_us` where several run at the same time, less where
    /// it waited between them.
    pub busy_us: u64,
    /// Bytes that it worked on.
    pub bytes: u64,
    /// Pieces of work.
    pub count: u64,
    /// Requests that had to be sent again, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u64>,
}

/// The phases of one rank, as its part tells them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RankTimeline {
    /// Milliseconds since 1970 when the rank began, by its clock.
    pub began_ms: u64,
    /// One span a phase, the total among them, which begins at 0.
    pub spans: Vec<Span>,
}

impl Phase {
    /// Every phase that is stored, in the order of a save.
    pub const ALL: [Self; 9] = [
        Self::Total,
        Self::Plan,
        Self::Stage,
        Self::Hash,
        Self::Code,
        Self::Exists,
        Self::Upload,
        Self::Join,
        Self::Commit,
    ];

    /// Returns the word that is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Plan => "plan",
            Self::Stage => "stage",
            Self::Hash => "hash",
            Self::Code => "code",
            Self::Exists => "exists",
            Self::Upload => "upload",
            Self::Join => "join",
            Self::Commit => "commit",
            Self::Other => "other",
        }
    }

    /// Returns the phase that a stored word means: [`Phase::Other`] where a newer version wrote it.
    pub fn of_word(word: &str) -> Self {
        Self::ALL.into_iter().find(|phase| phase.as_str() == word).unwrap_or(Self::Other)
    }
}

impl Span {
    /// Returns when its last work ended, in microseconds on the clock of `begin_us`.
    pub fn end_us(&self) -> u64 {
        self.begin_us.saturating_add(self.wall_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_json_and_unknown_ones_are_read() {
        for phase in Phase::ALL {
            assert_eq!(serde_json::to_string(&phase).unwrap(), format!("{:?}", phase.as_str()));
            assert_eq!(Phase::of_word(phase.as_str()), phase);
        }
        let newer =
            r#"{"began_ms":1,"spans":[{"phase":"sign","begin_us":1,"wall_us":2,"busy_us":3,"bytes":4,"count":5}]}"#;
        let read: RankTimeline = serde_json::from_str(newer).unwrap();
        assert_eq!(read.spans[0].phase, Phase::Other);
        assert_eq!(Phase::of_word("sign"), Phase::Other);
    }
}
