//! Batches of datasets for a trainer: waited for with the interpreter's lock released, their memory handed on as it is.
//!
//! A stream is opened by each process that asks it for batches, from where it was when that process was forked off or
//! sent it: the place is mere memory, kept beside what belongs to one process. Must never hand out a batch without
//! noting that place, nor one batch to two threads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gigastore_client::dataset::stream::{Batch, Place, Stream as Opened, StreamError, StreamOptions};
use gigastore_formats::order::{Cursor, Seen};
use gigastore_formats::wire::{Fault, FaultCode};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::json;
use tokio::sync::OwnedMutexGuard;

use crate::error::{json as told, raise};
use crate::memory::Memory;
use crate::process::{OfProcess, wait_quietly};
use crate::store::{Store, bound};
use crate::streaming::{Column, Given};

/// A stream of batches.
#[pyclass(module = "gigastore._native", frozen)]
pub(crate) struct Stream {
    store: Py<Store>,
    /// Tells which of how many workers this process is, for a first batch of a number; none where it is the trainer.
    worker: Py<PyAny>,
    columns: Vec<Column>,
    /// As given; once it was opened with the versions that were found.
    options: Mutex<StreamOptions>,
    at: Mutex<At>,
    opened: OfProcess<Shared>,
}

/// Where a stream is, after the last batch that was handed out.
#[derive(Clone)]
enum At {
    /// As it was told: a cursor, else the beginning; and the number of the next batch.
    Told(Option<Box<Cursor>>, u64),
    /// As it came there.
    Place(Arc<Place>),
}

/// What the threads of a process share.
#[derive(Clone)]
struct Shared {
    worker: Option<(u32, u32)>,
    /// Empty until somebody needs it.
    stream: Arc<tokio::sync::Mutex<Option<Current>>>,
}

/// A stream that this process has opened.
struct Current {
    stream: Opened,
    /// Whether it is not where it was told to be since.
    behind: bool,
}

type Held = OwnedMutexGuard<Option<Current>>;

/// Number, arrays in the order of the columns, and of a worker the cursor, which has seen this batch only.
type Taken = (u64, Vec<Memory>, Option<String>);

impl At {
    fn step(&self) -> u64 {
        match self {
            Self::Told(_, step) => *step,
            Self::Place(place) => place.step(),
        }
    }

    fn cursor(&self) -> Option<Cursor> {
        match self {
            Self::Told(cursor, _) => cursor.as_deref().cloned(),
            Self::Place(place) => Some(place.cursor()),
        }
    }

    fn seen(&self) -> Seen {
        match self {
            Self::Told(cursor, _) => cursor.as_ref().map_or_else(Seen::default, |cursor| cursor.seen),
            Self::Place(place) => *place.seen(),
        }
    }
}

#[pymethods]
impl Stream {
    #[new]
    #[pyo3(signature = (store, worker, **options))]
    fn new(store: Py<Store>, worker: Py<PyAny>, options: Option<Bound<'_, PyDict>>, py: Python<'_>) -> PyResult<Self> {
        let given: Given = options.unwrap_or_else(|| PyDict::new(py)).extract()?;
        let columns = given.columns(py)?;
        let (options, cursor, step) = given.options(py)?;
        let at = Mutex::new(At::Told(cursor.map(Box::new), step));
        Ok(Self { store, worker, columns, options: Mutex::new(options), at, opened: OfProcess::empty() })
    }

    /// Opens it, so that what is wrong is told before there is a batch.
    fn open(&self, py: Python<'_>) -> PyResult<()> {
        self.current(py).map(drop)
    }

    /// Takes the next batch; none where there are no more.
    fn next(&self, py: Python<'_>) -> PyResult<Option<Taken>> {
        let (shared, mut held) = self.current(py)?;
        let Some(current) = held.as_mut() else { return Ok(None) };
        self.catch_up(py, current)?;
        let stream = &mut current.stream;
        let taken = match stream.try_next() {
            Some(ready) => ready.map_err(|error| raise(py, &error)),
            None => wait_quietly(py, stream.next()),
        };
        let Some(batch) = taken? else { return Ok(None) };
        let place = Arc::clone(stream.place());
        *self.at() = At::Place(Arc::clone(&place));
        drop(held);
        let cursor = shared.worker.map(|_| Cursor { seen: batch.seen, ..place.cursor() }.json());
        Ok(Some(self.handed(batch, cursor)))
    }

