//! A dataset: ranges of its files, and the rows of its Parquet files as Arrow batches.
//!
//! Must never decode a byte that was not checked against the version's manifest.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{RecordBatch, RecordBatchReader};
use arrow_schema::{ArrowError, SchemaRef};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::TryStreamExt;
use futures::{FutureExt, StreamExt};
use gigastore_client::dataset::read::Dataset as Opened;
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::name::Target;
use gigastore_formats::range::ByteRange;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::checkpoint::range;
use crate::error::{invalid, json};
use crate::memory::Memory;
use crate::process::{OfProcess, Process, Watched, process, wait, wait_quietly};
use crate::store::{Store, bound};

/// Bytes of a file's end read at once, in which most footers lie: a group.
const FOOTER_BYTES: usize = 256 << 10;

/// Columns of one row group that are read at the same time; the budget bounds their bytes.
const COLUMNS_IN_FLIGHT: usize = 8;

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
    fn opened(&self, py: Python<'_>) -> PyResult<Arc<Opened>> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let client = self.store.get().client(py)?;
        let opened = Arc::new(wait_quietly(py, client.dataset(&self.target))?);
        self.opened.set(Arc::clone(&opened));
        Ok(opened)
    }
}

fn len_of(opened: &Opened, path: &str) -> u64 {
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
        Ok(Batches { dataset: slf.unbind(), path, columns, batch_size: batch_size.max(1) })
    }
}

/// Record batches of one Parquet file.
#[pyclass(module = "gigastore._native", frozen)]
pub(crate) struct Batches {
    dataset: Py<Dataset>,
    path: String,
    columns: Option<Vec<String>>,
    batch_size: usize,
}

#[pymethods]
impl Batches {
    /// Hands the batches on as a stream of the Arrow PyCapsule interface.
    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        // A wish that may be refused: the columns are what the file has.
        drop(requested_schema);
        let broken = |error: ParquetError| invalid(py, format!("{}: {error}", self.path));
        let (opened, process) = (self.dataset.get().opened(py)?, process(py)?);
        let builder = ParquetRecordBatchStreamBuilder::new(Source { opened, path: self.path.clone() });
        let builder = py.detach(|| process.runtime.block_on(builder)).map_err(broken)?;
        let builder = match &self.columns {
            None => builder,
            Some(columns) => {
                if let Some(missing) = columns.iter().find(|name| builder.schema().field_with_name(name).is_err()) {
                    return Err(invalid(py, format!("{} has no column {missing:?}", self.path)));
                }
                let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().map(String::as_str));
                builder.with_projection(mask)
            }
        };
        let stream = builder.with_batch_size(self.batch_size).build().map_err(broken)?;
        let rows = Rows { schema: Arc::clone(stream.schema()), stream: Mutex::new(stream), process };
        let rows: Box<dyn RecordBatchReader + Send> = Box::new(rows);
        PyCapsule::new_with_value(py, FFI_ArrowArrayStream::new(rows), c"arrow_array_stream")
    }
}

/// The batches, one after another, on whichever thread asks for them.
struct Rows {
    schema: SchemaRef,
    stream: Mutex<ParquetRecordBatchStream<Source>>,
    process: &'static Process,
}

impl Iterator for Rows {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let stream = self.stream.get_mut().unwrap_or_else(PoisonError::into_inner);
        let next = self.process.runtime.block_on(stream.next());
        next.map(|batch| batch.map_err(ArrowError::from))
    }
}

impl RecordBatchReader for Rows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// A file of a dataset as the parquet crate reads it: of each row group what its columns need, at once.
#[derive(Clone)]
struct Source {
    opened: Arc<Opened>,
    path: String,
}

impl Source {
    async fn read(&self, range: Range<u64>) -> ParquetResult<Bytes> {
        let progress = Progress::default();
        let range = ByteRange::new(range.start, range.end).map_err(|error| ParquetError::External(Box::new(error)))?;
        let read = self.opened.read(&self.path, Some(range), &progress).await;
        read.map_err(|error| ParquetError::External(Box::new(error)))
    }
}

impl AsyncFileReader for Source {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.read(range).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        let reads = futures::stream::iter(ranges).map(|range| self.read(range)).buffered(COLUMNS_IN_FLIGHT);
        reads.try_collect().boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        let len = len_of(&self.opened, &self.path);
        let parser = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_BYTES));
        async move { parser.load_and_finish(self, len).await.map(Arc::new) }.boxed()
    }
}
