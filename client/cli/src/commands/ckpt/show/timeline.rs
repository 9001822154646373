//! `gigastore ckpt show --timeline`: why a save was slow, and which rank.
//!
//! Must never compare moments of two ranks but in the row `began`, where it says so: their clocks differ, while how
//! long something took does not depend on them.

use std::collections::BTreeMap;

use gigastore_client::store::Store;
use gigastore_formats::manifest::timeline::Timeline;
use gigastore_formats::name::Target;
use gigastore_formats::timeline::{Phase, Span};
use serde_json::{Value, json};

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{say, say_json, size, table};

/// Ranks that are drawn: the slowest.
const RANKS_DRAWN: usize = 4;

/// Characters of a bar: with its labels and numbers a line stays below 100.
const BAR_CHARS: u64 = 44;

/// What one share of a save has over the others before it is named as the reason: a twentieth of the slowest rank's
/// time.
const NAMED_SHARE: u64 = 20;

/// Shows the timeline of a checkpoint.
pub(super) async fn show(store: &Store, target: &Target, globals: &Globals) -> Result<(), Failure> {
    let Some(timeline) = store.timeline(target).await? else {
        return Err(Failure::not_found(format!("{target} has no timeline: a version that records none saved it")));
    };
    let report = Report::of(&timeline);
    if globals.json() {
        say_json(&report.document());
        return Ok(());
    }
    say(&report.heading(target.project.as_str()));
    say(&format_args!("  {}", report.reason()));
    say(&"");
    table(&["phase", "ranks", "min", "median", "max", "slowest", "busy", "bytes"], &report.rows());
    say(&"");
    report.drawn().iter().for_each(|line| say(line));
    say(&"");
    say(&"busy is the sum over pieces of work, several of which run at the same time (median rank; of the");
    say(&"bars, that rank). Not in it: delivery of each part, upload of this timeline, the log record.");
    Ok(())
}

/// A timeline, by rank and by phase.
struct Report<'a> {
    timeline: &'a Timeline,
    /// Each rank and its spans, the slowest first.
    ranks: Vec<(u32, BTreeMap<Phase, Span>)>,
    phases: Vec<Spread>,
}

/// How one phase, or beginning, spreads over the ranks.
struct Spread {
    name: &'static str,
    ranks: usize,
    min: u64,
    median: u64,
    max: u64,
    /// The first of the ranks that took the longest.
    slowest: u32,
    /// Of the median rank.
    busy: u64,
    /// Of all ranks.
    bytes: u64,
    /// Of all ranks, where any knows.
    retries: Option<u64>,
}

impl Spread {
    fn of(name: &'static str, spans: &[(u32, Span)], value: impl Fn(&Span) -> u64) -> Option<Self> {
        let mut values: Vec<(u64, u32)> = spans.iter().map(|(rank, span)| (value(span), *rank)).collect();
        values.sort_by(|(a, a_rank), (b, b_rank)| a.cmp(b).then(b_rank.cmp(a_rank)));
        let mut busy: Vec<u64> = spans.iter().map(|(_, span)| span.busy_us).collect();
        busy.sort_unstable();
        let retries = spans.iter().filter_map(|(_, span)| span.retries);
        Some(Self {
            name,
            ranks: values.len(),
            min: values.first()?.0,
            median: values[values.len() / 2].0,
            max: values.last()?.0,
            slowest: values.last()?.1,
            busy: busy[busy.len() / 2],
            bytes: spans.iter().map(|(_, span)| span.bytes).fold(0, u64::saturating_add),
            retries: retries.reduce(u64::saturating_add),
        })
    }

    fn row(&self) -> Vec<String> {
        let (busy, bytes) = match self.name {
            "began" => ("-".to_owned(), "-".to_owned()),
            _ => (time(self.busy), if self.bytes == 0 { "-".to_owned() } else { size(self.bytes) }),
        };
        let times = [self.min, self.median, self.max].map(time);
        let [min, median, max] = times;
        vec![self.name.to_owned(), self.ranks.to_string(), min, median, max, self.slowest.to_string(), busy, bytes]
    }
}

