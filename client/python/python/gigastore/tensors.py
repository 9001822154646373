"""Tensors of any framework as bytes with a name, a type and a box, and back.

Element types are named as safetensors names them. Nothing is copied on the way to the store: numpy, torch and anything
with the buffer protocol is looked at where it lies. torch and ml_dtypes are used where they are there already.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from ._arguments import kind_of, numbers_of, text
from .errors import InvalidError

__all__ = ["Slice", "as_array", "bits_of", "empty", "memory_of", "numpy_dtype", "torch_dtype"]

# Types that numpy has itself. Those that ml_dtypes adds, and those that only torch has, follow.
_NUMPY = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "C64": "complex64",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
}
_ML_DTYPES = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
_TORCH = {
    **{name: ("bool" if name == "BOOL" else text) for name, text in _NUMPY.items()},
    **_ML_DTYPES,
    "F4": "float4_e2m1fn_x2",
}
_FROM_NUMPY = {text: name for name, text in {**_NUMPY, **_ML_DTYPES}.items()}
_FROM_TORCH = {f"torch.{text}": name for name, text in _TORCH.items()}

#: What to do where a save is given what is no tensor, but has tensors in it.
_FLAT = (
    "pass a flat mapping of names to tensors, such as model.state_dict(); "
    "nested state is saved by gigastore.torch with dcp.save"
)

_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64, "BF16": 16}


def bits_of(dtype: str) -> int:
    """Returns the bits of one element of a type."""
    if dtype in _BITS:
        return _BITS[dtype]
    return int(dtype[1:].split("_")[0])


@dataclass(frozen=True, eq=False)
class Slice:
    """One rank's box of a global tensor, in the words of PyTorch's DCP.

    `data` is a tensor (torch, numpy, anything with the buffer protocol) that holds the box `sizes` at `global_offsets` of
    a tensor of `global_shape`. What is left out follows from the data: the whole tensor. `dtype` names the type of the
    elements as safetensors does where the data does not tell. `replicas` are all ranks that hold the same box: one of
    them, chosen by hash, sends the bytes; the others only prove that theirs are the same.
    """

    data: Any
    global_shape: Sequence[int] | None = None
    global_offsets: Sequence[int] | None = None
    sizes: Sequence[int] | None = None
    dtype: str | None = None
    replicas: Sequence[int] = field(default=())


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Returns numpy's type of elements that safetensors calls `name`."""
    if name in _NUMPY:
        return np.dtype(_NUMPY[name])
    if name in _ML_DTYPES:
        try:
            import ml_dtypes
        except ImportError as error:
            raise InvalidError(
                f"numpy has no type for {name}",
                hint="pip install ml_dtypes, or load with device='cpu' for torch tensors",
            ) from error
        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _ML_DTYPES[name]))
        return found
    raise InvalidError(f"numpy has no type for {name}", hint="load into memory of your own: into={name: memory}")


def torch_dtype(name: str) -> Any:
    """Returns torch's type of elements that safetensors calls `name`."""
    import torch

    found = getattr(torch, _TORCH.get(name, ""), None)
    if found is None:
        raise InvalidError(f"this torch ({torch.__version__}) has no type for {name}")
    return found


