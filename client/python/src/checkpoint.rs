//! A checkpoint: what it holds, and boxes of it into memory of Python's objects.
//!
//! Must never return before all that was asked for is there and verified.

use std::collections::BTreeMap;
use std::sync::Arc;

use gigastore_client::checkpoint::export::ExportSpec;
use gigastore_client::checkpoint::{Checkpoint as Opened, Wanted};
use gigastore_client::transfer::sink::Sink;
use gigastore_formats::name::Target;
use gigastore_formats::range::ByteRange;
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_formats::wire::{Fault, FaultCode};
use pyo3::prelude::*;

use crate::error::{invalid, json, raise};
use crate::memory::{Memory, sinks};
use crate::process::{OfProcess, Watched, wait, wait_quietly};
use crate::released;
use crate::store::{Store, bound};

/// A tensor's name, offsets and sizes of a box of it, memory.
type BoxGiven<'py> = (String, Option<(Vec<u64>, Vec<u64>)>, Bound<'py, PyAny>);

/// Name, type, shape, bytes and number of slices of a tensor.
type TensorTold = (String, &'static str, Vec<u64>, u64, usize);

/// Offsets, sizes and BLAKE3 of a slice.
type SliceTold = (Vec<u64>, Vec<u64>, String);

/// A checkpoint, bound to the record that committed it.
#[pyclass(module = "gigastore._native", frozen)]
pub(crate) struct Checkpoint {
    store: Py<Store>,
    target: Target,
    opened: OfProcess<Arc<Opened>>,
}

impl Checkpoint {
    pub(crate) fn new(store: Py<Store>, target: Target, opened: Opened) -> Self {
        let target = bound(&target, opened.info());
        Self { store, target, opened: OfProcess::of(Arc::new(opened)) }
    }

    /// Returns it as this process reaches it.
    fn opened(&self, py: Python<'_>) -> PyResult<Arc<Opened>> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let client = self.store.get().client(py)?;
        let opened = Arc::new(wait_quietly(py, client.checkpoint(&self.target))?);
        self.opened.set(Arc::clone(&opened));
        Ok(opened)
    }
}

#[pymethods]
impl Checkpoint {
    #[getter]
    fn info(&self, py: Python<'_>) -> PyResult<String> {
        json(py, self.opened(py)?.info())
    }

    #[getter]
    fn metadata(&self, py: Python<'_>) -> PyResult<BTreeMap<String, String>> {
        Ok(self.opened(py)?.meta().metadata.clone())
    }

    /// Where the data streams were, as JSON by their names.
    #[getter]
    fn cursors(&self, py: Python<'_>) -> PyResult<BTreeMap<String, String>> {
        let opened = self.opened(py)?;
        Ok(opened.cursors().iter().map(|(name, cursor)| (name.clone(), cursor.json())).collect())
    }

    /// Returns name, type, shape, bytes and number of slices of each tensor.
    fn tensors(&self, py: Python<'_>) -> PyResult<Vec<TensorTold>> {
        let tensors = self.opened(py)?.tensors().into_iter().filter(|one| one.kind == SliceKind::Tensor);
        Ok(tensors.map(|one| (one.name, one.dtype.as_str(), one.shape, one.bytes, one.rows.len())).collect())
    }

    /// Returns the boxes that a tensor was saved in: offsets, sizes, BLAKE3.
    fn slices(&self, py: Python<'_>, name: &str) -> PyResult<Vec<SliceTold>> {
        let opened = self.opened(py)?;
        let rows = opened.rows().iter();
        let rows = rows.filter(|row| row.slice.kind() == SliceKind::Tensor && row.slice.name() == name);
        let slices: Vec<_> = rows
            .map(|row| {
                let area = row.slice.area();
                (area.offsets().to_vec(), area.sizes().to_vec(), row.blake3.to_string())
            })
            .collect();
        if slices.is_empty() {
            let message = format!("{} has no tensor {name:?}", self.target);
            return Err(raise(py, &Fault::of(FaultCode::NotFound, message)));
        }
        Ok(slices)
    }

    /// Returns path and bytes of each file.
    fn files(&self, py: Python<'_>) -> PyResult<Vec<(String, u64)>> {
        Ok(self.opened(py)?.files().into_iter().map(|one| (one.path, one.bytes)).collect())
    }

    #[pyo3(signature = (boxes, progress = None))]
    fn read(&self, py: Python<'_>, boxes: Vec<BoxGiven<'_>>, progress: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        let (opened, boxes) = (self.opened(py)?, wanted(py, boxes)?);
        let (watched, sinks) = (Watched::by(progress), sinks_of(&boxes));
        let read = wait(py, &watched, opened.read(boxes, &watched.progress));
        close(py, &read, sinks);
        read
    }

    #[pyo3(signature = (path, start = 0, end = None))]
    fn read_file(&self, py: Python<'_>, path: &str, start: u64, end: Option<u64>) -> PyResult<Memory> {
        let opened = self.opened(py)?;
        let len = opened.file_len(path).map_err(|error| raise(py, &error))?;
        let range = range(py, len, start, end)?;
        let watched = Watched::by(None);
        let bytes = wait(py, &watched, opened.read_file(path, Some(range), &watched.progress))?;
        Ok(Memory::of_bytes(bytes))
    }

    fn read_files(&self, py: Python<'_>, paths: Vec<String>) -> PyResult<Vec<Memory>> {
        let opened = self.opened(py)?;
        let watched = Watched::by(None);
        let files = wait(py, &watched, opened.read_saved_files(&paths, &watched.progress))?;
        Ok(files.into_iter().map(Memory::of_bytes).collect())
    }

    #[pyo3(signature = (folder, names, overwrite, progress = None))]
    fn export(
        &self,
        py: Python<'_>,
        folder: std::path::PathBuf,
        names: Vec<String>,
        overwrite: bool,
        progress: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Vec<String>> {
        let opened = self.opened(py)?;
        let spec = ExportSpec { names, overwrite, ..ExportSpec::default() };
        let watched = Watched::by(progress);
        let files = wait(py, &watched, opened.export(&folder, &spec, &watched.progress))?.files;
        Ok(files.iter().map(|path| path.display().to_string()).collect())
    }
}

/// Returns what is wanted, with the memory of its objects.
fn wanted(py: Python<'_>, boxes: Vec<BoxGiven<'_>>) -> PyResult<Vec<Wanted>> {
    let memory: Vec<_> = boxes.iter().map(|(.., memory)| memory).collect();
    let sinks = sinks(py, &memory)?;
    let one = |((name, area, _), sink): (BoxGiven<'_>, Arc<dyn Sink>)| {
        let area = area.map(|(offsets, sizes)| TensorBox::new(offsets, sizes)).transpose();
        let area = area.map_err(|error| invalid(py, format!("{name}: {error}")))?;
        Ok(Wanted { kind: SliceKind::Tensor, name, area, sink })
    };
    boxes.into_iter().zip(sinks).map(one).collect()
}

/// Returns where the bytes go.
fn sinks_of(boxes: &[Wanted]) -> Vec<Arc<dyn Sink>> {
    boxes.iter().map(|one| Arc::clone(&one.sink)).collect()
}

/// Keeps what a restore that did not end well still does from the caller's memory.
fn close<T>(py: Python<'_>, ended: &PyResult<T>, sinks: Vec<Arc<dyn Sink>>) {
    if ended.is_err() {
        py.detach(|| sinks.iter().for_each(|sink| sink.close()));
    }
    drop(sinks);
    released::collect(py);
}

/// Returns a range of a file of `len` bytes; all of it where no end is given.
pub(crate) fn range(py: Python<'_>, len: u64, start: u64, end: Option<u64>) -> PyResult<ByteRange> {
    // As Python's own slices: what lies past the end is not there.
    let end = end.unwrap_or(len).min(len);
    ByteRange::new(start.min(end), end).map_err(|error| invalid(py, error.to_string()))
}
