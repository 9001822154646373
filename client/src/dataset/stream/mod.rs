//! Datasets as streams of batches: in the order of [`gigastore_formats::order`], every byte checked before a batch is
//! emitted, and a cursor from which any number of ranks goes on.
//!
//! ```no_run
//! use gigastore_client::dataset::stream::StreamOptions;
//! use gigastore_client::store::{OpenMode, Store};
//! use gigastore_formats::order::Packing;
//!
//! async fn train(url: &str) -> Result<(), Box<dyn std::error::Error>> {
//!     let store = Store::open(url, OpenMode::Existing).await?;
//!     let options = StreamOptions::new("demo/corpus".parse()?, 1, Packing::Concat { seq_len: 2048 }, 8);
//!     let mut stream = store.stream(options).await?;
//!     while let Some(batch) = stream.next().await? {
//!         println!("step {}: {} tokens", batch.step, batch.tokens.len());
//!     }
//!     println!("{}", stream.cursor().json());
//!     Ok(())
//! }
//! ```
//!
//! # Memory
//!
//! A process holds the windows that its samples come from, at most one a lane, and what it reads ahead, at most
//! [`prefetch_bytes`](StreamOptions::prefetch_bytes) (or one window where that is larger), stored and decoded: see
//! [`memory_bound`](Stream::memory_bound). Beside that some batches. Memory that was read to stays with the store (in
//! Python with the process) for the streams that follow: [`KEPT_BYTES`](crate::store::KEPT_BYTES) at most, which the
//! system may take.
//!
//! | file | what |
//! |---|---|
//! | `options.rs` | what a stream reads, and why it does not |
//! | `window.rs` | a window: read, checked, decoded, packed |
//! | `group.rs` | a row group of it |
//! | `windows.rs` | which windows are held, and read ahead |
//! | `producer.rs` | makes batches in the background |
//! | `filling.rs` | a batch that is being filled, by whoever comes first |
//! | `batch.rs` | samples to a batch |
//! | `shelf.rs` | memory that is used again |
//! | `explain.rs` | which documents a step has |
//!
//! A slow or failing store delays batches. Must never reorder, repeat or drop one.

mod batch;
mod explain;
mod filling;
mod group;
mod options;
mod producer;
mod shelf;
mod window;
mod windows;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use gigastore_formats::ambient::Ambient;
use gigastore_formats::order::{Cursor, GroupTable, Sampler, Seen, SourceOrder, SourceSpec, StreamSpec, Unit, Weight};
use tokio::sync::{Notify, mpsc};

pub use batch::{Batch, FILLER};
pub use explain::{ExplainedPiece, ExplainedSample};
pub use options::{
    Columns, DEFAULT_LANES, DEFAULT_PREFETCH_BYTES, DEFAULT_WINDOW, Last, OnDamage, Share, StreamError, StreamOptions,
    StreamSource,
};
pub use producer::Place;
pub use shelf::Reused;

use batch::Filler;
use producer::{Making, Message, Producer};
use window::Source;
use windows::Loader;

use super::index::IndexedDataset;
use super::read::DatasetError;
use crate::store::Store;

/// Batches that are made before anybody takes them: 8, so that a trainer that takes several at a time does not wait.
/// As many more are looked at by one who waits, to fill them.
const BATCHES_AHEAD: usize = 8;

/// Epochs whose samples are counted to know how long a stream is: 1,024, more often than any dataset is trained on. A
/// million row groups take a tenth of a second an epoch.
const COUNTED_EPOCHS: u64 = 1 << 10;

/// A stream of batches.
pub struct Stream {
    options: StreamOptions,
    ambient: Arc<dyn Ambient>,
    sources: Arc<[Source]>,
    /// Where it is, after the last batch that was taken.
    place: Arc<Place>,
    made: Option<mpsc::Receiver<Message>>,
    /// The first of what was made: the next batch, and some after it.
    ahead: VecDeque<Message>,
    /// Told when a batch is asked for again that could not be made.
    again: Arc<Notify>,
    failed: bool,
    ended: bool,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a stream of batches. Reads the light index of each dataset, and nothing else before it is asked for a
    /// batch.
    pub async fn stream(&self, options: StreamOptions) -> Result<Stream, StreamError> {
        options.check()?;
        let (mut sources, mut specs) = (Vec::new(), Vec::new());
        for source in &options.sources {
            let opened = self.stream_source(source, &options).await?;
            specs.push(SourceSpec {
                dataset: opened.target.clone(),
                order: Arc::clone(&opened.order),
                weight: source.weight,
                epochs: source.epochs,
            });
            sources.push(opened);
        }
        let spec = Arc::new(options.spec(specs));
        let place = Stream::placed(&*self.ambient, spec, options.cursor.clone(), options.first_step).await?;
        let (ambient, sources) = (Arc::clone(&self.ambient), sources.into());
        Ok(Stream {
            options,
            ambient,
            sources,
            place,
            made: None,
            ahead: VecDeque::new(),
            again: Arc::default(),
            failed: false,
            ended: false,
        })
    }

