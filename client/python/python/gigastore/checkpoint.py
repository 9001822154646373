"""A checkpoint: what it holds, and any part of it, in memory of the caller's choice.

Bytes are checked against the hashes of the commit while they are put in place; what does not match is never left there.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import _native
from ._arguments import counted, device_of, kind_of, names_of, numbers_of, text
from .committed import Committed
from .cursors import DEFAULT
from .errors import InvalidError, NotFoundError, meant
from .info import VerifyReport
from .progress import Progress, callable_of
from .tensors import empty, memory_of

if TYPE_CHECKING:
    from .store import Store

__all__ = ["Checkpoint", "TensorInfo", "Wanted"]


#: Offsets and sizes of a box of a tensor.
Box = tuple[Sequence[int], Sequence[int]]
#: A tensor's name, a box of it (`None`: all), and the memory that is filled with it, row-major.
Wanted = tuple[str, Box | None, Any]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a checkpoint."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int
    #: How many slices it was saved in.
    slices: int


class Checkpoint(Committed):
    """A checkpoint, bound to the record that committed it: what a tag means may change, this does not."""

    def __init__(self, store: Store, target: str, native: _native.Checkpoint) -> None:
        super().__init__(store, target, native)
        self._native = native

    def __repr__(self) -> str:
        return f"<gigastore.Checkpoint {self.target}: {len(self.tensors)} tensors>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_open, (self._store, self.target))

    @property
    def metadata(self) -> dict[str, str]:
        """What was saved with it as metadata."""
        return self._native.metadata

    @property
    def cursors(self) -> dict[str, str]:
        """Where the data streams were that it was saved with, as JSON by their names, with what all ranks had seen."""
        return self._native.cursors

    def cursor(self, name: str = DEFAULT) -> str:
        """Returns where one data stream was: what a stream goes on from, at any world size."""
        cursors = self.cursors
        try:
            return cursors[text("the name of a data stream", name)]
        except KeyError:
            raise NotFoundError(f"{self.target} has no cursor of a data stream {name!r}", known=list(cursors)) from None

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Its tensors, by name."""
        return {
            name: TensorInfo(dtype, tuple(shape), size, slices)
            for name, dtype, shape, size, slices in self._native.tensors()
        }

    @cached_property
    def files(self) -> Mapping[str, int]:
        """Its files and their bytes: opaque ones that were saved, and its tensors as safetensors files."""
        return dict(self._native.files())

    def slices(self, name: str) -> list[tuple[tuple[int, ...], tuple[int, ...], str]]:
        """Returns the boxes that a tensor was saved in: offsets, sizes, BLAKE3."""
        self._tensor(name)
        return [(tuple(offsets), tuple(sizes), blake3) for offsets, sizes, blake3 in self._native.slices(name)]

    def load(
        self,
        names: Iterable[str] | None = None,
        *,
        into: Mapping[str, Any] | None = None,
        device: Any = None,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Reads whole tensors and returns them by name: those of `names`, else those that `into` has, else all.

        `into` has tensors or writable memory by name, to be filled in place, and returned; others are new: numpy
        arrays, or torch tensors on `device` where one is given. After an error what was filled so far is verified, the
        rest undefined.
        """
        chosen = list(self.tensors if into is None else _by_name(into)) if names is None else names_of("names", names)
        into = {} if into is None else _of_names(_by_name(into), chosen)
        place = None if device is None else device_of(device)
        found: dict[str, Any] = {}
        wanted: list[Wanted] = []
        for name in chosen:
            info = self._tensor(name)
            if name in into:
                found[name], memory = into[name], _destination(name, into[name], info.dtype, info.shape)
            else:
                found[name], memory = empty(info.dtype, info.shape, None if device is None else "cpu")
            wanted.append((name, None, memory))
        self.read_into(wanted, progress=progress)
        return {name: tensor if name in into else _placed(tensor, place) for name, tensor in found.items()}

    def slice(self, name: str, box: Box | tuple[Any, ...], *, into: Any = None, device: Any = None) -> Any:
        """Reads a box of a tensor: a tuple of slices and indices as numpy has them, or `(offsets, sizes)`.

        Only the groups of bytes (256 KiB) that hold it are read.
        """
        info = self._tensor(name)
        offsets, sizes, shape = _box(name, info.shape, box)
        place = None if device is None else device_of(device)
        if into is not None:
            found, memory = into, _destination(name, into, info.dtype, shape)
        else:
            found, memory = empty(info.dtype, shape, None if device is None else "cpu")
        self.read_into([(name, (offsets, sizes), memory)])
        return found if into is not None else _placed(found, place)

    def read_into(self, wanted: Sequence[Wanted], *, progress: Progress | None = None) -> None:
        """Fills memory with boxes of tensors; each stored byte is read once, however many of them need it."""
        self._native.read([_checked(one) for one in wanted], callable_of(progress))

    def read_file(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        """Reads a file, or a range of it."""
        start, end = counted("start", start), None if end is None else counted("end", end)
        return bytes(self._native.read_file(text("path", path), start, end))

    def read_files(self, paths: Sequence[str]) -> list[bytes]:
        """Reads saved files, each whole, in the order of `paths`: thousands of small ones in few requests."""
        return [bytes(memory) for memory in self._native.read_files(names_of("paths", paths))]

    def export(
        self,
        folder: str | os.PathLike[str],
        *,
        names: Sequence[str] = (),
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> list[str]:
        """Writes it (or what `names`, globs included, match) into a folder as safetensors files; returns their paths."""
        chosen = names_of("names", names)
        return self._native.export(text("folder", os.fspath(folder)), chosen, bool(overwrite), callable_of(progress))

    def verify(self, *, depth: float | str = "full", progress: Progress | None = None) -> VerifyReport:
        """Reads and hashes every stored byte of it, or a part: see `Store.verify`."""
        return self._store.verify(self.target, depth=depth, progress=progress)

    def _tensor(self, name: str) -> TensorInfo:
        try:
            return self.tensors[text("the name of a tensor", name)]
        except KeyError:
            raise NotFoundError(f"{self.target} has no tensor {name!r}", known=list(self.tensors)) from None


def _by_name(into: Any) -> Mapping[str, Any]:
    """Returns what is to be filled; refuses what has no names."""
    if isinstance(into, Mapping):
        return into
    told = f"into is {kind_of(into)}, expected a mapping of names to tensors or writable memory"
    raise InvalidError(told, hint='pass into={"name": tensor}')


def _of_names(into: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """Refuses to fill what is not loaded: it would be left as it is, without a word."""
    others = sorted(into.keys() - set(names), key=repr)
    if not others:
        return into
    shown = ", ".join(map(repr, others[:10])) + (f" and {len(others) - 10} others" if len(others) > 10 else "")
    hint = meant(str(others[0]), names) or "add it to names, or take it out of into"
    raise InvalidError(f"into has {shown}, which names does not have", hint=hint, known=names)


def _placed(tensor: Any, device: Any) -> Any:
    return tensor if device is None or device.type == "cpu" else tensor.to(device)


def _checked(wanted: Wanted) -> Wanted:
    name, box, memory = wanted
    if box is None:
        return name, None, memory
    offsets, sizes = box
    return name, (numbers_of(name, offsets), numbers_of(name, sizes)), memory


def _destination(name: str, tensor: Any, dtype: str, shape: Sequence[int]) -> Any:
    """Returns the memory of a tensor that is to be filled, which must be what the checkpoint has."""
    memory, actual, actual_shape = memory_of(name, tensor, filled=True)
    if actual is not None and actual != dtype:
        raise InvalidError(f"{name} is {dtype} in the checkpoint, and {actual} where it should go")
    if actual_shape is not None and tuple(actual_shape) != tuple(shape):
        raise InvalidError(f"{name} has shape {list(shape)}, and {list(actual_shape)} where it should go")
    return memory


def _box(name: str, shape: tuple[int, ...], box: Any) -> tuple[list[int], list[int], list[int]]:
    """Returns offsets and sizes of a box, and the shape of what it holds: an index takes its dimension away."""
    box = box if isinstance(box, tuple) else (box,)
    if len(box) == 2 and all(_numbers(part) for part in box):
        offsets, sizes = (numbers_of(name, part) for part in box)
        return offsets, sizes, list(sizes)
    if Ellipsis in box:
        at = box.index(Ellipsis)
        box = box[:at] + (slice(None),) * (len(shape) - len(box) + 1) + box[at + 1 :]
    if len(box) > len(shape):
        raise InvalidError(f"{name} has {len(shape)} dimensions, and the box {len(box)}")
    offsets, sizes, kept = [], [], []
    for length, part in zip(shape, box + (slice(None),) * (len(shape) - len(box)), strict=True):
        if isinstance(part, slice):
            try:
                start, stop, step = part.indices(length)
            except (TypeError, ValueError) as error:
                raise InvalidError(f"{name}: {part} can't be a part of a box: {error}") from None
            if step != 1:
                raise InvalidError(f"{name}: a box has no steps, {part} has")
            offsets.append(start)
            sizes.append(max(stop - start, 0))
            kept.append(sizes[-1])
        else:
            try:
                index = operator.index(part)
            except TypeError:
                problem = f"{name}: a box has no {part!r} in it"
                raise InvalidError(problem, hint="expected slices and whole numbers, or (offsets, sizes)") from None
            index = index + length if index < 0 else index
            if not 0 <= index < length:
                raise InvalidError(f"{name}: index {part} lies outside a dimension of {length}")
            offsets.append(index)
            sizes.append(1)
    return offsets, sizes, kept


def _numbers(part: Any) -> bool:
    return isinstance(part, Sequence) and all(hasattr(one, "__index__") for one in part)


def _open(store: Store, target: str) -> Checkpoint:
    return store.checkpoint(target)

