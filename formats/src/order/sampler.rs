//! The samples of a stream, one after the other: sources by their weights, epochs, and where it ends.
//!
//! The same for every rank; what is a rank's own is in [`share`](super::share). Must never fetch: where lengths of
//! documents are needed it asks.

use std::sync::Arc;

use super::cursor::{CURSOR_FORMAT, Cursor, CursorError, SourceCursor};
use super::epoch::LanePlace;
use super::mix::{Unit, Weight, WeightError, choose};
use super::pack::ItemSize;
use super::seen::Seen;
use super::spec::ALGORITHM;
use super::walk::{Next as Walked, Sample, SourceOrder, Walk, WindowKey};

/// Epochs that [`Sampler::seek`] goes through, each made from the table: 4,096, far more often than anybody reads a
/// dataset, and some minutes for one of a million row groups.
pub const MOST_SEEK_EPOCHS: u64 = 1 << 12;

/// One dataset of a stream.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// What it is called in cursors.
    pub dataset: String,
    /// Its order.
    pub order: Arc<SourceOrder>,
    /// Its weight beside the others.
    pub weight: f64,
    /// How often it is read; for ever where there is no number.
    pub epochs: Option<u64>,
}

/// Which samples a stream has.
#[derive(Clone, Debug)]
pub struct StreamSpec {
    /// The datasets.
    pub sources: Vec<SourceSpec>,
    /// What is counted.
    pub unit: Unit,
    /// How much is counted before the stream ends: it ends with the sample that reaches it.
    pub budget: Option<u64>,
}

/// What a sampler answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// The next sample, and its position in the stream.
    Sample(u64, Sample),
    /// The sizes of the samples of this window are needed first; see [`Sampler::give`].
    Need(WindowKey),
    /// There are no more.
    End,
}

/// Goes through the samples of a stream.
#[derive(Clone, Debug)]
pub struct Sampler {
    spec: Arc<StreamSpec>,
    sources: Vec<Source>,
    samples: u64,
    counted: u64,
}

#[derive(Clone, Debug)]
struct Source {
    walk: Walk,
    weight: Weight,
    weighed: u64,
    samples: u64,
    counted: u64,
    ended: bool,
}

impl Sampler {
    /// Starts at the first sample.
    pub fn new(spec: &Arc<StreamSpec>) -> Result<Self, WeightError> {
        let weights = Weight::of(&spec.sources.iter().map(|source| source.weight).collect::<Vec<_>>())?;
        let start = |(number, (source, weight)): (usize, (&SourceSpec, Weight))| Source {
            walk: Walk::start(number as u32, &source.order, 0, spec.unit),
            weight,
            weighed: 0,
            samples: 0,
            counted: 0,
            ended: source.epochs == Some(0) || source.order.is_empty(),
        };
        let sources = spec.sources.iter().zip(weights).enumerate().map(start).collect();
        Ok(Self { spec: Arc::clone(spec), sources, samples: 0, counted: 0 })
    }

    /// Goes on where a cursor is. Weights are those of the cursor, also where the specification has others: see
    /// [`set_weights`](Self::set_weights).
    ///
    /// What a cursor says is checked as far as the manifest tells; with first fit, a place beyond the samples of its
    /// window is found out when their sizes come: see [`give`](Self::give).
    pub fn resume(spec: &Arc<StreamSpec>, cursor: &Cursor) -> Result<Self, CursorError> {
        cursor.check()?;
        let (expected, actual) = (spec.sources.len(), cursor.sources.len());
        if expected != actual {
            return Err(CursorError::Sources { expected, actual });
        }
        if spec.unit != cursor.unit {
            return Err(CursorError::Unit { expected: spec.unit, actual: cursor.unit });
        }
        let mut sources = Vec::with_capacity(expected);
        for (number, (source, at)) in spec.sources.iter().zip(&cursor.sources).enumerate() {
            sources.push(Source::resume(number as u32, source, at, spec.unit)?);
        }
        Ok(Self { spec: Arc::clone(spec), sources, samples: cursor.samples, counted: cursor.counted })
    }

    /// Starts after the first `samples` samples of a stream of one source, where the manifest tells how many samples
    /// there are: not for [`Packing::FirstFit`](super::Packing::FirstFit), nor where lengths of documents are counted.
    /// None where it does not, the stream ends before, or that is [`MOST_SEEK_EPOCHS`] away.
    pub fn seek(spec: &Arc<StreamSpec>, samples: u64) -> Option<Self> {
        let [source] = spec.sources.as_slice() else { return None };
        let mut sampler = Self::new(spec).ok()?;
        let Some(last) = samples.checked_sub(1) else { return Some(sampler) };
        let mut epoch = source.order.epoch(0);
        if last / source.order.fewest().max(1) >= MOST_SEEK_EPOCHS {
            return None;
        }
        let mut rest = last;
        loop {
            let samples = epoch.samples()?;
            if rest < samples {
                break;
            }
            let next = epoch.number() + 1;
            if samples == 0 || source.epochs.is_some_and(|epochs| next >= epochs) {
                return None;
            }
            (rest, epoch) = (rest - samples, source.order.epoch(next));
        }
        let (places, next) = epoch.places_after(rest)?;
        let walk = Walk::at(0, &source.order, epoch, spec.unit, places, next).ok()?;
        let counted = walk.counted_before(last)?;
        sampler.sources[0] = Source { walk, weighed: counted, samples: last, counted, ..sampler.sources[0].clone() };
        (sampler.samples, sampler.counted) = (last, counted);
        // The last of them as any other, so that the stream is as after it: also where it is its end, or beyond that.
        matches!(sampler.step(), Next::Sample(..)).then_some(sampler)
    }