    async fn stream_source(&self, source: &StreamSource, options: &StreamOptions) -> Result<Source, StreamError> {
        let dataset = self.dataset_index(&source.target).await?;
        let target = format!("{}/{}@{}", source.target.project, source.target.name, dataset.info().commit.number);
        let index = dataset.index();
        if index.meta.tokens.is_none() && !index.rows.is_empty() {
            return Err(DatasetError::NoTokens { target }.into());
        }
        let ends = index.files.iter().skip(1).map(|file| file.first_group).chain([index.rows.len() as u32]);
        let files = index.files.iter().zip(ends);
        let files = files.map(|(file, end)| (file.path.as_str(), (end - file.first_group) as usize));
        let unordered = |source| StreamError::Spec { target: target.clone(), source };
        let table = GroupTable::new(files, index.rows.clone(), index.tokens.clone()).map_err(unordered)?;
        let order = SourceOrder::new(table, options.order.clone()).map_err(unordered)?;
        Ok(Source { target, dataset, order, spare: Arc::default() })
    }
}

impl Stream {
    /// Takes the next batch; none where there are no more. After an error it may be asked for again.
    pub async fn next(&mut self) -> Result<Option<Batch>, StreamError> {
        if self.ended {
            return Ok(None);
        }
        if std::mem::take(&mut self.failed) {
            self.again.notify_one();
        }
        if self.ahead.is_empty() {
            if self.made.is_none() {
                self.made = Some(self.begin());
            }
            let message = self.made.as_mut().expect("it was begun").recv().await;
            self.ahead.push_back(message.unwrap_or(Err(StreamError::Broken)));
        }
        // Whoever would have to wait fills a batch instead: this one, or one that comes after it.
        while let Some(Ok(Some(making))) = self.ahead.front_mut()
            && !making.filling.is_done()
            && !making.filling.help()
        {
            if !self.help_others()
                && let Some(Ok(Some(making))) = self.ahead.front_mut()
            {
                making.filling.wait().await;
            }
        }
        self.taken()
    }

    /// Takes the next batch, or what there is instead, if [`next`](Self::next) would neither have to wait for it nor to
    /// fill it; else none.
    pub fn try_next(&mut self) -> Option<Result<Option<Batch>, StreamError>> {
        if self.ahead.is_empty() {
            let message = self.made.as_mut().filter(|_| !self.ended && !self.failed)?.try_recv().ok()?;
            self.ahead.push_back(message);
        }
        if let Some(Ok(Some(making))) = self.ahead.front_mut()
            && !making.filling.is_done()
        {
            return None;
        }
        Some(self.taken())
    }

    /// Fills one of the batches after the next one; returns false where all were begun.
    fn help_others(&mut self) -> bool {
        let help = |message: &mut Message| match message {
            Ok(Some(making)) => making.filling.help(),
            _ => false,
        };
        if self.ahead.iter_mut().skip(1).any(help) {
            return true;
        }
        while self.ahead.len() < BATCHES_AHEAD {
            let Some(mut message) = self.made.as_mut().and_then(|made| made.try_recv().ok()) else { break };
            let helped = help(&mut message);
            self.ahead.push_back(message);
            if helped {
                return true;
            }
        }
        false
    }

    /// Goes past the first of what was made. Where that is no batch, what was made after it is thrown away.
    fn taken(&mut self) -> Result<Option<Batch>, StreamError> {
        match self.ahead.pop_front() {
            Some(Ok(Some(Making { filling, mut place }))) => {
                let batch = filling.batch().inspect_err(|_| self.forget())?;
                place.seen = self.place.seen;
                place.seen.add(&batch.seen);
                self.place = Arc::new(place);
                Ok(Some(batch))
            }
            Some(Ok(None)) => {
                self.ended = true;
                Ok(None)
            }
            Some(Err(StreamError::Broken)) | None => {
                self.forget();
                Err(StreamError::Broken)
            }
            Some(Err(error)) => {
                self.failed = true;
                Err(error)
            }
        }
    }

    /// Returns where the stream is: after the last batch that was taken.
    pub fn cursor(&self) -> Cursor {
        self.place.cursor()
    }

    /// Returns the same, with the number of the next batch; cheap to clone.
    pub fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// Goes on where a cursor is, with a batch of number `step`. What was made ahead is thrown away.
    pub async fn resume(&mut self, cursor: Cursor, step: u64) -> Result<(), StreamError> {
        let spec = Arc::clone(self.place.sampler.spec());
        self.place = Self::placed(&*self.ambient, spec, Some(cursor), step).await?;
        self.forget();
        Ok(())
    }