impl<'a> Report<'a> {
    fn of(timeline: &'a Timeline) -> Self {
        let mut by_phase: BTreeMap<Phase, Vec<(u32, Span)>> = BTreeMap::new();
        let mut by_rank: BTreeMap<u32, BTreeMap<Phase, Span>> = BTreeMap::new();
        for row in &timeline.spans {
            by_phase.entry(row.span.phase).or_default().push((row.rank, row.span));
            by_rank.entry(row.rank).or_default().insert(row.span.phase, row.span);
        }
        let took = |spans: &BTreeMap<Phase, Span>| spans.get(&Phase::Total).map_or(0, |span| span.wall_us);
        let mut ranks: Vec<_> = by_rank.into_iter().collect();
        ranks.sort_by(|(a_rank, a), (b_rank, b)| took(b).cmp(&took(a)).then(a_rank.cmp(b_rank)));
        let totals = by_phase.get(&Phase::Total).map(Vec::as_slice).unwrap_or_default();
        let began = Spread::of("began", totals, |span| span.begin_us);
        let walls = by_phase.iter().filter_map(|(phase, spans)| Spread::of(phase.as_str(), spans, |span| span.wall_us));
        let phases = began.into_iter().chain(walls).collect();
        Self { timeline, ranks, phases }
    }

    fn spread(&self, name: &str) -> Option<&Spread> {
        self.phases.iter().find(|spread| spread.name == name)
    }

    fn committer(&self, phase: Phase) -> Option<&Span> {
        self.timeline.meta.committer.iter().find(|span| span.phase == phase)
    }

    fn heading(&self, project: &str) -> String {
        let meta = &self.timeline.meta;
        let (name, told) = (format!("{project}/{}@{}", meta.run, meta.step), self.ranks.len());
        let silent = match meta.world_size as usize - told {
            0 => String::new(),
            some => format!("; {some} of them, of older versions, told nothing"),
        };
        let slowest = self.spread("total").map_or_else(String::new, |total| {
            let again = total.retries.map_or_else(String::new, |n| format!(", {n} requests sent again"));
            let (longest, median) = (time(total.max), time(total.median));
            format!(", the slowest is rank {} with {longest} (median {median}){again}", total.slowest)
        });
        let ranks = if meta.world_size == 1 { "rank" } else { "ranks" };
        format!("{name}: {} {ranks}{slowest}{silent}", meta.world_size)
    }

    /// Says in one sentence what made the save as slow as it was.
    fn reason(&self) -> String {
        let (Some(total), Some(began), Some((rank, spans))) =
            (self.spread("total"), self.spread("began"), self.ranks.first())
        else {
            return "no rank told what its phases took".to_owned();
        };
        let named = (total.max / NAMED_SHARE).max(1);
        let behind = total.max - total.median;
        if began.max - began.median > behind.max(named) {
            let late = time(began.max - began.median);
            return format!("rank {} began {late} after the median rank, by the clocks of both", began.slowest);
        }
        let over = |phase: &Phase, span: &Span| {
            span.wall_us.saturating_sub(self.spread(phase.as_str()).map_or(0, |spread| spread.median))
        };
        let phases = || spans.iter().filter(|(phase, _)| **phase != Phase::Total);
        if behind > named
            && let Some((phase, span)) = phases().max_by_key(|(phase, span)| over(phase, span))
        {
            let (took, more) = (time(span.wall_us), time(over(phase, span)));
            return format!("{} of rank {rank} took {took}, {more} more than in the median rank", phase.as_str());
        }
        let longest = self.phases.iter().filter(|spread| !["began", "total"].contains(&spread.name));
        let longest = longest.max_by_key(|spread| spread.median).map_or_else(String::new, |spread| {
            format!("; the longest phase is {} (median {})", spread.name, time(spread.median))
        });
        match self.committer(Phase::Commit).filter(|span| span.wall_us > total.max) {
            Some(span) => format!("no rank stands out; the commit took longer than any rank, {}", time(span.wall_us)),
            None => format!("no rank stands out{longest}"),
        }
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows: Vec<Vec<String>> = self.phases.iter().map(Spread::row).collect();
        for span in &self.timeline.meta.committer {
            let [name, none] = [span.phase.as_str(), "-"].map(str::to_owned);
            let (busy, bytes) = (time(span.busy_us), size(span.bytes));
            rows.push(vec![name, none.clone(), none.clone(), none.clone(), time(span.wall_us), none, busy, bytes]);
        }
        rows
    }

