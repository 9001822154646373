//! The runtime of this process, and of any process that is forked off it.
//!
//! A fork takes no threads along: runtime, pool and connections of the parent are of no use to its child, which gets
//! its own when it first needs them. What the child has of the parent's is forgotten, not closed, as its threads are
//! not there to close it. Must never wait without looking for Ctrl-C, nor with the interpreter's lock held.

use std::num::NonZero;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use gigastore_client::ambient::SystemAmbient;
use gigastore_client::store::KEPT_BYTES;
use gigastore_client::transfer::buffer::BufferPool;
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::ambient::Ambient;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};

use crate::error::raise;
use crate::released;

/// How often a wait looks for Ctrl-C, and tells of progress: a tenth of a second is at once for people.
const TICK: Duration = Duration::from_millis(100);

/// What all of this process share.
pub(crate) struct Process {
    pub(crate) runtime: Runtime,
    pub(crate) ambient: Arc<dyn Ambient>,
    /// Memory that streams after one another read to.
    pub(crate) buffers: BufferPool,
}

/// Returns what this process has; starts it where there is none.
pub(crate) fn process(_: Python<'_>) -> PyResult<&'static Process> {
    static CURRENT: OfProcess<&'static Process> = OfProcess::empty();
    if let Some(process) = CURRENT.get() {
        return Ok(process);
    }
    // Whoever waits for a batch fills some, and is a thread too: with more threads than cores, those that others wait
    // for would stand behind those that nobody needs yet.
    let workers = thread::available_parallelism().map_or(1, NonZero::get).saturating_sub(1).max(1);
    let runtime = Builder::new_multi_thread().worker_threads(workers).thread_name("gigastore").enable_all().build()?;
    // It lives as long as the process: saves in the background go on when nobody holds their store.
    let (ambient, buffers) = (Arc::<SystemAmbient>::default(), BufferPool::holding(KEPT_BYTES));
    let process = Box::leak(Box::new(Process { runtime, ambient, buffers }));
    CURRENT.set(process);
    Ok(process)
}

/// A value that is of no use to a process that was forked off.
///
/// Its lock is held for moments only, by threads that hold the interpreter's lock: Python forks under that, so that no
/// child finds it locked.
pub(crate) struct OfProcess<T>(Mutex<Option<(u32, T)>>);

impl<T: Clone> OfProcess<T> {
    pub(crate) const fn empty() -> Self {
        Self(Mutex::new(None))
    }

    pub(crate) fn of(value: T) -> Self {
        Self(Mutex::new(Some((std::process::id(), value))))
    }

    /// Returns the value that this process has set.
    pub(crate) fn get(&self) -> Option<T> {
        self.lock().as_ref().filter(|(process, _)| *process == std::process::id()).map(|(_, value)| value.clone())
    }

    pub(crate) fn set(&self, value: T) {
        Self::discard(self.lock().replace((std::process::id(), value)));
    }

    /// Sets a value where this process has none yet, and returns the one that it has then.
    pub(crate) fn get_or_set(&self, value: T) -> T {
        let mut held = self.lock();
        if let Some((process, value)) = held.as_ref()
            && *process == std::process::id()
        {
            return value.clone();
        }
        Self::discard(held.replace((std::process::id(), value.clone())));
        value
    }

    fn discard(before: Option<(u32, T)>) {
        if let Some((process, value)) = before {
            if process == std::process::id() { drop(value) } else { std::mem::forget(value) }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(u32, T)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for OfProcess<T> {
    fn drop(&mut self) {
        let held = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(held) = held.filter(|(process, _)| *process != std::process::id()) {
            std::mem::forget(held);
        }
    }
}

/// Who is told how far a transfer is.
pub(crate) struct Watched<'py> {
    pub(crate) progress: Progress,
    told: Option<Bound<'py, PyAny>>,
}

impl<'py> Watched<'py> {
    /// Returns counters, and whom to tell of them: a callable that takes bytes done, bytes in all, bytes moved.
    pub(crate) fn by(told: Option<Bound<'py, PyAny>>) -> Self {
        Self { progress: Progress::default(), told }
    }

    fn tell(&self) -> PyResult<()> {
        let Some(told) = &self.told else { return Ok(()) };
        let now = self.progress.snapshot();
        told.call1((now.done, now.total, now.moved)).map(drop)
    }
}

/// Waits for a future, with the interpreter's lock released. Ctrl-C, and what the callable raises, drops it.
pub(crate) fn wait<'py, T: Send, E: gigastore_client::Coded + Send>(
    py: Python<'py>,
    watched: &Watched<'py>,
    future: impl Future<Output = Result<T, E>> + Send,
) -> PyResult<T> {
    let process = process(py)?;
    let mut future = pin!(future);
    watched.tell()?;
    loop {
        let work = future.as_mut();
        let done = py.detach(|| process.runtime.block_on(async { tokio::time::timeout(TICK, work).await }));
        released::collect(py);
        if let Ok(done) = done {
            // What is done is done, whatever the callable makes of it.
            watched.tell().unwrap_or_else(|error| error.write_unraisable(py, None));
            return done.map_err(|error| raise(py, &error));
        }
        py.check_signals()?;
        watched.tell()?;
    }
}

/// As [`wait`], where nobody is told of progress.
pub(crate) fn wait_quietly<T: Send, E: gigastore_client::Coded + Send>(
    py: Python<'_>,
    future: impl Future<Output = Result<T, E>> + Send,
) -> PyResult<T> {
    wait(py, &Watched::by(None), future)
}