    /// Throws away what was made ahead.
    fn forget(&mut self) {
        (self.made, self.failed, self.ended) = (None, false, false);
        self.ahead.clear();
    }

    /// Returns the datasets, each in the version that is read.
    pub fn datasets(&self) -> impl ExactSizeIterator<Item = &IndexedDataset> {
        self.sources.iter().map(|source| &source.dataset)
    }

    /// Returns the options.
    pub fn options(&self) -> &StreamOptions {
        &self.options
    }

    /// Returns the weights of the datasets.
    pub fn weights(&self) -> Vec<Weight> {
        self.place.sampler.weights()
    }

    /// Sets other weights from the next batch on. What was made ahead is thrown away.
    pub fn set_weights(&mut self, weights: &[f64]) -> Result<(), StreamError> {
        Arc::make_mut(&mut self.place).sampler.set_weights(weights)?;
        self.forget();
        Ok(())
    }

    /// Returns the samples of an epoch of a dataset, of the one that it is in, where the manifest tells.
    pub fn epoch_samples(&self, source: usize) -> Option<u64> {
        let order = &self.place.sampler.spec().sources.get(source)?.order;
        let (epoch, _) = self.place.sampler.place(source as u32, 0);
        order.epoch(epoch).samples()
    }

    /// Returns the samples of the whole stream, from its very beginning, where the manifest tells: of one dataset that
    /// is read at most 1,024 times, without a budget, or with one of samples.
    pub fn samples(&self) -> Option<u64> {
        let spec = self.place.sampler.spec();
        let [SourceSpec { order, epochs: Some(epochs), .. }] = spec.sources.as_slice() else { return None };
        if spec.budget.is_some() && spec.unit != Unit::Samples || *epochs > COUNTED_EPOCHS {
            return None;
        }
        let samples = (0..*epochs).map(|epoch| order.epoch(epoch).samples()).sum::<Option<u64>>()?;
        Some(spec.budget.map_or(samples, |budget| samples.min(budget)))
    }

    /// Returns the most bytes that windows take in this process: of each dataset, the windows of as many lanes as its
    /// rank has (all lanes where there are several datasets), at their largest; twice what is read ahead, as it was
    /// stored and decoded; and the memory of windows that is kept to be used again. What was read to is kept, too, as
    /// part of this: no more than was in use at once, and the system may take it.
    pub fn memory_bound(&self) -> u64 {
        let order = &self.options.order;
        let share = &self.options.share;
        // Of several sources some samples go to ranks that are not their lane's home.
        let homes = order.lanes.is_multiple_of(share.world_size) && self.sources.len() == 1;
        let lanes = match homes {
            true => order.lanes / share.world_size,
            false => order.lanes,
        };
        let window = |source: &Source| source.largest_window(order.window);
        let windows = self.sources.iter().map(|source| window(source) * u64::from(lanes)).sum::<u64>();
        let largest = self.sources.iter().map(window).max().unwrap_or(0);
        let kept = |source: &Source| source.largest_kept(order.window);
        let kept = self.sources.iter().map(kept).sum::<u64>();
        windows + 2 * self.options.prefetch_bytes.max(largest) + kept
    }

    /// Finds a place. An epoch's order of millions of row groups takes its time.
    async fn placed(
        ambient: &dyn Ambient,
        spec: Arc<StreamSpec>,
        cursor: Option<Cursor>,
        step: u64,
    ) -> Result<Arc<Place>, StreamError> {
        let placed = move || -> Result<Place, StreamError> {
            Ok(match cursor {
                Some(cursor) => Place { sampler: Sampler::resume(&spec, &cursor)?, seen: cursor.seen, step },
                None => Place { sampler: Sampler::new(&spec)?, seen: Seen::default(), step },
            })
        };
        ambient.computed(placed).await.map(Arc::new)
    }

    fn begin(&mut self) -> mpsc::Receiver<Message> {
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        let (ambient, sources) = (Arc::clone(&self.ambient), Arc::clone(&self.sources));
        let StreamOptions { damage, prefetch_bytes, share, last, columns, .. } = self.options;
        let loader = Loader { ambient, sources, damage };
        let filler = Filler::new(columns, self.options.order.packing.seq_len());
        let producer = Producer::new(Place::clone(&self.place), loader, prefetch_bytes, share, last, filler);
        // One of its own, so that no call of before counts.
        self.again = Arc::default();
        self.ambient.spawn(Box::pin(producer.run(sender, Arc::clone(&self.again))));
        receiver
    }
}