    /// Draws the slowest ranks, each from its own beginning, and then the committer.
    fn drawn(&self) -> Vec<String> {
        let committer: BTreeMap<Phase, Span> =
            self.timeline.meta.committer.iter().map(|span| (span.phase, *span)).collect();
        let mut lines = Vec::new();
        let drawn = self.ranks.iter().take(RANKS_DRAWN);
        let longest = drawn.clone().flat_map(|(_, spans)| spans.values()).map(end_us).max().unwrap_or_default();
        for (rank, spans) in drawn {
            lines.extend(bars(&format!("rank {rank}"), spans, longest));
        }
        let longest = committer.values().map(end_us).max().unwrap_or_default();
        lines.extend(bars("committer", &committer, longest));
        lines
    }

    fn document(&self) -> Value {
        let meta = &self.timeline.meta;
        let phase = |spread: &Spread| {
            json!({
                "phase": spread.name, "ranks": spread.ranks, "min_us": spread.min, "median_us": spread.median,
                "max_us": spread.max, "slowest_rank": spread.slowest, "median_busy_us": spread.busy,
                "bytes": spread.bytes, "retries": spread.retries,
            })
        };
        let ranks = self.ranks.iter().map(|(rank, spans)| {
            let began = spans.get(&Phase::Total).map(|span| span.begin_us);
            json!({ "rank": rank, "began_us": began, "spans": spans.values().collect::<Vec<_>>() })
        });
        json!({
            "run": meta.run, "step": meta.step, "world_size": meta.world_size, "reason": self.reason(),
            "phases": self.phases.iter().map(phase).collect::<Vec<_>>(), "committer": meta.committer,
            "ranks": ranks.collect::<Vec<_>>(),
        })
    }
}

/// When a span ended, on the clock of its own rank.
fn end_us(span: &Span) -> u64 {
    match span.phase {
        Phase::Total => span.wall_us,
        _ => span.end_us(),
    }
}

/// Draws the spans of one rank on a scale of `longest` microseconds.
fn bars(label: &str, spans: &BTreeMap<Phase, Span>, longest: u64) -> Vec<String> {
    let place = |us: u64| (u128::from(us) * u128::from(BAR_CHARS) / u128::from(longest.max(1))) as usize;
    let lines = spans.values().enumerate().map(|(i, span)| {
        let start = place(end_us(span) - span.wall_us.min(end_us(span))).min(BAR_CHARS as usize - 1);
        let length = (place(end_us(span)) - start).max(1);
        let bar = format!("{}{}", " ".repeat(start), "#".repeat(length));
        let bytes = if span.bytes == 0 { "-".to_owned() } else { size(span.bytes) };
        let (label, width) = (if i == 0 { label } else { "" }, BAR_CHARS as usize);
        let (phase, wall, busy) = (span.phase.as_str(), time(span.wall_us), time(span.busy_us));
        format!("{label:<12} {phase:<7}{bar:<width$}  {wall:>7}  {busy:>7} busy  {bytes:>7}")
    });
    lines.collect()
}

/// A time with three significant digits.
fn time(us: u64) -> String {
    let (value, unit) = match us {
        0..1000 => return format!("{us} us"),
        1000..1_000_000 => (us as f64 / 1e3, "ms"),
        1_000_000..10_000_000_000 => (us as f64 / 1e6, "s"),
        10_000_000_000..36_000_000_000_000 => (us as f64 / 3.6e9, "h"),
        // Nobody measured that; but anybody may write it.
        _ => return ">9999 h".to_owned(),
    };
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
#[path = "timeline_test.rs"]
mod tests;
