//! Tests of timelines: round trips, the frozen fixture, ranks that say nothing or too much, size, and hostile bytes.

use proptest::prelude::*;

use super::super::samples::{damaged, written};
use super::*;

pub(crate) fn span(phase: Phase, number: u64) -> Span {
    let retries = number.is_multiple_of(2).then_some(number % 7);
    Span { phase, begin_us: number, wall_us: number * 1000, busy_us: number * 1500, bytes: 4096, count: 3, retries }
}

fn meta(world_size: u32) -> TimelineMeta {
    let committer = vec![span(Phase::Join, 5), span(Phase::Commit, 6)];
    TimelineMeta { run: "minilm".parse().unwrap(), step: 100, world_size, committer }
}

fn rank(rank: u32) -> (u32, RankTimeline) {
    let phases = [Phase::Total, Phase::Plan, Phase::Hash, Phase::Upload];
    let spans = phases.into_iter().map(|phase| span(phase, u64::from(rank) + phase as u64)).collect();
    (rank, RankTimeline { began_ms: 1_700_000_000_000 + u64::from(rank % 3), spans })
}

fn timeline(ranks: u32) -> Timeline {
    Timeline::gathered(meta(ranks), &(0..ranks).map(rank).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn round_trips(ranks in prop::collection::btree_map(0u32..500, any::<(u64, u64, u64, Option<u64>)>(), 0..40)) {
        let ranks: Vec<(u32, RankTimeline)> = ranks
            .into_iter()
            .map(|(rank, (began_ms, wall_us, bytes, retries))| {
                let whole = Span { wall_us, bytes, retries, ..span(Phase::Total, 0) };
                (rank, RankTimeline { began_ms, spans: vec![whole, span(Phase::Hash, bytes % 1000)] })
            })
            .collect();
        let timeline = Timeline::gathered(meta(500), &ranks);
        prop_assert_eq!(timeline.spans.len(), ranks.len() * 2);
        let file = Bytes::from(write_timeline(&timeline).unwrap());
        prop_assert_eq!(read_timeline(&file).unwrap(), timeline);
    }
}

#[test]
fn version_1_is_still_read_and_still_written() {
    let fixture = Bytes::from_static(include_bytes!("../../fixtures/timeline-1.parquet"));
    assert_eq!(read_timeline(&fixture).unwrap(), timeline(4));
    assert_eq!(write_timeline(&timeline(4)).unwrap(), written!("timeline-1"), "the same spans gave other bytes");
}

#[test]
fn totals_begin_after_the_rank_that_began_first_and_phases_of_newer_versions_are_left_out() {
    let mut ranks = vec![rank(0), rank(2)];
    ranks[0].1.spans.push(span(Phase::Other, 1));
    let gathered = Timeline::gathered(meta(3), &ranks);
    let totals: Vec<_> = gathered.spans.iter().filter(|row| row.span.phase == Phase::Total).collect();
    assert_eq!(totals.iter().map(|row| (row.rank, row.span.begin_us)).collect::<Vec<_>>(), [(0, 0), (2, 2000)]);
    assert!(gathered.spans.iter().all(|row| row.span.phase != Phase::Other));
}

#[test]
fn what_can_not_be_a_timeline_is_refused() {
    let outside = Timeline { meta: meta(3), ..timeline(4) };
    let error = write_timeline(&outside).unwrap_err();
    assert!(matches!(error, ManifestError::Bounds(MetaError::World { rank: 3, world_size: 3 })), "{error}");
    let mut twice = timeline(1);
    twice.spans.push(twice.spans[3]);
    assert!(matches!(write_timeline(&twice), Err(ManifestError::Order { .. })));
    let many = TimelineMeta { committer: vec![span(Phase::Join, 1); 2], ..meta(1) };
    let error = write_timeline(&Timeline { meta: many, spans: Vec::new() }).unwrap_err();
    assert!(matches!(error, ManifestError::Bounds(MetaError::Spans { actual: 2, .. })), "{error}");
}

#[test]
fn a_row_costs_less_than_50_bytes() {
    let ranks = 20_000;
    let noisy = |(rank, mut timeline): (u32, RankTimeline)| {
        for (i, span) in timeline.spans.iter_mut().enumerate() {
            // The multiplier of Knuth's hash: times of real ranks share no digits.
            let noise = (u64::from(rank) * 4 + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            (span.begin_us, span.wall_us, span.busy_us) = (noise, noise ^ 0x5_5555, noise.rotate_left(7) >> 8);
            span.bytes = 1 << 30 | noise;
        }
        (rank, timeline)
    };
    let all: Vec<(u32, RankTimeline)> = (0..ranks).map(rank).map(noisy).collect();
    let timeline = Timeline::gathered(meta(ranks), &all);
    let file = write_timeline(&timeline).unwrap();
    let each = file.len() / timeline.spans.len();
    assert!(each < 50, "{each} bytes a row");
}

#[test]
fn damage_is_refused_and_never_panics() {
    damaged(&write_timeline(&timeline(8)).unwrap(), read_timeline);
}
