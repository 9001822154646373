//! Saves in the background: the caller stands still for one copy of its state, and trains on while that copy is hashed,
//! sent and committed.
//!
//! ```
//! use gigastore_client::checkpoint::asynchronous::{AsyncSaver, Busy, Outcome, Staging, StateLayout};
//! use gigastore_client::checkpoint::SaveSpec;
//! use gigastore_client::store::{OpenMode, Store};
//! use gigastore_formats::tensor::{boxes::TensorBox, dtype::Dtype, slice::SliceId};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let url = format!("file://{}", folder.path().display());
//! let store = Store::open(&url, OpenMode::Create).await?;
//! // Once: rank 0 of 1; memory for one state of 64 bytes, taken and touched now rather than in the first save.
//! let saver = AsyncSaver::new(store, 0, Staging { state_bytes: 64, states: 1 });
//! saver.reserve().await?;
//! let w = SliceId::tensor("w", Dtype::U8, &[4, 16], TensorBox::whole(&[4, 16])?)?;
//! let layout = StateLayout::new([(w, vec![])]);
//!
//! let mut weights = vec![0; 64];
//! for step in 1..=3 {
//!     weights.fill(step as u8); // train
//!     let spec = SaveSpec::new("demo".parse()?, "run".parse()?, step, 1);
//!     // The weights are free again when this returns. What failed in an earlier save is returned here, once.
//!     match saver.save(spec, &layout, &[&weights], Busy::Wait).await? {
//!         Outcome::Staged(times) => println!("stood still for {:?} and {:?}", times.waited, times.copied),
//!         Outcome::Skipped { running } => println!("step {step} was not saved: step {running} is under way"),
//!     }
//! }
//! saver.wait().await?; // all are committed
//! assert_eq!(saver.newest().map(|done| done.info.commit.number), Some(3));
//! # Ok(())
//! # }
//! ```
//!
//! **Memory**: `states` buffers of `state_bytes` each, rounded up to 2 MiB, and not a byte more of state; they are kept
//! between saves. Beside them a save holds what any save does (headers, digests, requests). A state that is larger is
//! refused before anything is copied.
//!
//! **Failures**: what fails in the background is returned by the next call of `save` or `wait`, each failure once; that
//! `save` staged nothing, and may be called again. A saver that is dropped lets its saves go on, for as long as the
//! runtime lives; what nobody was told by then, and what fails later, goes to [`AsyncSaver::on_lost`], which prints it
//! on stderr unless set.
//!
//! **Threads**: the copy runs on the calling thread and up to seven more. The rest needs a runtime that runs while the
//! caller trains: one of several threads, or one that is polled. Must never read the caller's memory after `save`
//! returned.

mod layout;
mod ledger;
mod pending;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gigastore_formats::timeline::Phase;
use gigastore_formats::wire::{Committed, with_causes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::save::{SaveError, SaveSpec, Slice};
use crate::store::Store;
use crate::transfer::buffer::{Buffer, BufferPool};
use crate::transfer::copy::gather;
use crate::transfer::phases::Phases;
use crate::transfer::progress::Progress;
use ledger::{Flight, Ledger, OnLost, Slot};

pub use layout::StateLayout;
pub use pending::PendingSave;

/// Memory for states that are on their way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Staging {
    /// Bytes of the largest state that this rank saves.
    pub state_bytes: u64,
    /// States that may be on their way at once: with one, a save waits until the one before is committed. At least one.
    pub states: u32,
}

/// What a save does while earlier ones hold all the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Busy {
    /// It waits.
    Wait,
    /// It does nothing, and says so.
    Skip,
}

/// What became of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The state was copied, and is being saved.
    Staged(StoodStill),
    /// Nothing was done, as an earlier save is not done.
    Skipped {
        /// The step of that save, the oldest of them.
        running: u64,
    },
}

/// What became of a call, for a caller who will wait for this save and no other.
pub enum Begun {
    /// The state was copied, and is being saved.
    Staged(StoodStill, PendingSave),
    /// Nothing was done, as an earlier save is not done.
    Skipped {
        /// The step of that save, the oldest of them.
        running: u64,
    },
}

/// How long the caller stood still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoodStill {
    /// Until an earlier save gave its memory back.
    pub waited: Duration,
    /// While the state was copied.
    pub copied: Duration,
}

