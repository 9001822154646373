//! Cursors: where a stream is, to be kept with a checkpoint and gone on from at any world size.
//!
//! Must never depend on ranks, workers or batches: a cursor says how far the whole stream is. What was *seen* is the
//! one part that each rank has of its own, and that is added up.

use serde::{Deserialize, Serialize};

use super::mix::{Unit, Weight};
use super::seen::Seen;
use super::spec::{ALGORITHM, OrderId, OrderSpec, Packing};
use super::walk::{Astray, SourceOrder, Walk};

/// Name and version of the format.
pub const CURSOR_FORMAT: &str = "gigastore-cursor-1";

/// The most that a cursor counts of anything, 2^62: a sample counts less than 2^32, so that a stream that goes on from
/// there can't count past 2^64.
const MOST: u64 = 1 << 62;

/// Where a stream is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// [`CURSOR_FORMAT`].
    pub format: String,
    /// Version of the order's algorithm.
    pub algorithm: u32,
    /// Samples of all ranks so far.
    pub samples: u64,
    /// What is counted, and by what sources are weighed.
    pub unit: Unit,
    /// What was counted of all samples so far.
    pub counted: u64,
    /// The sources.
    pub sources: Vec<SourceCursor>,
    /// What was seen so far: by one rank, or of all where they were joined.
    pub seen: Seen,
}

/// Where a stream is in one of its sources.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceCursor {
    /// The dataset, for people: what is compared is the order.
    pub dataset: String,
    /// Its files with their rows and tokens.
    pub order: OrderId,
    /// How they are put in order.
    pub spec: OrderSpec,
    /// The weight.
    pub weight: Weight,
    /// What was counted since the weights were set.
    pub weighed: u64,
    /// Samples of it so far.
    pub samples: u64,
    /// What was counted of it so far.
    pub counted: u64,
    /// The epoch.
    pub epoch: u64,
    /// The lane that comes next.
    pub next: u32,
    /// Window and sample of each lane.
    pub lanes: Vec<(u32, u32)>,
}

/// Why a cursor is not one of a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// It can't be parsed.
    #[error("not a cursor of a data stream: {0}")]
    Json(String),
    /// Another format.
    #[error("the cursor has the format {actual:?}, expected {CURSOR_FORMAT:?}: it was written by another program")]
    Format {
        /// Its format.
        actual: String,
    },
    /// Another algorithm.
    #[error(
        "the cursor is of order algorithm {actual}, this program has {ALGORITHM}: the positions mean other samples"
    )]
    Algorithm {
        /// Its algorithm.
        actual: u32,
    },
    /// Another number of sources.
    #[error("the cursor is of {actual} datasets, the stream has {expected}")]
    Sources {
        /// Sources of the stream.
        expected: usize,
        /// Sources of the cursor.
        actual: usize,
    },
    /// Other files.
    #[error(
        "the cursor is of {dataset} with order {actual}, the stream reads {expected}: the files, their rows or tokens \
         are others (only documents may have been taken down since); read the version that the cursor names"
    )]
    Order {
        /// The dataset that the cursor names.
        dataset: String,
        /// The stream's order.
        expected: String,
        /// The cursor's.
        actual: OrderId,
    },
    /// Another seed, packing or number of lanes.
    #[error("the cursor of {dataset} is for {actual}, the stream has {expected}: give the stream the same")]
    Spec {
        /// The dataset.
        dataset: String,
        /// The stream's specification.
        expected: String,
        /// The cursor's.
        actual: String,
    },
    /// Another unit.
    #[error("the cursor counts {actual:?}, the stream {expected:?}")]
    Unit {
        /// The stream's unit.
        expected: Unit,
        /// The cursor's.
        actual: Unit,
    },
    /// A number that no cursor of a stream has.
    #[error("the cursor of {dataset} is damaged: {what} is {actual}, expected {expected}")]
    Number {
        /// The dataset, or all.
        dataset: String,
        /// Which number.
        what: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        actual: u64,
    },
    /// Places that are not in the order.
    #[error("the cursor of {dataset} names a place that its order does not have: it is damaged")]
    Place {
        /// The dataset.
        dataset: String,
    },
    /// The place of a lane is not in the order.
    #[error("the cursor of {dataset} is damaged: lane {lane} has no sample {item} in window {window}")]
    Lane {
        /// The dataset.
        dataset: String,
        /// The lane.
        lane: u32,
        /// The window that it is said to be in.
        window: u32,
        /// The sample of it that is said to come next.
        item: u32,
    },
    /// Places that are in the order, but never at the same time.
    #[error(
        "the cursor of {dataset} is damaged: no number of samples, taken from the lanes in turn, leads to its places"
    )]
    Rounds {
        /// The dataset.
        dataset: String,
    },
    /// Cursors of ranks that are not at the same place.
    #[error(
        "the cursors of rank {first} and rank {second} are not of the same place: {first_place} and {second_place}"
    )]
    Apart {
        /// One.
        first: usize,
        /// The other.
        second: usize,
        /// What one has of that in which they differ.
        first_place: String,
        /// What the other has.
        second_place: String,
    },
}

