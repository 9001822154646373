//! A dataset: ranges of its files, and the way to their rows.
//!
//! Must never hand out a byte that was not checked against the version's manifest.

use std::sync::Arc;

use gigastore_client::dataset::read::Dataset as Opened;
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::name::Target;
use pyo3::prelude::*;

use crate::batches::Batches;
use crate::checkpoint::range;
use crate::error::json;
use crate::memory::Memory;
use crate::process::{OfProcess, Watched, wait, wait_quietly};
use crate::store::{Store, bound};

/// A version of a dataset, bound to the record that committed it.
#[pyclass(module = "gigastore._native", frozen)]
pub(crate) struct Dataset {
    store: Py<Store>,
    target: Target,
    opened: OfProcess<Arc<Opened>>,
}

impl Dataset {
    pub(crate) fn new(store: Py<Store>, target: Target, opened: Opened) -> Self {
        let target = bound(&target, opened.info());
        Self { store, target, opened: OfProcess::of(Arc::new(opened)) }
    }

    /// Returns it as this process reaches it.
    pub(crate) fn opened(&self, py: Python<'_>) -> PyResult<Arc<Opened>> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let client = self.store.get().client(py)?;
        let opened = Arc::new(wait_quietly(py, client.dataset(&self.target))?);
        self.opened.set(Arc::clone(&opened));
        Ok(opened)
    }
}

pub(crate) fn len_of(opened: &Opened, path: &str) -> u64 {
    opened.files().iter().find(|row| row.path == path).map_or(0, |row| row.bytes)
}

#[pymethods]
impl Dataset {
    #[getter]
    fn info(&self, py: Python<'_>) -> PyResult<String> {
        json(py, self.opened(py)?.info())
    }

    /// Returns path, bytes, rows and BLAKE3 of each file.
    fn files(&self, py: Python<'_>) -> PyResult<Vec<(String, u64, u64, String)>> {
        let opened = self.opened(py)?;
        let files = opened.files().iter();
        Ok(files.map(|row| (row.path.clone(), row.bytes, row.rows, row.blob.digest.to_string())).collect())
    }

    #[pyo3(signature = (path, start = 0, end = None))]
    fn read_file(&self, py: Python<'_>, path: &str, start: u64, end: Option<u64>) -> PyResult<Memory> {
        let opened = self.opened(py)?;
        let wanted = range(py, len_of(&opened, path), start, end)?;
        let watched = Watched::by(None);
        let bytes = wait(py, &watched, opened.read(path, Some(wanted), &watched.progress))?;
        Ok(Memory::of_bytes(bytes))
    }

    #[pyo3(signature = (path, columns = None, batch_size = 8192))]
    fn batches(
        slf: Bound<'_, Self>,
        path: String,
        columns: Option<Vec<String>>,
        batch_size: usize,
    ) -> PyResult<Batches> {
        let py = slf.py();
        let opened = slf.get().opened(py)?;
        // Says that there is no such file, before anybody reads.
        wait_quietly(py, opened.read(&path, Some(range(py, 0, 0, None)?), &Progress::default()))?;
        Ok(Batches::new(slf.unbind(), path, columns, batch_size))
    }
}
