//! Memory handed on by DLPack (dmlc/dlpack, `dlpack.h` 1.1, which has the types of 8 bits and less): a capsule with the
//! address, type and shape of a tensor.
//!
//! Must never free memory that a consumer still has: the capsule's structure keeps its object until its deleter runs.

#![allow(unsafe_code, reason = "DLPack is a C interface")]

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use gigastore_formats::tensor::dtype::Dtype;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::memory::Memory;

/// `kDLCPU`, and its number.
pub(crate) const HOST: (i32, i32) = (1, 0);

const PLAIN: &CStr = c"dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";

/// `DLPACK_FLAG_BITMASK_READ_ONLY`.
const READ_ONLY: u64 = 1;

/// `DLDataType`.
#[repr(C)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

/// `DLTensor`.
#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device: [i32; 2],
    dimensions: i32,
    dtype: DataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// `DLManagedTensor`.
#[repr(C)]
struct Managed {
    tensor: Tensor,
    context: *mut c_void,
    // SAFETY: whoever has the structure calls it once, and not the structure afterwards.
    deleter: Option<unsafe extern "C" fn(*mut Self)>,
}

/// `DLManagedTensorVersioned`.
#[repr(C)]
struct ManagedVersioned {
    version: [u32; 2],
    context: *mut c_void,
    // SAFETY: whoever has the structure calls it once, and not the structure afterwards.
    deleter: Option<unsafe extern "C" fn(*mut Self)>,
    flags: u64,
    tensor: Tensor,
}

/// What a structure points to, and what keeps it.
struct Context {
    shape: Vec<i64>,
    strides: Vec<i64>,
    _memory: Py<Memory>,
}

/// Returns the capsule of some memory.
pub(crate) fn capsule(py: Python<'_>, memory: Py<Memory>, versioned: bool) -> PyResult<Bound<'_, PyCapsule>> {
    let held = memory.get();
    if held.readonly() && !versioned {
        return Err(PyBufferError::new_err("the memory is read-only, which this version of DLPack can't say"));
    }
    let (data, dtype, flags) = (held.start(), data_type(held.dtype), if held.readonly() { READ_ONLY } else { 0 });
    let shape: Vec<i64> = held.shape.iter().map(|length| *length as i64).collect();
    let mut strides = vec![1i64; shape.len()];
    for i in (1..shape.len()).rev() {
        // Only a tensor without elements can be longer than memory; its strides lead nowhere.
        strides[i - 1] = strides[i].checked_mul(shape[i].max(1)).unwrap_or(1);
    }
    let mut context = Box::new(Context { shape, strides, _memory: memory });
    let tensor = Tensor {
        data,
        device: [HOST.0, HOST.1],
        dimensions: context.shape.len() as i32,
        dtype,
        shape: context.shape.as_mut_ptr(),
        strides: context.strides.as_mut_ptr(),
        byte_offset: 0,
    };
    let context = Box::into_raw(context).cast();
    let (pointer, name) = if versioned {
        // SAFETY: it is called for this structure, whose context is the box above.
        let deleter = Some(ended::<ManagedVersioned> as unsafe extern "C" fn(_));
        let made = ManagedVersioned { version: [1, 1], context, deleter, flags, tensor };
        (Box::into_raw(Box::new(made)).cast::<c_void>(), VERSIONED)
    } else {
        // SAFETY: as above.
        let deleter = Some(ended::<Managed> as unsafe extern "C" fn(_));
        (Box::into_raw(Box::new(Managed { tensor, context, deleter })).cast(), PLAIN)
    };
    let pointer = NonNull::new(pointer).unwrap_or(NonNull::dangling());
    // SAFETY: the pointer is that of a structure which its name tells of, and which is freed by its own deleter only.
    unsafe { PyCapsule::new_with_pointer_and_destructor(py, pointer, name, Some(unused)) }
}

fn data_type(dtype: Dtype) -> DataType {
    let code = match dtype {
        Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64 => 0,
        Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 => 1,
        Dtype::F16 | Dtype::F32 | Dtype::F64 => 2,
        Dtype::BF16 => 4,
        Dtype::C64 => 5,
        Dtype::BOOL => 6,
        Dtype::F8_E4M3 => 10,
        Dtype::F8_E4M3FNUZ => 11,
        Dtype::F8_E5M2 => 12,
        Dtype::F8_E5M2FNUZ => 13,
        Dtype::F8_E8M0 => 14,
        Dtype::F6_E2M3 => 15,
        Dtype::F6_E3M2 => 16,
        Dtype::F4 => 17,
    };
    DataType { code, bits: dtype.bits() as u8, lanes: 1 }
}

/// A structure that ends with its deleter.
trait Ends {
    fn context(&self) -> *mut c_void;
}

impl Ends for Managed {
    fn context(&self) -> *mut c_void {
        self.context
    }
}

impl Ends for ManagedVersioned {
    fn context(&self) -> *mut c_void {
        self.context
    }
}

/// The deleter: whoever has the structure is done with it.
// SAFETY: a caller hands over a structure of `capsule`, once.
unsafe extern "C" fn ended<M: Ends>(managed: *mut M) {
    if managed.is_null() {
        return;
    }
    // SAFETY: both were boxes when `capsule` made them, and a deleter is called once.
    let managed = unsafe { Box::from_raw(managed) };
    // SAFETY: as above.
    drop(unsafe { Box::from_raw(managed.context().cast::<Context>()) });
}

/// The capsule's destructor: frees a structure that nobody took. Who takes it gives the capsule another name.
// SAFETY: Python calls it with the capsule that it was given with.
unsafe extern "C" fn unused(capsule: *mut ffi::PyObject) {
    // SAFETY: the capsule is one of ours, and Python calls this once, when nobody else has it.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, PLAIN.as_ptr()) != 0 {
            ended(ffi::PyCapsule_GetPointer(capsule, PLAIN.as_ptr()).cast::<Managed>());
        } else if ffi::PyCapsule_IsValid(capsule, VERSIONED.as_ptr()) != 0 {
            ended(ffi::PyCapsule_GetPointer(capsule, VERSIONED.as_ptr()).cast::<ManagedVersioned>());
        }
    }
}
