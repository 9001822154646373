//! Timelines: what each phase of each rank of a save took, one row a phase and rank, stored beside the manifest.
//!
//! | column | |
//! |---|---|
//! | `phase`, `rank` | rows are sorted by these, phases in the order of a save |
//! | `begin_us`, `wall_us`, `busy_us` | see [`Span`] |
//! | `bytes`, `count`, `retries` | likewise; `retries` is null where it is not known |
//!
//! What the committer did has no rank: it stands with run, step and world size in what the file says of itself. Must
//! never be needed to read a checkpoint.

use std::collections::BTreeSet;

use arrow_array::{Array, ArrayRef};
use arrow_schema::Field;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::columns::{Columns, number, number_array, text, text_array};
use super::head::{Format, Head, Meta, check_world};
use super::reader::read_rows;
use super::row::{Row, WrittenRow};
use super::writer::write_rows;
use super::{ManifestError, MetaError, RowError};
use crate::limits::MAX_TIMELINE_BYTES;
use crate::name::Name;
use crate::timeline::{Phase, RankTimeline, Span};

const FORMAT: Format = Format { name: "timeline-1", limit: MAX_TIMELINE_BYTES };

/// Spans of one rank or committer: 16, as there are nine phases and may be more.
pub(super) const MAX_SPANS: usize = 16;

/// What a timeline is, beside the spans of its ranks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimelineMeta {
    /// The run.
    pub run: Name,
    /// The step.
    pub step: u64,
    /// Ranks of the save; those of older clients have no rows.
    pub world_size: u32,
    /// What the committer did. Begins are after it was first asked to commit.
    pub committer: Vec<Span>,
}

/// What one phase of one rank took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RankSpan {
    /// The rank.
    pub rank: u32,
    /// Its phase.
    pub span: Span,
}

/// The timeline of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timeline {
    /// What it is.
    pub meta: TimelineMeta,
    /// Spans by phase, then rank.
    pub spans: Vec<RankSpan>,
}

impl Timeline {
    /// Puts the timelines of ranks together. Totals begin when their ranks did, after the one that began first. Phases
    /// that are not of ranks are left out.
    pub fn gathered(meta: TimelineMeta, ranks: &[(u32, RankTimeline)]) -> Self {
        let first = ranks.iter().map(|(_, timeline)| timeline.began_ms).min().unwrap_or_default();
        let mut spans: Vec<RankSpan> = ranks
            .iter()
            .flat_map(|(rank, timeline)| {
                let began_us = (timeline.began_ms - first).saturating_mul(1000);
                timeline.spans.iter().map(move |span| match span.phase {
                    Phase::Total => RankSpan { rank: *rank, span: Span { begin_us: began_us, ..*span } },
                    _ => RankSpan { rank: *rank, span: *span },
                })
            })
            .filter(|row| row.span.phase < Phase::Join)
            .collect();
        spans.sort_by_key(RankSpan::order);
        spans.dedup_by_key(|row| row.order());
        Self { meta, spans }
    }
}

/// Writes a timeline; refuses rows that are not strictly sorted. The same input gives the same bytes.
pub fn write_timeline(timeline: &Timeline) -> Result<Vec<u8>, ManifestError> {
    timeline.check()?;
    write_rows(&Head::described(FORMAT, &timeline.meta)?, &timeline.spans)
}

/// Reads a timeline. Phases that this version does not know are left out.
pub fn read_timeline(file: &Bytes) -> Result<Timeline, ManifestError> {
    let (head, spans) = read_rows::<RankSpan>(FORMAT, file)?;
    let mut meta: TimelineMeta = head.meta()?;
    meta.committer.retain(|span| span.phase != Phase::Other);
    let timeline = Timeline { meta, spans };
    timeline.check()?;
    Ok(timeline)
}

impl Timeline {
    fn check(&self) -> Result<(), MetaError> {
        self.spans.iter().try_for_each(|row| check_world(row.rank, self.meta.world_size))
    }
}

impl RankSpan {
    fn order(&self) -> (Phase, u32) {
        (self.span.phase, self.rank)
    }
}

/// Checks the spans that one rank or committer tells.
pub(super) fn check_spans(spans: &[Span]) -> Result<(), MetaError> {
    let known: Vec<Phase> = spans.iter().map(|span| span.phase).filter(|phase| *phase != Phase::Other).collect();
    let distinct: BTreeSet<Phase> = known.iter().copied().collect();
    let legal = spans.len() <= MAX_SPANS && distinct.len() == known.len();
    if legal { Ok(()) } else { Err(MetaError::Spans { limit: MAX_SPANS, actual: spans.len() }) }
}

impl Meta for TimelineMeta {
    fn check(&self) -> Result<(), MetaError> {
        check_world(0, self.world_size)?;
        check_spans(&self.committer)
    }
}

impl Row for RankSpan {
    const LIST_VALUES: u64 = 1;
    const BLOB_BYTES: u64 = 0;
    const FOUND_BY: &'static str = "phase";

    fn fields() -> Vec<Field> {
        let mut fields = vec![text("phase")];
        fields.extend(["rank", "begin_us", "wall_us", "busy_us", "bytes", "count"].map(number));
        fields.push(number("retries").with_nullable(true));
        fields
    }

    fn read(
        columns: &Columns<'_>,
        each: &mut dyn FnMut(Result<Self, RowError>) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        let (phases, ranks, retries) = (columns.texts("phase")?, columns.numbers("rank")?, columns.numbers("retries")?);
        let (begins, walls) = (columns.numbers("begin_us")?, columns.numbers("wall_us")?);
        let (busys, bytes, counts) =
            (columns.numbers("busy_us")?, columns.numbers("bytes")?, columns.numbers("count")?);
        let known = |i: &usize| Phase::of_word(phases.value(*i)) != Phase::Other;
        (0..phases.len()).filter(known).try_for_each(|i| {
            let span = Span {
                phase: Phase::of_word(phases.value(i)),
                begin_us: begins.value(i),
                wall_us: walls.value(i),
                busy_us: busys.value(i),
                bytes: bytes.value(i),
                count: counts.value(i),
                retries: (!retries.is_null(i)).then(|| retries.value(i)),
            };
            // A rank past any world is refused with those that are past this one.
            each(Ok(Self { rank: u32::try_from(ranks.value(i)).unwrap_or(u32::MAX), span }))
        })
    }

    fn check(&self) -> Result<(), RowError> {
        Ok(())
    }

    fn name(&self) -> &str {
        self.span.phase.as_str()
    }

    fn label(&self) -> String {
        format!("{} of rank {}", self.span.phase.as_str(), self.rank)
    }

    fn is_before(&self, next: &Self) -> bool {
        self.order() < next.order()
    }
}

impl WrittenRow for RankSpan {
    const DISTINCT: &'static [&'static str] = &["rank", "begin_us", "wall_us", "busy_us"];

    fn arrays(rows: &[Self]) -> Vec<ArrayRef> {
        let numbers = |of: fn(&Self) -> u64| number_array(rows.iter().map(|row| Some(of(row))));
        vec![
            text_array(rows.iter().map(|row| Some(row.span.phase.as_str()))),
            numbers(|row| u64::from(row.rank)),
            numbers(|row| row.span.begin_us),
            numbers(|row| row.span.wall_us),
            numbers(|row| row.span.busy_us),
            numbers(|row| row.span.bytes),
            numbers(|row| row.span.count),
            number_array(rows.iter().map(|row| row.span.retries)),
        ]
    }

    fn weight(&self) -> u64 {
        128
    }
}

#[cfg(test)]
#[path = "timeline_test.rs"]
mod tests;
