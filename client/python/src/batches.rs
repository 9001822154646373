//! Rows of a dataset's Parquet file as Arrow record batches, by the Arrow PyCapsule interface.
//!
//! Must never decode a byte that was not checked against the version's manifest.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{RecordBatch, RecordBatchReader};
use arrow_schema::{ArrowError, SchemaRef};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, TryFutureExt};
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_client::Coded;
use gigastore_client::dataset::read::{Dataset as Opened, DatasetError};
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::range::ByteRange;
use gigastore_formats::wire::FaultCode;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::dataset::{Dataset, len_of};
use crate::error::{invalid, raise};
use crate::process::wait_quietly;

/// Bytes of a file's end read at once, in which most footers lie: a group.
const FOOTER_BYTES: usize = 256 << 10;

/// Columns of one row group that are read at the same time; the budget bounds their bytes.
const COLUMNS_IN_FLIGHT: usize = 8;

/// Record batches of one Parquet file.
#[pyclass(module = "gigastore._native", frozen)]
pub(crate) struct Batches {
    dataset: Py<Dataset>,
    path: String,
    columns: Option<Vec<String>>,
    batch_size: usize,
}

impl Batches {
    pub(crate) fn new(dataset: Py<Dataset>, path: String, columns: Option<Vec<String>>, batch_size: usize) -> Self {
        Self { dataset, path, columns, batch_size: batch_size.max(1) }
    }
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
        let (opened, path) = (self.dataset.get().opened(py)?, self.path.clone());
        let builder = ParquetRecordBatchStreamBuilder::new(Source { opened, path });
        let builder = wait_quietly(py, builder.map_err(|error| ReadError::of(&self.path, error)))?;
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
        let stream = builder.with_batch_size(self.batch_size).build();
        let stream = stream.map_err(|error| raise(py, &ReadError::of(&self.path, error)))?;
        let (schema, path) = (Arc::clone(stream.schema()), self.path.clone());
        let rows = Rows { schema, path, process: std::process::id(), stream: Some(stream) };
        let rows: Box<dyn RecordBatchReader + Send> = Box::new(rows);
        PyCapsule::new_with_value(py, FFI_ArrowArrayStream::new(rows), c"arrow_array_stream")
    }
}

/// Why rows could not be read.
#[derive(Debug)]
enum ReadError {
    /// The store, or the bytes that it has.
    Dataset(DatasetError),
    /// The file.
    Parquet { path: String, source: ParquetError },
}

impl ReadError {
    fn of(path: &str, error: ParquetError) -> Self {
        match error {
            ParquetError::External(source) => match source.downcast::<DatasetError>() {
                Ok(error) => Self::Dataset(*error),
                Err(source) => Self::Parquet { path: path.to_owned(), source: ParquetError::External(source) },
            },
            source => Self::Parquet { path: path.to_owned(), source },
        }
    }
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dataset(error) => error.fmt(f),
            Self::Parquet { path, source } => write!(f, "{path} can't be read as Parquet: {source}"),
        }
    }
}

impl std::error::Error for ReadError {}

impl Coded for ReadError {
    fn code(&self) -> FaultCode {
        match self {
            Self::Dataset(error) => error.code(),
            Self::Parquet { .. } => FaultCode::Invalid,
        }
    }

    fn behind(&self) -> Option<&dyn Coded> {
        match self {
            Self::Dataset(error) => Some(error),
            Self::Parquet { .. } => None,
        }
    }
}

/// The batches, one after another, on whichever thread asks for them.
struct Rows {
    schema: SchemaRef,
    path: String,
    /// The process whose threads and connections the stream has.
    process: u32,
    /// There until the end; forgotten in another process.
    stream: Option<ParquetRecordBatchStream<Source>>,
}

impl Rows {
    /// Reads the next batch as all calls wait: with the interpreter's lock released, and an eye on Ctrl-C. What goes
    /// wrong is told as text, since the interface has no other way: the consumer makes its own exception of it.
    fn read(&mut self, py: Python<'_>) -> Result<Option<RecordBatch>, String> {
        let (path, Some(stream)) = (&self.path, self.stream.as_mut()) else { return Ok(None) };
        wait_quietly(py, stream.try_next().map_err(|error| ReadError::of(path, error))).map_err(|error| {
            if error.is_instance_of::<PyKeyboardInterrupt>(py) {
                // For the interpreter to find it again when the consumer is back there.
                let again = py.import("signal").and_then(|signal| signal.call_method1("raise_signal", (2,)));
                again.map_or_else(|error| error.write_unraisable(py, None), drop);
            }
            error.to_string()
        })
    }
}

impl Iterator for Rows {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.process != std::process::id() {
            let text = format!("{}: the reader is another process's: make one in this process", self.path);
            return Some(Err(ArrowError::CDataInterface(text)));
        }
        // The caller is C, which no panic may reach.
        let read = catch_unwind(AssertUnwindSafe(|| Python::try_attach(|py| self.read(py))));
        match read {
            Ok(Some(Ok(batch))) => batch.map(Ok),
            Ok(Some(Err(text))) => Some(Err(ArrowError::CDataInterface(text))),
            Ok(None) => Some(Err(ArrowError::CDataInterface("the interpreter is ending".to_owned()))),
            Err(_) => Some(Err(ArrowError::CDataInterface(format!("{}: reading it panicked", self.path)))),
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            std::mem::forget(self.stream.take());
        }
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