/// Why nothing was staged, or what became of an earlier save.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AsyncSaveError {
    /// Another number of tensors than the layout has.
    #[error("the layout has {expected} slices, but {actual} were given")]
    Slices {
        /// Slices of the layout.
        expected: usize,
        /// Slices given.
        actual: usize,
    },
    /// A slice has not as many bytes as its box.
    #[error("slice {slice} has {actual} bytes of data, expected {expected}")]
    Length {
        /// The slice.
        slice: String,
        /// Bytes of its box.
        expected: u64,
        /// Bytes given.
        actual: u64,
    },
    /// The state is larger than the memory that the saver was given.
    #[error(
        "a state of {actual} bytes does not fit the {limit} bytes of staging memory that this saver was given: give \
         it more (`Staging::state_bytes`), or save without it"
    )]
    TooLarge {
        /// Bytes of the state.
        actual: u64,
        /// Bytes of one staging buffer.
        limit: u64,
    },
    /// There is no memory to stage in.
    #[error("no memory for a staging buffer of {bytes} bytes: give the saver less (`Staging::state_bytes`)")]
    Memory {
        /// Its bytes.
        bytes: u64,
        /// What the system said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// An earlier save failed. Nothing is visible of it.
    #[error("the save of {target} failed in the background")]
    Failed {
        /// What it saved.
        target: String,
        /// Why.
        #[source]
        source: Arc<SaveError>,
    },
    /// An earlier save ended without an answer. Whether it was committed, the store tells.
    #[error(
        "the save of {target} was cut off in the background: its runtime was shut down, or it panicked; `ckpt show` \
         tells whether it was committed"
    )]
    CutOff {
        /// What it saved.
        target: String,
    },
}

/// Saves states of one rank in the background.
pub struct AsyncSaver {
    store: Store,
    rank: u32,
    staging: Staging,
    pool: BufferPool,
    /// One permit for each buffer that nobody uses.
    slots: Arc<Semaphore>,
    ledger: Arc<Ledger>,
}

impl fmt::Debug for AsyncSaver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncSaver").field("rank", &self.rank).field("staging", &self.staging).finish_non_exhaustive()
    }
}

impl AsyncSaver {
    /// Returns a saver for one rank. Takes no memory yet.
    pub fn new(store: Store, rank: u32, staging: Staging) -> Self {
        let staging = Staging { states: staging.states.max(1), ..staging };
        let on_lost: OnLost = Arc::new(|error| eprintln!("gigastore: {}", with_causes(error)));
        let ledger = Arc::new(Ledger::new(on_lost));
        let slots = Arc::new(Semaphore::new(staging.states as usize));
        Self { store, rank, staging, pool: BufferPool::keeping(staging.states as usize), slots, ledger }
    }

    /// Sets what takes the failures that nobody was told of when the saver is dropped.
    pub fn on_lost(mut self, on_lost: impl Fn(&AsyncSaveError) + Send + Sync + 'static) -> Self {
        // Before the first save nobody else has it.
        self.ledger = Arc::new(Ledger::new(Arc::new(on_lost)));
        self
    }

    /// Takes all the memory now, and touches it, so that not even the first save waits for the system's pages. Waits
    /// for saves that are under way.
    pub async fn reserve(&self) -> Result<(), AsyncSaveError> {
        let _all = self.idle().await;
        let mut buffers = Vec::new();
        for _ in 0..self.staging.states {
            let mut buffer = self.buffer()?;
            buffer.touch(&*self.store.ambient);
            buffers.push(buffer);
        }
        Ok(())
    }

    /// Copies a state and saves the copy in the background: `tensors` are the bytes of the layout's slices, in its
    /// order, and free again when this returns.
    ///
    /// `spec.attempt` must be set where several processes save one checkpoint. A failure of an earlier save is returned
    /// instead, once; nothing was staged then.
    pub async fn save(
        &self,
        spec: SaveSpec,
        layout: &StateLayout,
        tensors: &[&[u8]],
        busy: Busy,
    ) -> Result<Outcome, AsyncSaveError> {
        Ok(match self.begin(spec, layout, tensors, busy).await? {
            Begun::Staged(times, _) => Outcome::Staged(times),
            Begun::Skipped { running } => Outcome::Skipped { running },
        })
    }

