//! Makes batches, some ahead of who takes them, from the place of a sampler on.
//!
//! Two samplers go the same way: one that says which windows will be needed, and one that says whose samples the next
//! batch has. Must never go past a batch that could not be made.

use std::sync::Arc;

use gigastore_formats::order::{Cursor, Next, Sample, Sampler, Seen, WindowKey, assign};
use tokio::sync::{Notify, mpsc};

use super::batch::{Batch, Filler};
use super::options::{Last, Share, StreamError};
use super::windows::{Loader, Windows};

/// Global batches that are looked ahead for each that is made: 8, so that what will be needed is known soon after the
/// start, at a cost that a batch bears.
const LOOK_AHEAD: usize = 8;

/// A batch, and where the stream is after it.
pub(super) struct Made {
    pub(super) batch: Batch,
    pub(super) place: Arc<Place>,
}

/// What comes of making a batch: none at the end.
pub(super) type Message = Result<Option<Made>, StreamError>;

/// Where a stream is. It is mere memory: of use also where the stream itself is not, as in a process that was forked
/// off.
#[derive(Clone, Debug)]
pub struct Place {
    pub(super) sampler: Sampler,
    pub(super) seen: Seen,
    /// Global batches so far.
    pub(super) step: u64,
}

/// Makes batches.
pub(super) struct Producer {
    place: Place,
    share: Share,
    last: Last,
    windows: Windows,
    filler: Filler,
    ahead: Sampler,
    /// Samples of the global batch that is being looked at, and its number.
    looked: Vec<Sample>,
    look_step: u64,
    /// Whether all samples were looked at.
    all_seen: bool,
}

impl Place {
    /// Returns the cursor.
    pub fn cursor(&self) -> Cursor {
        self.sampler.cursor(self.seen)
    }

    /// Returns what was seen so far.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Returns the number of the next batch.
    pub fn step(&self) -> u64 {
        self.step
    }
}

impl Producer {
    pub(super) fn new(place: Place, loader: Loader, prefetch: u64, share: Share, last: Last, filler: Filler) -> Self {
        let (ahead, look_step) = (place.sampler.clone(), place.step);
        let windows = Windows::new(loader, prefetch);
        Self { place, share, last, windows, filler, ahead, looked: Vec::new(), look_step, all_seen: false }
    }

    /// Makes batches until there are no more, or nobody takes them. After one that can't be made it waits until `again`
    /// is notified, and keeps what it holds.
    pub(super) async fn run(mut self, sender: mpsc::Sender<Message>, again: Arc<Notify>) {
        loop {
            let made = tokio::select! {
                made = self.make() => made,
                () = sender.closed() => return,
            };
            let (ended, failed) = (matches!(made, Ok(None)), made.is_err());
            let message = made.map(|batch| batch.map(|batch| Made { batch, place: Arc::new(self.place.clone()) }));
            if sender.send(message).await.is_err() || ended {
                return;
            }
            if failed {
                tokio::select! {
                    () = again.notified() => {}
                    () = sender.closed() => return,
                }
            }
        }
    }

    /// Makes the next batch of this share; none where there are no more.
    async fn make(&mut self) -> Result<Option<Batch>, StreamError> {
        loop {
            let mut place = self.place.clone();
            let samples = self.global_batch(&mut place.sampler).await?;
            if samples.is_empty() || samples.len() < self.global() && self.last == Last::Drop {
                return Ok(None);
            }
            place.step += 1;
            let mine = self.is_mine(self.place.step);
            if mine {
                let batch = self.fill(&mut place, &samples).await?;
                self.pass(place);
                return Ok(Some(batch));
            }
            self.pass(place);
        }
    }

    /// Takes the samples of the next global batch, with their positions.
    async fn global_batch(&mut self, sampler: &mut Sampler) -> Result<Vec<(u64, Sample)>, StreamError> {
        let mut samples = Vec::with_capacity(self.global());
        while samples.len() < self.global() {
            match sampler.step() {
                Next::Sample(position, sample) => samples.push((position, sample)),
                Next::Need(key) => {
                    self.look_ahead();
                    let sizes = self.windows.take_sizes(key, self.is_home(key)).await?;
                    if !sampler.give(key, sizes) {
                        return Err(sampler.no_such_place(key).into());
                    }
                }
                Next::End => break,
            }
        }
        Ok(samples)
    }

    async fn fill(&mut self, place: &mut Place, samples: &[(u64, Sample)]) -> Result<Batch, StreamError> {
        self.look_ahead();
        let mut batch = self.filler.batch(self.place.step, self.share.batch_size);
        let lanes: Vec<u32> = samples.iter().map(|(_, sample)| sample.window.lane).collect();
        let ranks = assign(&lanes, self.share.world_size, self.share.batch_size);
        for ((position, sample), _) in samples.iter().zip(ranks).filter(|(_, rank)| *rank == self.share.rank) {
            let window = self.windows.take(sample.window).await?;
            if sample.item >= window.plan.items() {
                let (target, path) = self.windows.names(sample.window);
                return Err(StreamError::Counts { target, path });
            }
            let seen = self.filler.add(&mut batch, &window, sample.item, *position, sample.window.source)?;
            batch.seen.add(&seen);
        }
        place.seen.add(&batch.seen);
        while batch.positions.len() < self.share.batch_size as usize {
            self.filler.filler(&mut batch);
        }
        Ok(batch)
    }

    fn pass(&mut self, place: Place) {
        self.place = place;
        self.windows.forget_before(&self.place.sampler);
    }

    /// Finds out which windows will be needed, and begins to read them while there is room.
    fn look_ahead(&mut self) {
        for _ in 0..LOOK_AHEAD {
            if !self.windows.read_ahead() || self.all_seen {
                return;
            }
            while self.looked.len() < self.global() {
                match self.ahead.step() {
                    Next::Sample(_, sample) => self.looked.push(sample),
                    Next::Need(key) => match self.windows.peek_sizes(key, self.is_home(key)) {
                        // What a cursor claims wrongly is an error for whoever goes there.
                        Some(sizes) if self.ahead.give(key, Arc::clone(&sizes)) => {}
                        _ => return,
                    },
                    Next::End => {
                        self.all_seen = true;
                        break;
                    }
                }
            }
            if self.is_mine(self.look_step) {
                let lanes: Vec<u32> = self.looked.iter().map(|sample| sample.window.lane).collect();
                let ranks = assign(&lanes, self.share.world_size, self.share.batch_size);
                let mine = self.looked.iter().zip(ranks).filter(|(_, rank)| *rank == self.share.rank);
                mine.for_each(|(sample, _)| self.windows.want(sample.window));
            }
            self.looked.clear();
            self.look_step += 1;
        }
    }

    fn is_mine(&self, step: u64) -> bool {
        step % u64::from(self.share.workers) == u64::from(self.share.worker)
    }

    /// Tells whether this share has the samples of a lane, so that its tokens are read anyhow.
    fn is_home(&self, key: WindowKey) -> bool {
        self.share.workers == 1 && key.lane % self.share.world_size == self.share.rank
    }

    /// Samples of a global batch.
    fn global(&self) -> usize {
        self.share.world_size as usize * self.share.batch_size as usize
    }
}
