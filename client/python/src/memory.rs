//! Memory: of Python's objects, lent to the client without a copy; and of ours, lent to Python.
//!
//! Must never give memory of an object back while a transfer may touch it: each view keeps its object.

#![allow(unsafe_code, reason = "memory of other runtimes comes as addresses")]

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;
use gigastore_client::transfer::buffer::BufferPool;
use gigastore_client::transfer::copy;
use gigastore_client::transfer::sink::{BufferSink, Sink};
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::wire::{Fault, FaultCode};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::dlpack;
use crate::error::{invalid, parsed, raise};
use crate::process::process;

/// Memory from which on it comes in pages of its own: 2 MiB, one huge page; less would waste most of one.
const PAGED_BYTES: usize = 2 << 20;

/// Bytes of an object, whatever its elements are, for as long as the view is there.
struct View {
    buffer: PyUntypedBuffer,
    start: NonNull<u8>,
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
        Ok(Self { buffer, start })
    }
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the buffer is contiguous, of so many bytes, and stays exported as long as `self`; whoever passes it
        // was told not to change it meanwhile (a change is found by the hash, and is an error).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.buffer.len_bytes()) }
    }
}

impl AsMut<[u8]> for View {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_ref`; it is writable (`sink` saw to it), and whoever passes it was told to leave it alone
        // until the call returns.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.buffer.len_bytes()) }
    }
}

/// Returns an object's bytes, to be read where they lie.
pub(crate) fn source(object: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    Ok(Bytes::from_owner(View::of(object)?))
}

/// Returns an object's memory, to be filled where it lies.
pub(crate) fn sink(object: &Bound<'_, PyAny>) -> PyResult<Arc<dyn Sink>> {
    let view = View::of(object)?;
    if view.buffer.readonly() {
        return Err(invalid(object.py(), "the memory to be filled is read-only"));
    }
    Ok(BufferSink::new(view))
}

/// Copies memory of many objects, one after another, into one: on several cores, past the caches.
#[pyfunction]
pub(crate) fn gather(py: Python<'_>, sources: Vec<Bound<'_, PyAny>>, into: &Bound<'_, PyAny>) -> PyResult<()> {
    let mut into = View::of(into)?;
    if into.buffer.readonly() {
        return Err(invalid(py, "the memory to be filled is read-only"));
    }
    let sources = sources.iter().map(View::of).collect::<PyResult<Vec<View>>>()?;
    let (actual, expected) = (sources.iter().map(|view| view.as_ref().len()).sum::<usize>(), into.as_mut().len());
    if actual != expected {
        return Err(invalid(py, format!("the sources have {actual} bytes, the destination {expected}")));
    }
    let ambient = &*process(py)?.ambient;
    py.detach(|| {
        let parts: Vec<&[u8]> = sources.iter().map(AsRef::as_ref).collect();
        copy::gather(ambient, &parts, into.as_mut());
    });
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
            let mut buffer = BufferPool::keeping(0).take(length)?;
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