    /// As [`save`](Self::save), for a caller who will wait for this save and no other.
    pub async fn begin(
        &self,
        spec: SaveSpec,
        layout: &StateLayout,
        tensors: &[&[u8]],
        busy: Busy,
    ) -> Result<Begun, AsyncSaveError> {
        self.ledger.surface()?;
        layout.check(tensors)?;
        let (actual, limit) = (layout.bytes(), self.staging.state_bytes);
        if actual > limit {
            return Err(AsyncSaveError::TooLarge { actual, limit });
        }
        let ambient = &*self.store.ambient;
        let started = ambient.monotonic();
        let permit = match (Arc::clone(&self.slots).try_acquire_owned(), busy, self.ledger.oldest()) {
            (Ok(permit), _, _) => permit,
            (Err(_), Busy::Skip, Some(running)) => return Ok(Begun::Skipped { running }),
            // Where no save is under way any more, its memory comes back at once.
            (Err(_), Busy::Skip, None) | (Err(_), Busy::Wait, _) => self.slots(1).await,
        };
        // What was waited for may have failed.
        self.ledger.surface()?;
        let waited = ambient.monotonic().saturating_sub(started);
        let (phases, begin) = (Phases::begin(&self.store.ambient), ambient.monotonic());
        let slot = Arc::new(Slot::new(permit, Arc::clone(&self.ledger), spec.step));
        let mut buffer = self.buffer()?;
        buffer.truncate(actual as usize);
        gather(ambient, tensors, buffer.as_mut());
        phases.took(Phase::Stage, actual, begin);
        let copied = ambient.monotonic().saturating_sub(begin);
        let target = format!("{}/{}@{}", spec.project, spec.run, spec.step);
        let (pending, told) = PendingSave::new(Arc::clone(&self.ledger), target.clone());
        let flight = Flight::new(target, Arc::clone(&self.ledger), Arc::clone(&slot), told);
        let staged = Bytes::from_owner(Staged { buffer, _slot: slot });
        let (store, rank, layout) = (self.store.clone(), self.rank, layout.clone());
        self.store.ambient.spawn(Box::pin(async move {
            let mut flight = flight;
            flight.outcome = Some(save(store, phases, rank, spec, layout.cut(staged)).await);
        }));
        Ok(Begun::Staged(StoodStill { waited, copied }, pending))
    }

    /// Waits until no save is under way. Returns a failure that nobody was told of; call again where there may be more.
    pub async fn wait(&self) -> Result<(), AsyncSaveError> {
        drop(self.idle().await);
        self.ledger.surface()
    }

    /// Returns what was committed last.
    pub fn newest(&self) -> Option<Committed> {
        self.ledger.newest()
    }

    /// Returns how many staging buffers were taken from the system so far: at most [`Staging::states`].
    pub fn buffers_made(&self) -> u64 {
        self.pool.made()
    }

    async fn idle(&self) -> OwnedSemaphorePermit {
        self.slots(self.staging.states).await
    }

    async fn slots(&self, count: u32) -> OwnedSemaphorePermit {
        let taken = Arc::clone(&self.slots).acquire_many_owned(count).await;
        taken.expect("the semaphore is never closed")
    }

    fn buffer(&self) -> Result<Buffer, AsyncSaveError> {
        let bytes = self.staging.state_bytes;
        let len = usize::try_from(bytes).map_err(std::io::Error::other);
        len.and_then(|len| self.pool.take(len))
            .map_err(|source| AsyncSaveError::Memory { bytes, source: Arc::new(source) })
    }
}

impl Drop for AsyncSaver {
    fn drop(&mut self) {
        self.ledger.orphan();
    }
}

async fn save(
    store: Store,
    phases: Phases,
    rank: u32,
    spec: SaveSpec,
    slices: Vec<Slice>,
) -> Result<Committed, SaveError> {
    let save = store.begin_save(spec, Progress::default()).await?;
    save.rank_since(phases, rank, slices).await?;
    save.finish().await
}

/// A staged state: its memory goes back to the pool when the last slice of it is gone, and then its slot.
struct Staged {
    buffer: Buffer,
    _slot: Arc<Slot>,
}

impl AsRef<[u8]> for Staged {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref()
    }
}