    /// Notes that a batch was taken that a worker of this process made: its number and cursor.
    fn observe(&self, py: Python<'_>, step: u64, cursor: &str) -> PyResult<()> {
        let mut cursor = cursor_of(py, cursor, true)?;
        let (_, mut held) = self.current(py)?;
        let before = self.at().clone();
        let now = before.cursor().ok_or_else(|| foreign(py, "the stream is nowhere".to_owned()))?;
        if step != before.step() {
            let text = format!("batch {step} comes where batch {} is expected", before.step());
            return Err(foreign(py, text));
        }
        let same = |one: &Cursor| one.sources.iter().map(|source| (source.order, source.weight)).collect::<Vec<_>>();
        if same(&cursor) != same(&now) || cursor.samples <= now.samples {
            return Err(foreign(py, format!("batch {step} is of another stream, or made with other weights")));
        }
        let mut seen = now.seen;
        seen.add(&cursor.seen);
        cursor.seen = seen;
        *self.at() = At::Told(Some(Box::new(cursor)), step + 1);
        held.iter_mut().for_each(|current| current.behind = true);
        Ok(())
    }

    /// Goes on where a cursor is, with a batch of number `step`; what it has seen was seen by `rank`.
    fn resume(&self, py: Python<'_>, cursor: &str, step: u64, rank: u32) -> PyResult<()> {
        let cursor = cursor_of(py, cursor, rank == self.options().share.rank)?;
        if self.opened.get().is_none() {
            *self.at() = At::Told(Some(Box::new(cursor)), step);
            return Ok(());
        }
        let (_, mut held) = self.current(py)?;
        let Some(current) = held.as_mut() else { return Ok(()) };
        wait_quietly(py, current.stream.resume(cursor, step))?;
        self.arrived(current);
        Ok(())
    }

    fn set_weights(&self, py: Python<'_>, weights: Vec<f64>) -> PyResult<()> {
        let (_, mut held) = self.current(py)?;
        let Some(current) = held.as_mut() else { return Ok(()) };
        self.catch_up(py, current)?;
        current.stream.set_weights(&weights).map_err(|error| raise(py, &error))?;
        self.arrived(current);
        Ok(())
    }

    /// Returns the cursor after the last batch that was handed out.
    fn cursor(&self, py: Python<'_>) -> PyResult<String> {
        let at = self.at().cursor();
        match at {
            Some(cursor) => Ok(cursor.json()),
            None => {
                let (_, held) = self.current(py)?;
                let cursor = held.as_ref().map(|current| current.stream.cursor().json());
                cursor.ok_or_else(|| foreign(py, "the stream is nowhere".to_owned()))
            }
        }
    }

    /// Returns its datasets; with their versions once it was opened.
    #[getter]
    fn targets(&self) -> Vec<String> {
        self.options().sources.iter().map(|source| source.target.to_string()).collect()
    }

    /// Returns the number of the next batch.
    #[getter]
    fn step(&self) -> u64 {
        self.at().step()
    }

    /// Returns digest, samples, tokens, documents and missing tokens.
    #[getter]
    fn seen(&self) -> (String, u64, u64, u64, u64) {
        let Seen { digest, samples, tokens, documents, missing } = self.at().seen();
        (digest.into(), samples, tokens, documents, missing)
    }

    /// Describes it: its datasets, the samples of all of it, the most memory.
    fn info(&self, py: Python<'_>) -> PyResult<String> {
        let (_, mut held) = self.current(py)?;
        let Some(current) = held.as_mut() else { return told(py, &json!({})) };
        self.catch_up(py, current)?;
        let stream = &current.stream;
        let weights = stream.weights();
        let sources = stream.datasets().zip(&stream.options().sources).zip(weights).enumerate();
        let sources = sources.map(|(number, ((dataset, source), weight))| {
            let target = bound(&source.target, dataset.info()).to_string();
            let (documents, tokens) =
                (dataset.index().rows.iter().sum::<u64>(), dataset.index().tokens.iter().sum::<u64>());
            json!({
                "target": target, "weight": weight.part(), "documents": documents, "tokens": tokens,
                "epoch_samples": stream.epoch_samples(number),
            })
        });
        let sources: Vec<_> = sources.collect();
        let (samples, memory_bound) = (stream.samples(), stream.memory_bound());
        told(py, &json!({ "sources": sources, "samples": samples, "memory_bound": memory_bound }))
    }

