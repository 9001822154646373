//! Reads the rows of a manifest, asking for byte ranges: the footer, then the row groups that can hold what is wanted.
//!
//! Must never return a row that is not valid, out of order, or not wanted.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use super::columns::Columns;
use super::group::{KnownColumns, WantedGroup};
use super::head::{Format, Head, KEYS};
use super::row::{Gather, Row};
use super::{ManifestError, Step};
use crate::range::{ByteRange, coalesce};
use crate::table::{FooterError, Given, Group, find_footer, read_footer};

/// Bytes of a manifest's footer: 64 MiB. A manifest of 20 million slices has 5,000 row groups of about 2 KiB.
const MAX_FOOTER_BYTES: u64 = 64 << 20;

/// Row groups of a manifest: 65,536, 268 million rows, more than its bytes can be.
const MAX_ROW_GROUPS: usize = 1 << 16;

/// Bytes of row groups that are asked for at a time: 16 MiB, so that a large manifest is read in few round trips and
/// never held whole.
const WINDOW_BYTES: u64 = 16 << 20;

/// Bytes between two wanted ranges that are read rather than left out: 64 KiB, what a store sends in about the time
/// that another request takes to start.
const MAX_GAP_BYTES: u64 = 64 << 10;

/// Reads a manifest of rows `R`.
#[derive(Debug)]
pub(super) struct RowsReader<R, C = Vec<R>> {
    format: Format,
    given: Given,
    wanted: Option<BTreeSet<String>>,
    window_bytes: u64,
    plan: Option<Plan>,
    rows: C,
    /// The last row that was decoded, wanted or not.
    last: Option<R>,
}

#[derive(Debug)]
struct Plan {
    head: Head,
    columns: KnownColumns,
    groups: VecDeque<WantedGroup>,
}

impl<R: Row, C: Gather<R>> RowsReader<R, C> {
    /// Starts on a manifest of `file_len` bytes; `wanted` are the names to return, or all.
    pub(super) fn new(format: Format, file_len: u64, wanted: Option<BTreeSet<String>>) -> Result<Self, ManifestError> {
        format.check_len(file_len)?;
        Ok(Self {
            format,
            given: Given::new(file_len),
            wanted,
            window_bytes: WINDOW_BYTES,
            plan: None,
            rows: C::default(),
            last: None,
        })
    }

    /// Takes the bytes of one range.
    pub(super) fn give(&mut self, range: ByteRange, bytes: Bytes) -> Result<(), ManifestError> {
        Ok(self.given.give(range, bytes)?)
    }

    /// Goes on with what was given so far.
    pub(super) fn step(&mut self) -> Result<Step<(Head, C)>, ManifestError> {
        let mut plan = match self.plan.take() {
            Some(plan) => plan,
            None => match find_footer(&self.given, MAX_FOOTER_BYTES)? {
                Step::Need(ranges) => return Ok(Step::Need(ranges)),
                Step::Done((footer, start)) => self.plan(&footer, start)?,
            },
        };
        loop {
            let (count, ranges) = window(&plan.groups, self.window_bytes);
            let missing = self.given.missing(&ranges);
            if !missing.is_empty() {
                self.plan = Some(plan);
                return Ok(Step::Need(missing));
            }
            for group in plan.groups.drain(..count) {
                self.decode(&plan.columns, &group)?;
            }
            if plan.groups.is_empty() {
                self.keep_last()?;
                return Ok(Step::Done((plan.head, std::mem::take(&mut self.rows))));
            }
            self.given.forget_before(ranges.iter().map(ByteRange::end).max().unwrap_or(0));
        }
    }

    fn plan(&self, footer: &[u8], start: u64) -> Result<Plan, ManifestError> {
        let (mut columns, mut groups) = (None, VecDeque::new());
        let (mut number, mut first_row, mut refused) = (0, 0u64, None);
        let head = read_footer(footer, start, &KEYS, |schema, group| {
            if number == MAX_ROW_GROUPS {
                return Err(FooterError::TooManyGroups { limit: MAX_ROW_GROUPS });
            }
            if refused.is_none() {
                let mut plan_group = || -> Result<(), ManifestError> {
                    let columns: &KnownColumns = match &mut columns {
                        Some(columns) => columns,
                        none => none.insert(KnownColumns::find::<R>(schema)?),
                    };
                    if self.may_hold(columns, &group) {
                        groups.push_back(columns.wanted::<R>(number, first_row, &group)?);
                    }
                    Ok(())
                };
                refused = plan_group().err();
            }
            number += 1;
            first_row = first_row.saturating_add(group.rows);
            Ok(())
        })?;
        // The format is looked at first: it tells best what is wrong with a file that is something else.
        let pairs = Head::from_pairs(self.format, &head.pairs)?;
        match (refused, columns) {
            (Some(error), _) => Err(error),
            (None, Some(columns)) => Ok(Plan { head: pairs, columns, groups }),
            (None, None) => Ok(Plan { head: pairs, columns: KnownColumns::find::<R>(&head.schema)?, groups }),
        }
    }

