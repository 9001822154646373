//! Which documents the samples of a step consist of, from a cursor and lengths alone.
//!
//! Must never read a token where the files say how long their documents are.

use std::collections::BTreeMap;

use gigastore_formats::name::Target;
use gigastore_formats::order::{Cursor, CursorError, Next, Sample, Sampler, WindowKey, WindowPlan, assign};

use super::options::{OnDamage, Share, StreamError};
use super::{Stream, StreamOptions, StreamSource};
use crate::store::Store;

/// A document, or a piece of one, in a sample.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExplainedPiece {
    /// The dataset's number among the sources.
    pub source: u32,
    /// The file's number in the dataset.
    pub file: usize,
    /// Path of the file.
    pub path: String,
    /// The row of the file.
    pub row: u64,
    /// The document's id, where the file has a column of them.
    pub id: Option<String>,
    /// First token of the document.
    pub start: u32,
    /// Tokens.
    pub len: u32,
}

/// A sample of a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExplainedSample {
    /// Its position in the stream.
    pub position: u64,
    /// The rank that gets it.
    pub rank: u32,
    /// The dataset that it is of.
    pub dataset: String,
    /// The epoch of the dataset.
    pub epoch: u64,
    /// What it consists of, in order.
    pub pieces: Vec<ExplainedPiece>,
}

impl StreamOptions {
    /// Returns the options of a stream that goes on where a cursor is, with the datasets and versions that it names,
    /// each read `epochs` times, or for ever.
    pub fn of_cursor(cursor: Cursor, share: Share, epochs: Option<u64>) -> Result<Self, StreamError> {
        let first = cursor.sources.first().ok_or(StreamError::NoSource)?;
        let mut options = Self::new(Self::target(&first.dataset)?, 0, first.spec.packing, share.batch_size);
        options.order = first.spec.clone();
        options.unit = cursor.unit;
        options.share = share;
        options.sources.clear();
        for source in &cursor.sources {
            let (target, weight) = (Self::target(&source.dataset)?, source.weight.part());
            options.sources.push(StreamSource { target, weight, epochs });
        }
        options.cursor = Some(cursor);
        Ok(options)
    }

    fn target(dataset: &str) -> Result<Target, StreamError> {
        let parsed = dataset.parse::<Target>();
        Ok(parsed.map_err(|error| CursorError::Json(format!("its dataset {dataset:?}: {error}")))?)
    }
}

impl Store {
    /// Tells which documents the samples of the global batch number `step` after `cursor` consist of, where
    /// `world_size` ranks take `batch_size` samples each and read each dataset `epochs` times, or for ever. How much
    /// the stream may count before it ends is not known to a cursor: steps past that are told too.
    pub async fn explain(
        &self,
        cursor: Cursor,
        step: u64,
        (world_size, batch_size): (u32, u32),
        epochs: Option<u64>,
    ) -> Result<Vec<ExplainedSample>, StreamError> {
        let share = Share { rank: 0, world_size, batch_size, worker: 0, workers: 1 };
        let stream = self.stream(StreamOptions::of_cursor(cursor, share, epochs)?).await?;
        let mut sampler = stream.place.sampler.clone();
        let global = u64::from(world_size) * u64::from(batch_size);
        for _ in 0..step.saturating_mul(global) {
            if stream.step(&mut sampler).await?.is_none() {
                return Ok(Vec::new());
            }
        }
        let mut samples = Vec::new();
        while (samples.len() as u64) < global
            && let Some(sample) = stream.step(&mut sampler).await?
        {
            samples.push(sample);
        }
        stream.explain(&samples).await
    }
}

impl Stream {
    /// Goes to the next sample, reading lengths where these are needed for that.
    async fn step(&self, sampler: &mut Sampler) -> Result<Option<(u64, Sample)>, StreamError> {
        loop {
            match sampler.step() {
                Next::Sample(position, sample) => return Ok(Some((position, sample))),
                Next::End => return Ok(None),
                Next::Need(key) => {
                    let source = &self.sources[key.source as usize];
                    let plan = source.plan(&*self.ambient, key, OnDamage::Fail).await?;
                    if !sampler.give(key, plan.sizes().into()) {
                        return Err(sampler.no_such_place(key).into());
                    }
                }
            }
        }
    }

    async fn explain(&self, samples: &[(u64, Sample)]) -> Result<Vec<ExplainedSample>, StreamError> {
        let lanes: Vec<u32> = samples.iter().map(|(_, sample)| sample.window.lane).collect();
        let Share { world_size, batch_size, .. } = self.options.share;
        let ranks = assign(&lanes, world_size, batch_size);
        let mut explained = Vec::with_capacity(samples.len());
        let mut last: Option<(WindowKey, WindowPlan)> = None;
        for ((position, sample), rank) in samples.iter().zip(ranks) {
            let key = sample.window;
            let source = &self.sources[key.source as usize];
            let plan = match last.take().filter(|(kept, _)| *kept == key) {
                Some((_, plan)) => plan,
                None => source.plan(&*self.ambient, key, OnDamage::Fail).await?,
            };
            let pieces = if sample.item < plan.items() { plan.segments(sample.item) } else { &[] };
            explained.push(ExplainedSample {
                position: *position,
                rank,
                dataset: source.target.clone(),
                epoch: key.epoch,
                pieces: pieces.iter().map(|segment| source.piece(key, segment)).collect(),
            });
            last = Some((key, plan));
        }
        self.find_ids(&mut explained).await?;
        Ok(explained)
    }

    /// Looks up the ids of the documents, each file once.
    async fn find_ids(&self, explained: &mut [ExplainedSample]) -> Result<(), StreamError> {
        let mut rows: BTreeMap<(u32, usize), Vec<u64>> = BTreeMap::new();
        for piece in explained.iter().flat_map(|sample| &sample.pieces) {
            rows.entry((piece.source, piece.file)).or_default().push(piece.row);
        }
        let mut ids = BTreeMap::new();
        for ((source, file), rows) in rows {
            let found = self.sources[source as usize].dataset.ids(file, &rows).await?;
            ids.insert((source, file), found);
        }
        for piece in explained.iter_mut().flat_map(|sample| &mut sample.pieces) {
            piece.id = ids.get(&(piece.source, piece.file)).and_then(|found| found.get(&piece.row)).cloned();
        }
        Ok(())
    }
}
