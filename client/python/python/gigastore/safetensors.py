"""The functions of the package `safetensors` over a store: names, metadata, whole tensors, and parts of them.

A part is read as the groups of bytes that hold it, verified, and no others. Must never hand out an element that was not
asked for by an index, nor return another type than the one that was saved.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np

from ._arguments import device_of, text, texts_by_name
from .checkpoint import Checkpoint
from .errors import InvalidError
from .info import CommitInfo
from .progress import Progress
from .store import Store, opened
from .tensors import bits_of, numpy_dtype, torch_dtype

__all__ = ["OutOfRangeError", "SafeSlice", "load_file", "safe_open", "save_file"]

# What a checkpoint's metadata calls the metadata of safetensors files; the command line reads and writes the same.
_METADATA_PREFIX = "safetensors:"

_FRAMEWORKS = {
    **dict.fromkeys(("pt", "torch", "pytorch"), "torch"),
    **dict.fromkeys(("np", "numpy"), "numpy"),
    **dict.fromkeys(("jax", "flax"), "jax"),
}


class OutOfRangeError(InvalidError, IndexError):
    """An index lies outside a dimension; also an IndexError, so that a `for` over a slice ends."""


class safe_open:  # noqa: N801 (the name that code which uses safetensors knows)
    """Opens a checkpoint as `safetensors.safe_open` opens a file.

    `store` is a `Store` or the URL of one, `target` a checkpoint: "project/run@step", "project/run@tag", or
    "project/run" for the one committed last; it is bound here, and does not change after. `framework` is "pt", "np" or
    "jax"; `device` is where tensors of "pt" and "jax" go.
    """

    def __init__(self, store: Store | str, target: str, framework: str = "pt", device: Any = "cpu") -> None:
        if framework not in _FRAMEWORKS:
            raise InvalidError(f"framework {framework!r} is not known", hint="expected 'pt', 'np' or 'jax'")
        self._framework = _FRAMEWORKS[framework]
        if self._framework == "numpy" and device != "cpu":
            raise InvalidError(f"device {device!r}: numpy has tensors on the CPU only", hint="framework='pt'")
        # Asked before the store is: torch's own error would come after the bytes were read.
        self._device = device if self._framework != "torch" or device == "cpu" else device_of(device)
        self._checkpoint: Checkpoint | None = opened(store, create=False).checkpoint(target)

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._checkpoint = None

    def keys(self) -> list[str]:
        """Returns the names of the tensors, sorted."""
        return sorted(self._open().tensors)

    def offset_keys(self) -> list[str]:
        """Returns the names in the order in which they are stored."""
        # Packs are filled by name.
        return self.keys()

    def metadata(self) -> dict[str, str] | None:
        """Returns the metadata of the safetensors file that was saved, `None` where it had none."""
        return _metadata(self._open())

    def get_tensor(self, name: str) -> Any:
        """Reads a tensor."""
        shape = self._open()._tensor(name).shape
        return self._placed(self._read(name, [0] * len(shape), list(shape)))

    def get_tensors(self) -> dict[str, Any]:
        """Reads all tensors, by name."""
        found = self._open().load(device="cpu" if self._framework == "torch" else None)
        return {name: self._placed(tensor) for name, tensor in found.items()}

    def get_slice(self, name: str) -> SafeSlice:
        """Returns a view of a tensor of which parts can be read: `get_slice(name)[:, ::8]`."""
        return SafeSlice(self, name)

    def _open(self) -> Checkpoint:
        if self._checkpoint is None:
            raise InvalidError("the checkpoint was closed: its `with` block has ended")
        return self._checkpoint

    def _read(self, name: str, offsets: list[int], sizes: list[int]) -> Any:
        """Reads a box of a tensor into memory of the CPU."""
        checkpoint = self._open()
        # Asked before the bytes are read, so that what can't be had fails at once.
        (torch_dtype if self._framework == "torch" else numpy_dtype)(checkpoint._tensor(name).dtype)
        return checkpoint.slice(name, (offsets, sizes), device="cpu" if self._framework == "torch" else None)

    def _placed(self, tensor: Any) -> Any:
        if self._framework == "torch":
            return tensor if self._device == "cpu" else tensor.to(self._device)
        return _jax_array(tensor, self._device) if self._framework == "jax" else tensor


class SafeSlice:
    """A tensor of which parts are read by indexing it: integers, slices with positive steps, `...`, `None`, and lists
    or one-dimensional arrays of integers or booleans, as numpy understands them."""

    def __init__(self, opened: safe_open, name: str) -> None:
        self._opened, self._name = opened, name
        self._info = opened._open()._tensor(name)

    def get_shape(self) -> list[int]:
        """Returns the shape of the tensor."""
        return list(self._info.shape)

    def get_dtype(self) -> str:
        """Returns the type of the elements, as safetensors names it: "F32"."""
        return self._info.dtype

    def __getitem__(self, index: Any) -> Any:
        shape, dtype = self._info.shape, self._info.dtype
        offsets, sizes, rest = _box(self._name, shape, index)
        if bits_of(dtype) < 8 and shape and (sizes[-1] != shape[-1] or rest[-1] != slice(None)):
            raise InvalidError(f"{self._name}: elements of {dtype} share bytes: the last dimension can't be cut")
        found = self._opened._read(self._name, offsets, sizes)
        part = found[tuple(rest)]
        if self._opened._framework == "torch":
            # What was read around the elements that were asked for is let go.
            part = part if part.numel() == found.numel() else part.clone()
        else:
            part = np.asarray(part) if np.size(part) == found.size else np.array(part, order="C")
        return self._opened._placed(part)


def load_file(store: Store | str, target: str, device: Any = "cpu", *, framework: str = "pt") -> dict[str, Any]:
    """Reads all tensors of a checkpoint, by name."""
    with safe_open(store, target, framework, device) as opened:
        return opened.get_tensors()


def save_file(
    tensors: Mapping[str, Any],
    store: Store | str,
    target: str,
    metadata: Mapping[str, str] | None = None,
    *,
    tag: str | None = None,
    compress: bool | str = False,
    progress: Progress | None = None,
) -> CommitInfo:
    """Saves tensors of one process as a checkpoint, "project/run@step", and returns what was committed.

    Tensors on other devices are copied to the CPU first. `metadata` is what a safetensors file has in its header, and
    is there again in files that are exported. The rest is as in `Store.save`.
    """
    name, at, step = text("target", target).removeprefix("gigastore://").partition("@")
    if not at or not step.isdecimal():
        raise InvalidError(f"{target!r} names no step", hint="expected project/run@step, such as demo/minilm@100")
    prefixed = {_METADATA_PREFIX + key: value for key, value in texts_by_name("metadata", metadata).items()}
    host = {key: _on_host(tensor) for key, tensor in tensors.items()}
    return opened(store).save(name, int(step), host, metadata=prefixed, tag=tag, compress=compress, progress=progress)


def _metadata(checkpoint: Checkpoint) -> dict[str, str] | None:
    found = {
        key.removeprefix(_METADATA_PREFIX): value
        for key, value in checkpoint.metadata.items()
        if key.startswith(_METADATA_PREFIX)
    }
    return found or None


def _on_host(tensor: Any) -> Any:
    # Only torch's tensors have both; meta tensors have no bytes to copy, and are refused by the save.
    if hasattr(tensor, "cpu") and hasattr(tensor, "is_meta") and not tensor.is_meta:
        return tensor.cpu()
    return tensor


def _jax_array(array: np.ndarray[Any, Any], device: Any) -> Any:
    import jax

    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise InvalidError(
            f"JAX would make {jax.dtypes.canonicalize_dtype(array.dtype)} of {array.dtype}",
            hint='jax.config.update("jax_enable_x64", True), or framework="np"',
        )
    return jax.device_put(array, jax.devices("cpu")[0] if device == "cpu" else device)


def _box(name: str, shape: tuple[int, ...], index: Any) -> tuple[list[int], list[int], list[Any]]:
    """Returns the smallest box that holds what an index names, offsets and sizes, and the index counted from there."""
    parts = list(index) if isinstance(index, tuple) else [index]
    taken = sum(part is not None and part is not Ellipsis for part in parts)
    dots = [at for at, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1 or taken > len(shape):
        problem = "more than one `...`" if len(dots) > 1 else f"{taken} indices for {len(shape)} dimensions"
        raise OutOfRangeError(f"{name}: {problem}")
    at = dots[0] if dots else len(parts)
    parts[at : at + 1] = [slice(None)] * (len(shape) - taken)
    offsets: list[int] = []
    sizes: list[int] = []
    rest: list[Any] = []
    for part in parts:
        if part is None:
            rest.append(None)
            continue
        first, size, inside = _extent(name, len(offsets), shape[len(offsets)], part)
        offsets.append(first)
        sizes.append(size)
        rest.append(inside)
    return offsets, sizes, rest


def _extent(name: str, dimension: int, length: int, part: Any) -> tuple[int, int, Any]:
    """Returns the first element of a dimension that an index names, how many follow from there on to the last one, and
    the index counted from the first."""
    if isinstance(part, slice):
        if part.step is not None and operator.index(part.step) < 1:
            raise InvalidError(f"{name}: step {part.step} is not positive")
        start, stop, step = part.indices(length)
        count = len(range(start, stop, step))
        if not count:
            return start, 0, slice(None)
        return start, (count - 1) * step + 1, slice(None, None, step) if step > 1 else slice(None)
    if getattr(part, "ndim", 0) == 0 and not isinstance(part, (bool, np.bool_, list)):
        try:
            index = operator.index(part)
        except TypeError:
            text = f"{name}: index {part!r} is neither an integer, a slice, `...`, `None` nor a list of integers"
            raise InvalidError(text) from None
        if not -length <= index < length:
            raise OutOfRangeError(f"{name}: index {index} lies outside dimension {dimension}, which has {length}")
        return index % length, 1, 0
    indices = np.asarray(part)
    if indices.ndim == 1 and indices.dtype == bool and len(indices) == length:
        indices = np.flatnonzero(indices)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise InvalidError(f"{name}: index {part!r} is not a list of integers, nor of {length} booleans")
    if not indices.size:
        return 0, 0, slice(None)
    if indices.min() < -length or indices.max() >= length:
        raise OutOfRangeError(f"{name}: an index of {part!r} lies outside dimension {dimension}, which has {length}")
    indices = indices.astype(np.int64) % length
    first = int(indices.min())
    return first, int(indices.max()) - first + 1, (indices - first).tolist()