def as_array(memory: Any, dtype: str, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """Views bytes as a numpy array. Nothing is copied."""
    return np.frombuffer(memory, dtype=np.uint8).view(numpy_dtype(dtype)).reshape(tuple(shape))


def empty(dtype: str, shape: Sequence[int], device: Any = None) -> tuple[Any, Any]:
    """Makes a tensor of any content, and returns it with the memory to fill: a torch tensor on `device`, or where that is
    `None` a numpy array."""
    from ._native import Memory

    bits = prod(shape) * bits_of(dtype)
    memory = Memory(bits // 8, dtype, list(shape))
    if device is None:
        return as_array(memory, dtype, shape), memory
    import torch

    kind = torch_dtype(dtype)
    shape = tuple(shape)
    if dtype == "F4":
        shape = (*shape[:-1], shape[-1] // 2)
    # Pages of the tensor are ours, and stay as long as it does.
    flat = torch.frombuffer(memory, dtype=torch.uint8) if bits else torch.empty(0, dtype=torch.uint8)
    return flat.view(kind).reshape(shape), memory


def memory_of(
    name: str, tensor: Any, *, filled: bool = False
) -> tuple[Any, str | None, tuple[int, ...] | None]:
    """Returns a tensor's memory, the name of its type, and its shape; type and shape are `None` where it is mere bytes.

    Refuses what has no bytes of its own, or not in row-major order: copying it unasked would double the memory of a job.
    Where it is to be `filled` it is the tensor's very memory: what only tells its values by a copy is refused.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tensor, torch.Tensor):
        return _memory_of_torch(torch, name, tensor, filled)
    if isinstance(tensor, (np.ndarray, np.generic)):
        if filled and isinstance(tensor, np.generic):
            text = f"{name}: a scalar of numpy can't be filled"
            raise InvalidError(text, hint=f"pass numpy.zeros((), numpy.{tensor.dtype})")
        tensor = np.asarray(tensor)
        dtype = _FROM_NUMPY.get(tensor.dtype.name)
        if dtype is None or not tensor.dtype.isnative:
            raise InvalidError(f"{name}: numpy's type {tensor.dtype.str} can't be stored: convert it first")
        if not tensor.flags.c_contiguous:
            # Of a copy that is filled nothing would come back.
            hint = "load into a contiguous array, then copy it: this[...] = loaded"
            hint = hint if filled else "pass numpy.ascontiguousarray(array)"
            raise InvalidError(f"{name}: the array is not contiguous", hint=hint)
        if filled and not tensor.flags.writeable:
            raise _read_only(name)
        return tensor.reshape(-1).view(np.uint8), dtype, tensor.shape
    try:
        view = memoryview(tensor)
    except TypeError:
        if hasattr(tensor, "__array__") and not filled:
            return memory_of(name, np.asarray(tensor))
        told = f"{name}: {kind_of(tensor, module=True)} is no tensor"
        if filled:
            hint = "expected torch.Tensor, numpy.ndarray, or a buffer such as bytearray"
            raise InvalidError(f"{told} whose memory can be filled", hint=hint) from None
        nested = isinstance(tensor, Mapping) or hasattr(tensor, "state_dict")
        hint = _FLAT if nested else "expected torch.Tensor, numpy.ndarray, gigastore.Slice, or bytes"
        raise InvalidError(told, hint=hint) from None
    if not view.c_contiguous:
        raise InvalidError(f"{name}: the buffer is not contiguous")
    if filled and view.readonly:
        raise _read_only(name)
    return view.cast("B") if view.nbytes else b"", None, None


def _read_only(name: str) -> InvalidError:
    hint = "pass memory that can be written, such as numpy.empty(shape, dtype)"
    return InvalidError(f"{name}: the memory to be filled is read-only", hint=hint)


def _memory_of_torch(torch: Any, name: str, tensor: Any, filled: bool) -> tuple[Any, str, tuple[int, ...]]:
    if hasattr(tensor, "device_mesh"):
        hint = f"{'load' if filled else 'save'} it with gigastore.torch"
        raise InvalidError(f"{name}: a DTensor is a part of a tensor", hint=hint)
    if tensor.is_nested:
        raise InvalidError(f"{name}: a nested tensor has no one shape", hint="save its parts: unbind()")
    if tensor.is_meta:
        raise InvalidError(f"{name}: a tensor on the meta device has no bytes", hint="materialise it first: to_empty()")
    if tensor.layout != torch.strided:
        raise InvalidError(f"{name}: a tensor of layout {tensor.layout} has no row-major bytes", hint="to_dense()")
    if tensor.is_quantized:
        raise InvalidError(f"{name}: quantized tensors are not stored", hint="save int_repr(), scales and zero points")
    dtype = _FROM_TORCH.get(str(tensor.dtype))
    if dtype is None:
        raise InvalidError(f"{name}: torch's type {tensor.dtype} can't be stored: convert it first")
    # Of a copy that is filled nothing would come back.
    into = "load into a contiguous tensor on the CPU, then copy_ it into this one"
    if tensor.device.type != "cpu":
        hint = "copy it to the host first: tensor.cpu(), or gigastore.torch.Staging, which keeps its memory"
        raise InvalidError(f"{name}: the tensor is on {tensor.device}", hint=into if filled else hint)
    if not tensor.is_contiguous():
        hint = "load into a contiguous tensor, then copy_ it into this one"
        raise InvalidError(f"{name}: the tensor is not contiguous", hint=hint if filled else "pass tensor.contiguous()")
    shape = tuple(tensor.shape)
    if dtype == "F4":
        shape = (*shape[:-1], shape[-1] * 2)
    tensor = tensor.detach()
    if tensor.is_neg() or tensor.is_conj():
        if filled:
            text = f"{name}: the tensor is a view whose values are conjugate, or negative, to those in memory"
            raise InvalidError(text, hint=into)
        tensor = tensor.resolve_neg().resolve_conj()
    if tensor.numel() == 0:
        # Memory of no bytes may be filled with nothing.
        return bytearray(), dtype, shape
    # Not reshape: a tensor of one element may keep a stride of its own, over which torch does not look at bytes.
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy(), dtype, shape


def native_slices(tensors: Mapping[str, Any]) -> list[tuple[str, str, list[int], list[int], list[int], Any, list[int]]]:
    """Returns what the native part saves for tensors by name: a tensor, a `Slice`, or several slices of one tensor."""
    if not isinstance(tensors, Mapping):
        raise InvalidError(f"tensors are {kind_of(tensors)}, expected a mapping of names to tensors", hint=_FLAT)
    found = []
    for name, value in tensors.items():
        text("the name of a tensor", name)
        # A list is several boxes of one tensor: what a rank holds of it after uneven sharding.
        several = isinstance(value, (list, tuple)) and value and all(isinstance(one, Slice) for one in value)
        for one in value if several else [value]:
            one = one if isinstance(one, Slice) else Slice(one)
            memory, dtype, shape = memory_of(name, one.data)
            dtype = one.dtype or dtype
            if dtype is None:
                raise InvalidError(f"{name}: bytes do not tell their type", hint="pass gigastore.Slice(data, dtype=…)")
            sizes = one.sizes if one.sizes is not None else shape
            if sizes is None:
                sizes = one.global_shape
            if sizes is None:
                raise InvalidError(f"{name}: bytes do not tell their shape", hint="gigastore.Slice(data, sizes=…)")
            whole = sizes if one.global_shape is None else one.global_shape
            offsets = [0] * len(numbers_of(name, whole)) if one.global_offsets is None else one.global_offsets
            area = [numbers_of(name, numbers) for numbers in (whole, offsets, sizes)]
            found.append((name, text(name, dtype), *area, memory, numbers_of(name, one.replicas, 32)))
    return found


def native_files(files: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns what the native part saves for files by path."""
    if not isinstance(files, Mapping):
        raise InvalidError(f"files are {kind_of(files)}, expected a mapping of paths to bytes")
    found = []
    for path, data in files.items():
        text("the path of a file", path)
        if isinstance(data, str):
            hint = "text.encode(), or pathlib.Path(text).read_bytes() where it is a path"
            raise InvalidError(f"file {path!r} is text, expected bytes", hint=hint)
        if isinstance(data, os.PathLike):
            told = f"file {path!r} is {kind_of(data)}, expected the content of the file: bytes"
            raise InvalidError(told, hint="pass path.read_bytes()")
        memory, _, _ = memory_of(path, data)
        found.append((path, memory))
    return found
