//! A batch that is being filled: by a task in the background, or by whoever would else have to wait for it.
//!
//! Must never fill a batch twice, and never let one that somebody waits for lie while nobody fills it.

use std::sync::{Arc, Mutex, PoisonError};

use gigastore_formats::ambient::Ambient;
use gigastore_formats::order::Sample;
use tokio::sync::oneshot;

use super::batch::{Batch, Filler};
use super::options::StreamError;
use super::window::Window;

/// A sample of a batch, with the window that has it.
pub(super) struct Found {
    pub(super) window: Arc<Window>,
    pub(super) sample: Sample,
    pub(super) position: u64,
}

/// What is to be done.
pub(super) struct Work {
    pub(super) filler: Filler,
    pub(super) step: u64,
    /// Samples of the batch; padding where not as many were found.
    pub(super) samples: u32,
    pub(super) found: Vec<Found>,
}

/// A batch on its way.
pub(super) struct Filling {
    /// Taken by whoever does it.
    work: Arc<Mutex<Option<Work>>>,
    state: State,
}

enum State {
    Begun(oneshot::Receiver<Result<Batch, StreamError>>),
    Done(Box<Result<Batch, StreamError>>),
}

impl Work {
    fn done(mut self) -> Result<Batch, StreamError> {
        let mut batch = self.filler.batch(self.step, self.samples);
        for Found { window, sample, position } in &self.found {
            let seen = self.filler.add(&mut batch, window, sample.item, *position, sample.window.source)?;
            batch.seen.add(&seen);
        }
        while batch.positions.len() < self.samples as usize {
            self.filler.filler(&mut batch);
        }
        Ok(batch)
    }
}

impl Filling {
    /// Begins in the background: in a task, as it takes microseconds, and a computation of the pool may have to wait
    /// for some that decode whole windows.
    pub(super) fn begin(ambient: &dyn Ambient, work: Work) -> Self {
        let work = Arc::new(Mutex::new(Some(work)));
        let (sender, receiver) = oneshot::channel();
        let begun = Arc::clone(&work);
        ambient.spawn(Box::pin(async move {
            if let Some(work) = take(&begun) {
                // Where nobody waits for it, the stream went elsewhere.
                let _ = sender.send(work.done());
            }
        }));
        Self { work, state: State::Begun(receiver) }
    }

    /// Fills it here and now, where nobody began yet. Returns whether it did.
    pub(super) fn help(&mut self) -> bool {
        let Some(work) = take(&self.work) else { return false };
        self.state = State::Done(Box::new(work.done()));
        true
    }

    /// Waits until it is filled.
    pub(super) async fn wait(&mut self) {
        if let State::Begun(receiver) = &mut self.state {
            self.state = State::Done(Box::new(receiver.await.unwrap_or(Err(StreamError::Broken))));
        }
    }

    /// Tells whether it is filled.
    pub(super) fn is_done(&mut self) -> bool {
        if let State::Begun(receiver) = &mut self.state {
            match receiver.try_recv() {
                Ok(filled) => self.state = State::Done(Box::new(filled)),
                Err(oneshot::error::TryRecvError::Empty) => return false,
                Err(oneshot::error::TryRecvError::Closed) => {
                    self.state = State::Done(Box::new(Err(StreamError::Broken)));
                }
            }
        }
        true
    }

    /// Returns the batch of one that is done.
    pub(super) fn batch(self) -> Result<Batch, StreamError> {
        match self.state {
            State::Done(filled) => *filled,
            State::Begun(_) => Err(StreamError::Broken),
        }
    }
}

fn take(work: &Mutex<Option<Work>>) -> Option<Work> {
    work.lock().unwrap_or_else(PoisonError::into_inner).take()
}