impl Cursor {
    /// Reads a cursor.
    pub fn parse(json: &[u8]) -> Result<Self, CursorError> {
        /// What a cursor of any version has.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            algorithm: u32,
        }
        let not = |error: serde_json::Error| CursorError::Json(error.to_string());
        let Head { format, algorithm } = serde_json::from_slice(json).map_err(not)?;
        check_version(&format, algorithm)?;
        serde_json::from_slice(json).map_err(not)
    }

    /// Checks what can be checked without the order: version, weights, and that the counts go together.
    pub(super) fn check(&self) -> Result<(), CursorError> {
        check_version(&self.format, self.algorithm)?;
        let wrong = |dataset: &str, what, expected: String, actual| {
            Err(CursorError::Number { dataset: dataset.to_owned(), what, expected, actual })
        };
        for source in &self.sources {
            let numbers = [("samples", source.samples, MOST), ("counted", source.counted, MOST)];
            // Every epoch has a sample at least, and since the weights were set no more was counted than in all.
            let others = [("epoch", source.epoch, source.samples), ("weighed", source.weighed, source.counted)];
            for (what, actual, most) in numbers.into_iter().chain(others) {
                if actual > most {
                    return wrong(&source.dataset, what, format!("at most {most}"), actual);
                }
            }
            if !source.weight.is_legal() {
                return wrong(&source.dataset, "weight", "at most a million".to_owned(), source.weight.number().into());
            }
        }
        if self.sources.iter().all(|source| source.weight.is_zero()) {
            return wrong("all datasets", "sum of weights", "at least 1".to_owned(), 0);
        }
        let sum = |number: fn(&SourceCursor) -> u64| self.sources.iter().map(number).fold(0, u64::saturating_add);
        let sums = [("samples", self.samples, sum(|of| of.samples)), ("counted", self.counted, sum(|of| of.counted))];
        for (what, actual, expected) in sums {
            if actual != expected || actual > MOST {
                let expected = format!("the sum of its datasets, {expected}, and at most {MOST}");
                return wrong("all datasets", what, expected, actual);
            }
        }
        Ok(())
    }

    /// Returns it as JSON.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("a cursor has string keys only")
    }

    /// Joins the cursors that the ranks have at one place: what they saw is added up.
    pub fn join(ranks: &[Self]) -> Result<Option<Self>, CursorError> {
        let Some((first, rest)) = ranks.split_first() else { return Ok(None) };
        let mut joined = first.clone();
        for (number, other) in rest.iter().enumerate() {
            if let Some((first_place, second_place)) = first.difference(other) {
                return Err(CursorError::Apart { first: 0, second: number + 1, first_place, second_place });
            }
            joined.seen.add(&other.seen);
        }
        Ok(Some(joined))
    }

    /// Returns the first thing in which the places of two cursors differ, as each has it; none where both are at the
    /// same place of the same stream, whatever was seen until there.
    pub fn difference(&self, other: &Self) -> Option<(String, String)> {
        // All fields by name, so that no later one is forgotten.
        let Self { format, algorithm, samples, unit, counted, sources, seen: _ } = self;
        if (format, algorithm) != (&other.format, &other.algorithm) {
            let text = |one: &Self| format!("{} of algorithm {}", one.format, one.algorithm);
            return Some((text(self), text(other)));
        }
        if *samples != other.samples {
            return Some((format!("{samples} samples"), format!("{} samples", other.samples)));
        }
        if (unit, counted) != (&other.unit, &other.counted) {
            let text = |one: &Self| {
                format!("{} counted as {:?} after {samples} samples", one.counted, one.unit).to_lowercase()
            };
            return Some((text(self), text(other)));
        }
        if sources.len() != other.sources.len() {
            return Some((format!("{} datasets", sources.len()), format!("{} datasets", other.sources.len())));
        }
        sources.iter().zip(&other.sources).find_map(|(one, another)| one.difference(another))
    }
}

