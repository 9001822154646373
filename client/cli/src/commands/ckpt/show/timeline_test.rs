//! Tests of what is said of a timeline: which rank is named, and why.

use gigastore_formats::manifest::timeline::{RankSpan, TimelineMeta};

use super::*;

fn span(phase: Phase, begin_us: u64, wall_us: u64) -> Span {
    Span { phase, begin_us, wall_us, busy_us: wall_us * 2, bytes: 1 << 30, count: 4, retries: None }
}

/// Ranks with a beginning, and how long they hashed and sent.
fn timeline(ranks: &[(u64, u64, u64)]) -> Timeline {
    let committer = vec![span(Phase::Join, 0, 900), span(Phase::Commit, 900, 100)];
    let (run, world_size) = ("run".parse().unwrap(), ranks.len() as u32);
    let mut spans = Vec::new();
    for (rank, (began, hash, upload)) in ranks.iter().enumerate() {
        let total = span(Phase::Total, *began, hash + upload);
        for span in [total, span(Phase::Hash, 0, *hash), span(Phase::Upload, *hash, *upload)] {
            spans.push(RankSpan { rank: rank as u32, span });
        }
    }
    Timeline { meta: TimelineMeta { run, step: 7, world_size, committer }, spans }
}

#[test]
fn the_slowest_rank_comes_first_with_its_reason() {
    let timeline = timeline(&[(0, 1000, 5000), (3, 1000, 5200), (0, 1100, 9_000_000), (1, 1000, 5100)]);
    let report = Report::of(&timeline);
    assert_eq!(report.ranks.iter().map(|(rank, _)| *rank).collect::<Vec<_>>(), [2, 1, 3, 0]);
    assert_eq!(report.reason(), "upload of rank 2 took 9.00 s, 8.99 s more than in the median rank");
    assert_eq!(report.heading("p"), "p/run@7: 4 ranks, the slowest is rank 2 with 9.00 s (median 6.20 ms)");
    let rows = report.rows();
    let upload = rows.iter().find(|row| row[0] == "upload").unwrap();
    assert_eq!(upload[1..6], ["4", "5.00 ms", "5.20 ms", "9.00 s", "2"].map(str::to_owned));
    assert_eq!(rows.last().unwrap()[4], "100 us");
    let document = report.document();
    assert_eq!(document["ranks"][0]["rank"], 2);
    assert_eq!(document["phases"][0]["phase"], "began");
}

#[test]
fn a_rank_that_began_late_is_named_and_else_nobody_is() {
    let late = timeline(&[(0, 1000, 5000), (0, 1000, 5000), (60_000_000, 1000, 5000)]);
    assert_eq!(Report::of(&late).reason(), "rank 2 began 60.0 s after the median rank, by the clocks of both");
    let even = timeline(&[(0, 1000, 5000), (0, 1000, 5000)]);
    assert_eq!(Report::of(&even).reason(), "no rank stands out; the longest phase is upload (median 5.00 ms)");
    let mut silent = timeline(&[(0, 1, 1)]);
    silent.spans.clear();
    assert_eq!(Report::of(&silent).reason(), "no rank told what its phases took");
    assert!(Report::of(&silent).heading("p").contains("1 of them, of older versions, told nothing"));
}

#[test]
fn lines_fit_100_columns_whatever_the_numbers_are() {
    let mut timeline = timeline(&[(u64::MAX, u64::MAX / 4, u64::MAX / 4), (0, 0, 0), (5, 17, 999_999)]);
    for row in &mut timeline.spans {
        row.rank += 1_000_000;
    }
    timeline.meta.world_size = 1 << 20;
    let extreme = Span { begin_us: u64::MAX, wall_us: u64::MAX, ..span(Phase::Commit, 0, 0) };
    timeline.meta.committer = vec![extreme];
    let report = Report::of(&timeline);
    for line in report.drawn() {
        assert!(line.chars().count() <= 100, "{line}");
        assert!(line.contains('#'), "{line}");
    }
    assert!(!report.reason().is_empty() && report.rows().len() > 3);
}
