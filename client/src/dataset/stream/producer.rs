//! Makes batches, some ahead of who takes them, from the place of a sampler on.
//!
//! Two samplers go the same way: one that says which windows will be needed, and one that says whose samples the next
//! batch has. Once its windows are there a batch is filled by itself, so that several are at once.
//!
//! Must never go past a batch whose windows can't be had.

use std::sync::Arc;

use gigastore_formats::order::{Cursor, Next, Sample, Sampler, Seen, WindowKey, assign};
use tokio::sync::{Notify, mpsc};

use super::batch::Filler;
use super::filling::{Filling, Found, Work};
use super::options::{Last, Share, StreamError};
use super::windows::{Loader, Windows};

/// Global batches that are looked ahead for each that is made: 8, so that what will be needed is known soon after the
/// start, at a cost that a batch bears.
const LOOK_AHEAD: usize = 8;

/// A batch that is being filled.
pub(super) struct Making {
    pub(super) filling: Filling,
    /// Where the stream is after it, but for what was seen.
    pub(super) place: Place,
}

/// What comes of making a batch: none at the end.
pub(super) type Message = Result<Option<Making>, StreamError>;

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
            let message = made.map(|filling| filling.map(|filling| Making { filling, place: self.place.clone() }));
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

    /// Begins to fill the next batch of this share; none where there are no more.
    async fn make(&mut self) -> Result<Option<Filling>, StreamError> {
        loop {
            let mut place = self.place.clone();
            let samples = self.global_batch(&mut place.sampler).await?;
            if samples.is_empty() || samples.len() < self.global() && self.last == Last::Drop {
                return Ok(None);
            }
            place.step += 1;
            let mine = self.is_mine(self.place.step);
            if mine {
                let found = self.find(&samples).await?;
                let (filler, step, samples) = (self.filler.clone(), self.place.step, self.share.batch_size);
                let filling = Filling::begin(&**self.windows.ambient(), Work { filler, step, samples, found });
                self.pass(place);
                return Ok(Some(filling));
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

    /// Waits for the windows of this rank's samples.
    async fn find(&mut self, samples: &[(u64, Sample)]) -> Result<Vec<Found>, StreamError> {
        self.look_ahead();
        let lanes: Vec<u32> = samples.iter().map(|(_, sample)| sample.window.lane).collect();
        let ranks = assign(&lanes, self.share.world_size, self.share.batch_size);
        let mut found = Vec::with_capacity(self.share.batch_size as usize);
        for ((position, sample), _) in samples.iter().zip(ranks).filter(|(_, rank)| *rank == self.share.rank) {
            let window = self.windows.take(sample.window).await?;
            if sample.item >= window.plan.items() {
                let (target, path) = self.windows.names(sample.window);
                return Err(StreamError::Counts { target, path });
            }
            found.push(Found { window, sample: *sample, position: *position });
        }
        Ok(found)
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
