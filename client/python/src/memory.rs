//! Memory: of Python's objects, lent to the client without a copy; and of ours, lent to Python.
//!
//! Must never give memory of an object back while a transfer may touch it: each view keeps its object.

#![allow(unsafe_code, reason = "memory of other runtimes comes as addresses")]

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;
use gigastore_client::dataset::stream::Reused;
use gigastore_client::transfer::buffer::BufferPool;
use gigastore_client::transfer::copy;
use gigastore_client::transfer::sink::{BufferSink, Sink};
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::wire::{Fault, FaultCode};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyMemoryError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::dlpack;
use crate::error::{invalid, parsed, raise};
use crate::process::{OfProcess, process};
use crate::released;

/// Memory from which on it comes in pages of its own: 2 MiB, one huge page; less would waste most of one.
const PAGED_BYTES: usize = 2 << 20;

/// Bytes of an object, whatever its elements are, for as long as the view is there.
pub(crate) struct View {
    /// Taken out only on drop.
    buffer: Option<PyUntypedBuffer>,
    start: NonNull<u8>,
    len: usize,
    readonly: bool,
}

impl Drop for View {
    /// Any thread may have the last part of a view, with the interpreter's lock or without, and at the interpreter's
    /// end: what is not needed any more is given back by the next call that has the lock.
    fn drop(&mut self) {
        released::push(self.buffer.take());
    }
}

// SAFETY: the address is that of the buffer, which the view keeps, and the buffer itself may go to any thread.
unsafe impl Send for View {}
// SAFETY: as above; shared views are only read.
unsafe impl Sync for View {}

impl View {
    fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(object)?;
        if !buffer.is_c_contiguous() {
            return Err(invalid(object.py(), "the memory is not contiguous"));
        }
        // Memory of no bytes may have no address.
        let start = NonNull::new(buffer.buf_ptr().cast()).unwrap_or(NonNull::dangling());
        let (len, readonly) = (buffer.len_bytes(), buffer.readonly());
        Ok(Self { buffer: Some(buffer), start, len, readonly })
    }
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the buffer is contiguous, of so many bytes, and stays exported as long as `self`. Python code may
        // write to it meanwhile, as to any memory that it shares; the client looks again at what it sends of it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl AsMut<[u8]> for View {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_ref`; it is writable and no other view of the same call has a byte of it (`sinks` saw to
        // both), and the sink that has it is closed before the call returns.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Returns an object's bytes, to be read where they lie.
pub(crate) fn source(object: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    Ok(Bytes::from_owner(View::of(object)?))
}

/// Returns memory of objects, to be filled where it lies; none may overlap another.
pub(crate) fn sinks(py: Python<'_>, objects: &[&Bound<'_, PyAny>]) -> PyResult<Vec<Arc<dyn Sink>>> {
    let views = objects.iter().map(|object| writable(object)).collect::<PyResult<Vec<View>>>()?;
    apart(py, &views)?;
    Ok(views.into_iter().map(|view| BufferSink::new(view) as Arc<dyn Sink>).collect())
}

fn writable(object: &Bound<'_, PyAny>) -> PyResult<View> {
    let view = View::of(object)?;
    if view.readonly {
        return Err(invalid(object.py(), "the memory to be filled is read-only"));
    }
    Ok(view)
}

/// Refuses memory that two would fill at once.
fn apart(py: Python<'_>, views: &[View]) -> PyResult<()> {
    let mut places: Vec<(usize, usize)> =
        views.iter().filter(|view| view.len > 0).map(|view| (view.start.as_ptr() as usize, view.len)).collect();
    places.sort_unstable();
    if places.windows(2).any(|two| two[0].0 + two[0].1 > two[1].0) {
        return Err(invalid(py, "two of the memories to be filled overlap: pass each of them once"));
    }
    Ok(())
}

/// Copies memory of many objects, one after another, into one: on several cores, past the caches.
#[pyfunction]
pub(crate) fn gather(py: Python<'_>, sources: Vec<Bound<'_, PyAny>>, into: &Bound<'_, PyAny>) -> PyResult<()> {
    released::collect(py);
    let mut into = writable(into)?;
    let sources = sources.iter().map(View::of).collect::<PyResult<Vec<View>>>()?;
    let (start, end) = (into.start.as_ptr() as usize, into.start.as_ptr() as usize + into.len);
    let inside = |view: &View| (view.start.as_ptr() as usize) < end && start < view.start.as_ptr() as usize + view.len;
    if sources.iter().any(inside) {
        return Err(invalid(py, "a source overlaps the destination"));
    }
    let (actual, expected) = (sources.iter().map(|view| view.as_ref().len()).sum::<usize>(), into.as_mut().len());
    if actual != expected {
        return Err(invalid(py, format!("the sources have {actual} bytes, the destination {expected}")));
    }
    let ambient = &*process(py)?.ambient;
    py.detach(|| {
        let parts: Vec<&[u8]> = sources.iter().map(AsRef::as_ref).collect();
        copy::gather(ambient, &parts, into.as_mut());
    });
    drop((sources, into));
    released::collect(py);
    Ok(())
}