    /// Gives up what was read ahead, and all memory of this process.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.opened.get().is_some() {
            let (_, mut held) = self.held(py)?;
            *held = None;
        }
        Ok(())
    }
}

impl Stream {
    /// Returns what this process has opened, if it has, for one thread.
    fn held(&self, py: Python<'_>) -> PyResult<(Shared, Held)> {
        let shared = self.shared(py)?;
        let stream = Arc::clone(&shared.stream);
        let held = match Arc::clone(&stream).try_lock_owned() {
            Ok(held) => held,
            Err(_) => wait_quietly(py, async { Ok::<_, StreamError>(stream.lock_owned().await) })?,
        };
        Ok((shared, held))
    }

    /// Returns what this process has opened, for one thread; opens it where it has not.
    fn current(&self, py: Python<'_>) -> PyResult<(Shared, Held)> {
        let (shared, mut held) = self.held(py)?;
        if held.is_none() {
            let client = self.store.get().client(py)?;
            let mut options = self.options().clone();
            {
                let at = self.at();
                (options.cursor, options.first_step) = (at.cursor(), at.step());
            }
            (options.share.worker, options.share.workers) = shared.worker.unwrap_or((0, 1));
            let stream = wait_quietly(py, client.stream(options))?;
            let versions = stream.datasets().map(gigastore_client::dataset::IndexedDataset::info);
            for (source, info) in self.options().sources.iter_mut().zip(versions) {
                source.target = bound(&source.target, info);
            }
            let current = held.insert(Current { stream, behind: false });
            self.arrived(current);
        }
        Ok((shared, held))
    }

    fn shared(&self, py: Python<'_>) -> PyResult<Shared> {
        if let Some(shared) = self.opened.get() {
            return Ok(shared);
        }
        let step = self.at().step();
        let worker = self.worker.call1(py, (step,))?.extract(py)?;
        Ok(self.opened.get_or_set(Shared { worker, stream: Arc::default() }))
    }

    /// Brings an opened stream to where it was told to be.
    fn catch_up(&self, py: Python<'_>, current: &mut Current) -> PyResult<()> {
        if !current.behind {
            return Ok(());
        }
        let told = self.at().clone();
        if let At::Told(Some(cursor), step) = told {
            wait_quietly(py, current.stream.resume(*cursor, step))?;
            self.arrived(current);
        }
        Ok(())
    }

    /// Notes where an opened stream is.
    fn arrived(&self, current: &mut Current) {
        current.behind = false;
        *self.at() = At::Place(Arc::clone(current.stream.place()));
    }

    /// Returns a batch as Python gets it.
    fn handed(&self, mut batch: Batch, cursor: Option<String>) -> Taken {
        let shape = match batch.seq_len {
            Some(seq_len) => vec![batch.positions.len() as u64, u64::from(seq_len)],
            None => vec![batch.tokens.len() as u64],
        };
        let step = batch.step;
        let arrays = self.columns.iter().map(|column| column.take(&mut batch, &shape));
        (step, arrays.collect(), cursor)
    }

    fn at(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn options(&self) -> MutexGuard<'_, StreamOptions> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a cursor; forgets what was seen where that was by another rank, which counts it.
pub(crate) fn cursor_of(py: Python<'_>, text: &str, ours: bool) -> PyResult<Cursor> {
    let cursor = Cursor::parse(text.as_bytes()).map_err(|error| raise(py, &StreamError::from(error)))?;
    Ok(if ours { cursor } else { Cursor { seen: Seen::default(), ..cursor } })
}

/// Returns the exception of a batch that is not the next one.
fn foreign(py: Python<'_>, text: String) -> PyErr {
    let mut fault = Fault::of(FaultCode::Conflict, text);
    let hint = "observe each batch of a loader once, in order, and begin a loader where the stream is";
    fault.hint = Some(hint.to_owned());
    raise(py, &fault)
}
