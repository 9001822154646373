//! What a committer took, and the timeline of the whole save.
//!
//! Measured up to the moment at which the timeline is written; what comes after it (its own upload, the log record)
//! can't be in it. Two committers of one save write two timelines; the record names one of them. Must never decide
//! whether or what is committed.

use std::time::Duration;

use gigastore_formats::ambient::Ambient;
use gigastore_formats::manifest::ManifestError;
use gigastore_formats::manifest::timeline::{Timeline, TimelineMeta, write_timeline};
use gigastore_formats::record::Index;
use gigastore_formats::timeline::{Phase, RankTimeline, Span};
use gigastore_formats::wire::FinishRequest;

use crate::join::Merged;

/// What the committer of a save took so far.
pub(crate) struct CommitterClock {
    join: Span,
    joined: Duration,
}

impl CommitterClock {
    /// Takes note that parts, for which it `waited` and which were `all_there` at that moment, are read and merged.
    pub(crate) fn joined(ambient: &dyn Ambient, waited: Duration, all_there: Duration, merged: &Merged) -> Self {
        let joined = ambient.monotonic();
        let worked = joined.saturating_sub(all_there);
        let join = Span {
            phase: Phase::Join,
            begin_us: 0,
            wall_us: micros(waited + worked),
            busy_us: micros(worked),
            bytes: merged.rows.iter().map(|row| row.slice.bytes()).sum(),
            count: merged.ranks,
            retries: None,
        };
        Self { join, joined }
    }

    /// Makes the timeline of a save whose manifest was just stored.
    pub(super) async fn timeline(
        self,
        ambient: &dyn Ambient,
        request: &FinishRequest,
        manifest: &Index,
        ranks: Vec<(u32, RankTimeline)>,
    ) -> Result<Vec<u8>, ManifestError> {
        let worked = micros(ambient.monotonic().saturating_sub(self.joined));
        let commit = Span {
            phase: Phase::Commit,
            begin_us: self.join.end_us(),
            wall_us: worked,
            busy_us: worked,
            bytes: manifest.len,
            count: 1,
            retries: None,
        };
        let (run, step, world_size) = (request.save.run.clone(), request.save.step, request.save.world_size);
        let meta = TimelineMeta { run, step, world_size, committer: vec![self.join, commit] };
        ambient.computed(move || write_timeline(&Timeline::gathered(meta, &ranks))).await
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