/// One line of the caches: what small tensors are aligned to.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// Memory of ours, with the type and shape of what it holds.
#[pyclass(module = "gigastore._native", frozen)]
pub(crate) struct Memory {
    start: NonNull<u8>,
    len: usize,
    readonly: bool,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    /// Whose memory it is.
    _held: Box<dyn Send + Sync>,
}

// SAFETY: the address is that of memory that `Memory` holds and never moves.
unsafe impl Send for Memory {}
// SAFETY: what Python does with the memory of one object from two threads is its callers' business, as with bytearray.
unsafe impl Sync for Memory {}

impl Memory {
    /// Returns bytes that were read.
    pub(crate) fn of_bytes(bytes: Bytes) -> Self {
        let (start, len) = (NonNull::from(&*bytes).cast(), bytes.len());
        let shape = vec![len as u64];
        Self { start, len, readonly: true, dtype: Dtype::U8, shape, _held: Box::new(bytes) }
    }

    /// Returns numbers that were made for whoever gets them. A process that is forked off does not give them back to
    /// where they came from: a thread that is not there may have been taking others.
    pub(crate) fn of_numbers<T: Clone + Send + Sync + 'static>(
        mut numbers: Reused<T>,
        dtype: Dtype,
        shape: Vec<u64>,
    ) -> Self {
        let start = NonNull::new(numbers.as_mut_ptr().cast()).unwrap_or(NonNull::dangling());
        let len = size_of_val(numbers.as_slice());
        Self { start, len, readonly: false, dtype, shape, _held: Box::new(OfProcess::of(numbers)) }
    }

    /// Returns the address of the first byte.
    pub(crate) fn start(&self) -> *mut c_void {
        self.start.as_ptr().cast()
    }

    /// Tells whether it must not be written to.
    pub(crate) fn readonly(&self) -> bool {
        self.readonly
    }
}

#[pymethods]
impl Memory {
    /// Takes memory of `length` bytes, of any content, for a tensor of a type and shape.
    #[new]
    #[pyo3(signature = (length, dtype = "U8", shape = None))]
    fn new(py: Python<'_>, length: usize, dtype: &str, shape: Option<Vec<u64>>) -> PyResult<Self> {
        let dtype: Dtype = parsed(py, dtype)?;
        let shape = shape.unwrap_or_else(|| vec![length as u64]);
        let bytes = TensorBox::whole(&shape).and_then(|whole| whole.bytes(dtype));
        let bytes = bytes.map_err(|error| raise(py, &Fault::new(FaultCode::Invalid, &error)))?;
        if bytes != length as u64 {
            return Err(invalid(py, format!("a {dtype} tensor of shape {shape:?} has {bytes} bytes, not {length}")));
        }
        let (start, held): (_, Box<dyn Send + Sync>) = if length < PAGED_BYTES {
            let mut lines = vec![Line([0; 64]); length.div_ceil(64)];
            (NonNull::new(lines.as_mut_ptr().cast()), Box::new(lines))
        } else {
            let taken = BufferPool::keeping(0).take(length);
            let mut buffer = taken.map_err(|error| PyMemoryError::new_err(format!("{length} bytes: {error}")))?;
            (NonNull::new(buffer.as_mut().as_mut_ptr()), Box::new(buffer))
        };
        let start = start.unwrap_or(NonNull::dangling());
        Ok(Self { start, len: length, readonly: false, dtype, shape, _held: held })
    }

    fn __len__(&self) -> usize {
        self.len
    }

    /// # Safety
    /// Python's: `view` is a buffer to be filled.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill"));
        }
        let (start, len, readonly) = {
            let memory = slf.get();
            (memory.start(), memory.len as isize, c_int::from(memory.readonly))
        };
        // SAFETY: the view is Python's to fill; the memory lives as long as `slf`, which the view then keeps.
        match unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, len, readonly, flags) } {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }

    /// Hands the memory on by DLPack, without a copy.
    #[pyo3(signature = (*, stream = None, max_version = None, dl_device = None, copy = None))]
    fn __dlpack__<'py>(
        slf: Bound<'py, Self>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let py = slf.py();
        if stream.is_some() || dl_device.is_some_and(|device| device != dlpack::HOST) {
            return Err(PyBufferError::new_err("the memory is the host's: it has no stream, nor another device"));
        }
        if copy == Some(true) {
            return Err(PyBufferError::new_err("the memory is handed on without a copy only"));
        }
        dlpack::capsule(py, slf.unbind(), max_version.is_some_and(|(major, _)| major >= 1))
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        dlpack::HOST
    }
}
