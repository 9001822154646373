//! Repetition and definition levels, turned to the ends of rows.
//!
//! Documents are long, so that nearly all levels are alike: they come as a few runs. Only the levels that differ (the
//! first of each row, and those of empty lists) are written down, and what lies between them is counted. Must never
//! look at the levels one by one where a run says what they are, and never write down more of them than there are rows.

use super::runs::{Run, Runs};

/// Why levels do not make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LevelsError {
    /// There are fewer than the page says, or a run of them is cut.
    #[error("they end before the values do")]
    Ended,
    /// They are longer than the page.
    #[error("they are said to have more bytes than the page")]
    Length,
    /// The first row goes on with one that is not there.
    #[error("the first row does not start at the first value")]
    NoStart,
    /// An empty list has values.
    #[error("an empty list has values")]
    Empty,
    /// A level is over the greatest of the column.
    #[error("a level is over the column's greatest")]
    Greatest,
    /// There are more rows than the footer says.
    #[error("there are more rows than the {0} that the footer says")]
    Rows(u64),
}

/// Why the levels of a page are not taken: they do not make sense, or a row has a null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LevelsFault {
    Levels(LevelsError),
    /// Row of the row group, from 0.
    Null(u64),
}

/// A level that differs from nearly all others.
#[derive(Clone, Copy, Debug)]
struct Odd {
    at: u32,
    level: u32,
}

/// The rows of a column chunk, of which one may be open between two pages.
#[derive(Debug)]
pub(super) struct Rows {
    /// Rows that the footer says.
    expected: u64,
    /// Greatest definition level, and that of an empty list.
    greatest: u32,
    empty: u32,
    /// Rows that were started.
    started: u64,
    /// The last level was that of an empty list, so that the next one starts a row.
    closed: bool,
    starts: Vec<Odd>,
    holes: Vec<Odd>,
}

impl Rows {
    /// Starts on a chunk of `expected` rows, whose values have the definition level `greatest` and whose empty lists
    /// have `empty`.
    pub(super) fn new(expected: u64, greatest: u32, empty: u32) -> Self {
        let (starts, holes) = (Vec::new(), Vec::new());
        Self { expected, greatest, empty, started: 0, closed: true, starts, holes }
    }

    /// Takes the levels of a page of `count` values, before which there are `before` tokens. Appends the end of each
    /// row that another one follows; returns how many values the page holds.
    pub(super) fn page(
        &mut self,
        [repetition, definition]: [&[u8]; 2],
        count: usize,
        before: u32,
        ends: &mut Vec<u32>,
    ) -> Result<usize, LevelsFault> {
        let most = self.expected - self.started;
        let rows = LevelsFault::Levels(LevelsError::Rows(self.expected));
        odd_ones(repetition, 1, 1, count, most, &mut self.starts)?.then_some(()).ok_or(rows)?;
        // Only one more than there can be is found where something is null.
        let whole = odd_ones(definition, width(self.greatest), self.greatest, count, most, &mut self.holes)?;
        self.join(count as u32, before, ends)?;
        if whole { Ok(count - self.holes.len()) } else { Err(rows) }
    }

    /// Ends the last row, where `tokens` is how many there are.
    pub(super) fn finish(self, tokens: u32, ends: &mut Vec<u32>) {
        if self.started > 0 {
            ends.push(tokens);
        }
    }

    fn join(&mut self, count: u32, before: u32, ends: &mut Vec<u32>) -> Result<(), LevelsFault> {
        let levels = |error| Err(LevelsFault::Levels(error));
        if count > 0 && self.closed && self.starts.first().is_none_or(|first| first.at != 0) {
            return levels(if self.started == 0 { LevelsError::NoStart } else { LevelsError::Empty });
        }
        let mut holes = self.holes.iter().peekable();
        let mut passed = 0;
        for (i, start) in self.starts.iter().enumerate() {
            if let Some(hole) = holes.peek().filter(|hole| hole.at < start.at) {
                return Err(self.hole(hole, i));
            }
            if self.started + i as u64 > 0 {
                ends.push(before + (start.at - passed));
            }
            let Some(hole) = holes.next_if(|hole| hole.at == start.at) else { continue };
            if hole.level != self.empty {
                return Err(LevelsFault::Null(self.started + i as u64));
            }
            passed += 1;
            if self.starts.get(i + 1).map_or(count, |next| next.at) != start.at + 1 {
                return levels(LevelsError::Empty);
            }
        }
        if let Some(hole) = holes.next() {
            return Err(self.hole(hole, self.starts.len()));
        }
        if count > 0 {
            self.closed = self.holes.last().is_some_and(|hole| hole.at + 1 == count);
        }
        self.started += self.starts.len() as u64;
        Ok(())
    }

    /// A level that is no value's and stands inside of a row: `started` rows of this page were started.
    fn hole(&self, hole: &Odd, started: usize) -> LevelsFault {
        if hole.level > self.empty {
            return LevelsFault::Null((self.started + started as u64).saturating_sub(1));
        }
        LevelsFault::Levels(LevelsError::Empty)
    }
}

/// Returns how many bits hold the levels `0..=greatest`.
pub(super) fn width(greatest: u32) -> u32 {
    u32::BITS - greatest.leading_zeros()
}

/// Writes down the levels that are not `usual`; returns false where there are more than `most`.
fn odd_ones(
    bytes: &[u8],
    width: u32,
    usual: u32,
    count: usize,
    most: u64,
    into: &mut Vec<Odd>,
) -> Result<bool, LevelsFault> {
    into.clear();
    let ended = |_| LevelsFault::Levels(LevelsError::Ended);
    let mut runs = Runs::new(bytes, width, count);
    let mut at = 0u32;
    while let Some(run) = runs.next_run().map_err(ended)? {
        match run {
            Run::Same { value, len } => {
                if value > usual {
                    return Err(LevelsFault::Levels(LevelsError::Greatest));
                }
                if value != usual {
                    let len = (len as u64).min((most + 1).saturating_sub(into.len() as u64)) as u32;
                    into.extend((at..at + len).map(|at| Odd { at, level: value }));
                }
                at += len as u32;
            }
            Run::Packed { bytes, len } => {
                packed_odd_ones(bytes, width, usual, (at, len), most, into)?;
                at += len as u32;
            }
        }
        if into.len() as u64 > most {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Eight levels take as many bytes as one has bits: groups that are all usual are gone over at once.
fn packed_odd_ones(
    bytes: &[u8],
    width: u32,
    usual: u32,
    (at, len): (u32, usize),
    most: u64,
    into: &mut Vec<Odd>,
) -> Result<(), LevelsFault> {
    let alike = (0..8).fold(0u64, |group, i| group | u64::from(usual) << (i * width));
    for (group, bytes) in bytes.chunks(width as usize).enumerate() {
        let first = group * 8;
        let left = len.saturating_sub(first).min(8);
        let levels = bytes.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        if levels == alike {
            continue;
        }
        if into.len() as u64 > most {
            return Ok(());
        }
        for i in 0..left {
            let level = (levels >> (i as u32 * width)) as u32 & ((1 << width) - 1);
            if level > usual {
                return Err(LevelsFault::Levels(LevelsError::Greatest));
            }
            if level != usual {
                into.push(Odd { at: at + (first + i) as u32, level });
            }
        }
    }
    Ok(())
}