    /// Returns the specification.
    pub fn spec(&self) -> &Arc<StreamSpec> {
        &self.spec
    }

    /// Returns the number of samples so far.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Returns what was counted so far, of all sources and of each.
    pub fn counted(&self) -> (u64, Vec<u64>) {
        (self.counted, self.sources.iter().map(|source| source.counted).collect())
    }

    /// Returns the weights.
    pub fn weights(&self) -> Vec<Weight> {
        self.sources.iter().map(|source| source.weight).collect()
    }

    /// Sets other weights from here on: what sources had before does not count against them.
    pub fn set_weights(&mut self, weights: &[f64]) -> Result<(), WeightError> {
        let (expected, actual) = (self.sources.len(), weights.len());
        if expected != actual {
            return Err(WeightError::Count { expected, actual });
        }
        for (source, weight) in self.sources.iter_mut().zip(Weight::of(weights)?) {
            (source.weight, source.weighed) = (weight, 0);
        }
        Ok(())
    }

    /// Returns the place of a lane of a source in its epoch: windows before it are not needed any more.
    pub fn place(&self, source: u32, lane: u32) -> (u64, LanePlace) {
        let walk = &self.sources[source as usize].walk;
        (walk.epoch().number(), walk.places().0[lane as usize])
    }

    /// Returns the error of a cursor whose place in a window is not one of the window's samples.
    pub fn no_such_place(&self, key: WindowKey) -> CursorError {
        let (_, LanePlace { window, item }) = self.place(key.source, key.lane);
        let dataset = self.spec.sources[key.source as usize].dataset.clone();
        CursorError::Lane { dataset, lane: key.lane, window, item }
    }

    /// Goes to the next sample. Where it needs something first it stays where it is.
    pub fn step(&mut self) -> Next {
        if self.spec.budget.is_some_and(|budget| self.counted >= budget) {
            return Next::End;
        }
        loop {
            let living = |source: &Source| if source.ended { Weight::default() } else { source.weight };
            let Some(number) = choose(self.sources.iter().map(|source| (living(source), source.weighed))) else {
                return Next::End;
            };
            let source = &mut self.sources[number];
            match source.walk.peek() {
                Walked::Need(key) => return Next::Need(key),
                Walked::Over => source.next_epoch(number as u32, &self.spec),
                Walked::Sample(sample) => {
                    source.walk.pass();
                    let count = u64::from(sample.count);
                    source.samples += 1;
                    source.counted += count;
                    source.weighed += count;
                    let position = self.samples;
                    (self.samples, self.counted) = (position + 1, self.counted + count);
                    return Next::Sample(position, sample);
                }
            }
        }
    }

    /// Takes the sizes of the samples of a window, as [`WindowPlan::sizes`](super::WindowPlan::sizes) gives them. Says
    /// whether the place in it is one of them: a cursor may have claimed what is not so.
    pub fn give(&mut self, key: WindowKey, sizes: Arc<[ItemSize]>) -> bool {
        self.sources[key.source as usize].walk.give(key, sizes)
    }

    /// Returns where the stream is; `seen` is what its caller saw.
    pub fn cursor(&self, seen: Seen) -> Cursor {
        let source = |(spec, source): (&SourceSpec, &Source)| {
            let (places, next) = source.walk.places();
            SourceCursor {
                dataset: spec.dataset.clone(),
                order: spec.order.table().id(),
                spec: spec.order.spec().clone(),
                weight: source.weight,
                weighed: source.weighed,
                samples: source.samples,
                counted: source.counted,
                epoch: source.walk.epoch().number(),
                next,
                lanes: places.iter().map(|place| (place.window, place.item)).collect(),
            }
        };
        Cursor {
            format: CURSOR_FORMAT.to_owned(),
            algorithm: ALGORITHM,
            samples: self.samples,
            unit: self.spec.unit,
            counted: self.counted,
            sources: self.spec.sources.iter().zip(&self.sources).map(source).collect(),
            seen,
        }
    }
}

impl Source {
    fn resume(number: u32, source: &SourceSpec, at: &SourceCursor, unit: Unit) -> Result<Self, CursorError> {
        let dataset = || at.dataset.clone();
        if source.order.table().id() != at.order {
            let expected = format!("{} with order {}", source.dataset, source.order.table().id());
            return Err(CursorError::Order { dataset: dataset(), expected, actual: at.order });
        }
        if *source.order.spec() != at.spec {
            let [expected, actual] = [source.order.spec(), &at.spec].map(ToString::to_string);
            return Err(CursorError::Spec { dataset: dataset(), expected, actual });
        }
        let places: Vec<_> = at.lanes.iter().map(|&(window, item)| LanePlace { window, item }).collect();
        let walk = Walk::resume(number, &source.order, at.epoch, unit, &places, at.next);
        let walk = walk.map_err(|astray| at.astray(astray, source.order.spec().lanes))?;
        at.check_counts(&walk, &source.order)?;
        let ended = source.order.is_empty() || source.epochs.is_some_and(|epochs| at.epoch >= epochs);
        let SourceCursor { weight, weighed, samples, counted, .. } = *at;
        Ok(Self { walk, weight, weighed, samples, counted, ended })
    }

    fn next_epoch(&mut self, number: u32, spec: &StreamSpec) {
        let SourceSpec { order, epochs, .. } = &spec.sources[number as usize];
        let next = self.walk.epoch().number() + 1;
        if epochs.is_some_and(|epochs| next >= epochs) {
            self.ended = true;
        } else {
            self.walk = Walk::start(number, order, next, spec.unit);
        }
    }
}

#[cfg(test)]
#[path = "sampler_test.rs"]
mod tests;