impl SourceCursor {
    /// Returns the first thing in which two differ, as each has it.
    fn difference(&self, other: &Self) -> Option<(String, String)> {
        let Self { dataset, order, spec, weight, weighed, samples, counted, epoch, next, lanes } = self;
        if (dataset, order) != (&other.dataset, &other.order) {
            let text = |one: &Self| format!("{} with order {}", one.dataset, one.order);
            return Some((text(self), text(other)));
        }
        if spec != &other.spec {
            return Some((format!("{dataset} by {spec}"), format!("{dataset} by {}", other.spec)));
        }
        if (weight, weighed) != (&other.weight, &other.weighed) {
            let text =
                |one: &Self| format!("{dataset} with weight {} and {} counted since", one.weight.part(), one.weighed);
            return Some((text(self), text(other)));
        }
        let counts = (samples, counted, epoch, next);
        if counts != (&other.samples, &other.counted, &other.epoch, &other.next) {
            let text = |one: &Self| {
                let Self { epoch, samples, counted, next, .. } = one;
                format!("{dataset} in epoch {epoch} after {samples} samples ({counted} counted), lane {next} next")
            };
            return Some((text(self), text(other)));
        }
        if lanes.len() != other.lanes.len() {
            return Some((format!("{dataset} of {} lanes", lanes.len()), format!("{} lanes", other.lanes.len())));
        }
        let number = lanes.iter().zip(&other.lanes).position(|(one, another)| one != another)?;
        let text = |(window, sample): (u32, u32)| format!("{dataset}, lane {number}: window {window}, sample {sample}");
        Some((text(lanes[number]), text(other.lanes[number])))
    }

    /// Says what is wrong with its places.
    pub(super) fn astray(&self, astray: Astray, lanes: u32) -> CursorError {
        let dataset = self.dataset.clone();
        match astray {
            Astray::Lanes => {
                let (expected, actual) = (lanes.to_string(), self.lanes.len() as u64);
                CursorError::Number { dataset, what: "number of lanes", expected, actual }
            }
            Astray::Lane(lane) => {
                let (window, item) = self.lanes[lane as usize];
                CursorError::Lane { dataset, lane, window, item }
            }
            Astray::Rounds => CursorError::Rounds { dataset },
        }
    }

    /// Checks that its counts are those of its place, where the manifest tells.
    pub(super) fn check_counts(&self, walk: &Walk, order: &SourceOrder) -> Result<(), CursorError> {
        let wrong =
            |what, expected, actual| Err(CursorError::Number { dataset: self.dataset.clone(), what, expected, actual });
        if let Some(here) = walk.epoch().samples_before(walk.places().0) {
            let least = self.epoch.saturating_mul(order.fewest()).saturating_add(here);
            let exact = self.epoch == 0 || order.spec().packing == Packing::Documents;
            if exact && self.samples != least {
                return wrong("samples", least.to_string(), self.samples);
            }
            if self.samples < least {
                return wrong("samples", format!("at least {least}"), self.samples);
            }
        }
        match walk.counted_before(self.samples) {
            Some(expected) if expected != self.counted => wrong("counted", expected.to_string(), self.counted),
            _ => Ok(()),
        }
    }
}

fn check_version(format: &str, algorithm: u32) -> Result<(), CursorError> {
    if format != CURSOR_FORMAT {
        return Err(CursorError::Format { actual: format.to_owned() });
    }
    if algorithm != ALGORITHM {
        return Err(CursorError::Algorithm { actual: algorithm });
    }
    Ok(())
}

#[cfg(test)]
#[path = "cursor_test.rs"]
mod tests;