    /// Tells whether a row group can hold a wanted row. Without statistics it can.
    fn may_hold(&self, columns: &KnownColumns, group: &Group<'_>) -> bool {
        let Some(wanted) = &self.wanted else { return true };
        let bounds = columns.bounds::<R>(group).and_then(|(least, greatest)| {
            Some((std::str::from_utf8(least).ok()?, std::str::from_utf8(greatest).ok()?))
        });
        match bounds {
            Some((least, greatest)) if least <= greatest => {
                wanted.range::<str, _>((Bound::Included(least), Bound::Included(greatest))).next().is_some()
            }
            _ => !wanted.is_empty(),
        }
    }

    fn decode(&mut self, columns: &KnownColumns, group: &WantedGroup) -> Result<(), ManifestError> {
        let bytes = group.ranges().map(|range| self.given.get(range).expect("nothing is missing")).collect();
        let mut number = group.first_row;
        columns.decode(group, bytes, |batch| {
            R::read(&Columns(batch), &mut |row| {
                let row = row.and_then(|row| row.check().map(|()| row));
                let row = row.map_err(|source| ManifestError::Row { row: number, label: self.after(), source })?;
                number += 1;
                self.take(row)
            })
        })
    }

    fn take(&mut self, row: R) -> Result<(), ManifestError> {
        if let Some(last) = &self.last
            && !last.is_before(&row)
        {
            return Err(ManifestError::Order { previous: last.label(), next: row.label() });
        }
        self.keep_last()?;
        self.last = Some(row);
        Ok(())
    }

    fn keep_last(&mut self) -> Result<(), ManifestError> {
        let wanted = |row: &R| self.wanted.as_ref().is_none_or(|names| names.contains(row.name()));
        self.last.take().filter(wanted).map_or(Ok(()), |row| self.rows.take(row))
    }

    /// Says where a row that could not be read stands.
    fn after(&self) -> String {
        self.last.as_ref().map_or_else(|| "the first that is read".to_owned(), |row| format!("after {}", row.label()))
    }
}

/// Reads all rows of a manifest in memory.
pub(super) fn read_rows<R: Row>(format: Format, manifest: &Bytes) -> Result<(Head, Vec<R>), ManifestError> {
    let len = manifest.len() as u64;
    let mut reader = RowsReader::<R>::new(format, len, None)?;
    reader.give(ByteRange::new(0, len).expect("starts at 0"), manifest.clone())?;
    match reader.step()? {
        Step::Done(done) => Ok(done),
        Step::Need(_) => unreachable!("the whole manifest was given"),
    }
}

/// Returns how many row groups are read next, at least one, and which bytes.
fn window(groups: &VecDeque<WantedGroup>, most: u64) -> (usize, Vec<ByteRange>) {
    let (mut ranges, mut bytes, mut count) = (Vec::new(), 0, 0);
    for group in groups {
        let more: u64 = group.ranges().map(|range| range.len()).sum();
        if count > 0 && bytes + more > most {
            break;
        }
        ranges.extend(group.ranges());
        (bytes, count) = (bytes + more, count + 1);
    }
    let reads = coalesce(&ranges, MAX_GAP_BYTES, most);
    (count, reads.into_iter().map(|read| read.range).collect())
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::{CheckpointMeta, CheckpointRow, write_checkpoint};
    use super::super::samples::rows;
    use super::*;

    #[test]
    fn a_large_manifest_is_read_in_windows_that_are_not_kept() {
        let run = "minilm".parse().unwrap();
        let meta = CheckpointMeta {
            run,
            step: 1,
            world_size: 1,
            parent: None,
            metadata: Default::default(),
            cursors: Default::default(),
        };
        let file = Bytes::from(write_checkpoint(&meta, &rows(30_000)).unwrap());
        let format = Format { name: "checkpoint-1", limit: 1 << 30 };
        let mut reader = RowsReader::<CheckpointRow>::new(format, file.len() as u64, None).unwrap();
        reader.window_bytes = 400_000;
        let mut needs = Vec::new();
        loop {
            match reader.step().unwrap() {
                Step::Done((_, read)) => {
                    assert_eq!(read, rows(30_000));
                    break;
                }
                Step::Need(ranges) => {
                    needs.push(ranges.iter().map(ByteRange::len).sum::<u64>());
                    for range in ranges {
                        reader.give(range, file.slice(range.start() as usize..range.end() as usize)).unwrap();
                    }
                }
            }
        }
        assert!(needs.len() > 3 && needs.iter().all(|bytes| *bytes <= 400_000), "{needs:?}");
        assert!(needs.iter().sum::<u64>() <= file.len() as u64 + (64 << 10), "asked for bytes twice: {needs:?}");
    }
}
