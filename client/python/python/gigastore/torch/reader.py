"""DCP's storage reader: boxes of tensors out of the store, straight into the state dict's own memory.

DCP is told that each tensor is one chunk, so that it asks for just the boxes of this rank; the store finds the saved
slices under them and reads the groups of bytes it needs. Must never run a pickle that the caller did not ask for, and
never leave a byte in a tensor that was not verified.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import threading
import warnings
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader as DcpStorageReader
from torch.futures import Future

from ..checkpoint import Checkpoint, Wanted
from ..errors import InvalidError, NotFoundError
from ..store import Progress, Store
from ..tensors import memory_of
from . import objects
from .layout import STRUCTURE, as_bits, paths_of, stored_box, torch_shape, torch_type
from .memory import HostArea, room

__all__ = ["StorageReader", "describe", "value_of", "value_path"]

#: Bytes on their way to a device, or to memory out of order, at once: 256 MiB, a fiftieth of a second of a PCIe 4 link.
_STAGED_BYTES = 256 << 20

#: How torch names a type, or a function, that it does not call for a pickle.
_DISTRUSTED = re.compile(r"GLOBAL (\S+) (?:was not an allowed global|whose module \S+ is blocked)")


@dataclass(frozen=True)
class _Piece:
    """A box that is read into the host's memory, and copied on from there."""

    name: str
    offsets: tuple[int, ...]
    into: torch.Tensor
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return self.into.numel() * self.dtype.itemsize


class _Load(threading.local):
    """One load, from `read_metadata` to `read_data`: DCP runs all of it in one thread, others in theirs."""

    def __init__(self) -> None:
        #: What `reset` named for the next load.
        self.named: str | None = None
        self.target: str | None = None
        self.checkpoint: Checkpoint | None = None
        self.failed: Exception | None = None
        #: Memory that boxes pass through; it stays for the next load.
        self.area = HostArea()


class StorageReader(DcpStorageReader):
    """Loads through `dcp.load` out of a store, at any world size.

    `target` is "project/run@step", "…@tag", or "project/run" for what was committed last; where it is left out, DCP's
    `checkpoint_id` says it. All ranks read the checkpoint that the coordinator found. Checkpoints that were saved
    otherwise are read too: tensors by their names. Values that only pickle can read are refused unless `trust_pickle`:
    reading a pickle runs what whoever wrote it wanted to run.
    """

    def __init__(
        self,
        store: Store | str,
        target: str | None = None,
        *,
        trust_pickle: bool = False,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        self.store = Store(store, create=False) if isinstance(store, str) else store
        self._target, self._trust_pickle, self._progress = target, trust_pickle, progress
        self._reset_process()

    def _reset_process(self) -> None:
        self._load = _Load()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_load"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset_process()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Tells whether it has the form of a target."""
        project, slash, run = str(checkpoint_id).removeprefix("gigastore://").partition("/")
        return bool(project and slash and run) and "/" not in run

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Names the target of this thread's next load; `None`: the reader's own."""
        load = self._load
        load.named, load.target = None if checkpoint_id is None else str(checkpoint_id), None
        load.checkpoint = load.failed = None

    @property
    def checkpoint_id(self) -> str | None:
        """The target that is read."""
        return self._load.named or self._load.target or self._target

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Describes the checkpoint to DCP."""
        load = self._load
        # DCP resets only for loads that it was given a name for: a name holds for one load.
        load.target, load.named = load.named or self._target, None
        load.checkpoint = load.failed = None
        try:
            load.checkpoint = self._open(load.target)
            found, left_out = describe(load.checkpoint)
            if left_out:
                text = f"{load.checkpoint.target}: torch has no type for {', '.join(left_out)}: not loaded"
                warnings.warn(text, stacklevel=2)
        except Exception as error:
            # DCP would make an assertion of it. It is raised a moment later, as what it is.
            load.failed, found = error, Metadata({})
        found.storage_meta = StorageMeta(checkpoint_id=load.target)
        return found

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Raises what `read_metadata` met."""
        if self._load.failed is not None:
            raise self._load.failed

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Tells the coordinator which checkpoint this rank found."""
        assert self._load.checkpoint is not None, "DCP calls read_metadata first"
        plan.storage_data = self._load.checkpoint.target
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Has all ranks read the checkpoint that the coordinator found: a tag may have moved in between."""
        assert self._load.checkpoint is not None, "DCP calls read_metadata first"
        for plan in plans:
            plan.storage_data = self._load.checkpoint.target
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads what this rank wants: one call for all that lies in order in memory of the host."""
        checkpoint = self._load.checkpoint
        if checkpoint is None or checkpoint.target != plan.storage_data:
            checkpoint = self._open(plan.storage_data)
        wanted: list[Wanted] = []
        staged: list[_Piece] = []
        filled: list[tuple[ReadItem, torch.Tensor]] = []
        taken: list[tuple[int, int]] = []
        values: list[ReadItem] = []
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:
                values.append(item)
                continue
            tensor = planner.resolve_tensor(item).detach()
            filled.append((item, tensor))
            into = _want(checkpoint, item, tensor)
            if isinstance(into, _Piece):
                staged.extend(_cut(into))
            elif _take(taken, tensor):
                wanted.append(into)
            else:
                # Tied tensors: memory is filled by one at a time.
                staged.extend(_cut(_Piece(into[0], tuple(item.storage_offsets), tensor, tensor.dtype)))
        self._read(checkpoint, wanted, staged)
        for item, tensor in filled:
            planner.commit_tensor(item, tensor)
        self._load_values(checkpoint, values, planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _open(self, target: str | None) -> Checkpoint:
        if target is None:
            raise InvalidError("nothing says what to load", hint="pass target= or checkpoint_id=, such as demo/run@100")
        return self.store.checkpoint(target)

    def _read(self, checkpoint: Checkpoint, wanted: list[Wanted], staged: list[_Piece]) -> None:
        """Reads boxes in place, and the others batch by batch; a tensor of another type is converted, as DCP does."""
        area = self._load.area
        batches = list(_batches(staged)) or [[]]
        for batch in batches:
            flat = area.take(sum(room(piece.bytes) for piece in batch))
            start, held = 0, []
            for piece in batch:
                at = flat[start : start + piece.bytes]
                box = stored_box(piece.name, checkpoint.tensors[piece.name].dtype, piece.offsets, piece.into.shape)
                wanted.append((piece.name, box, at.numpy()))
                held.append(at.view(piece.dtype).reshape(piece.into.shape))
                start += room(piece.bytes)
            checkpoint.read_into(wanted, progress=self._progress)
            for piece, at in zip(batch, held, strict=True):
                _put(piece, at)
            for device in {piece.into.device for piece in batch if piece.into.device.type != "cpu"}:
                torch.accelerator.synchronize(device)
            wanted = []
        area.give_back()

    def _load_values(self, checkpoint: Checkpoint, items: list[ReadItem], planner: LoadPlanner) -> None:
        """Reads values that are no tensors, and hands them to the planner."""
        paths = [value_path(checkpoint, item.storage_index.fqn) for item in items]
        texts = checkpoint.read_files(paths)
        # What the default planner does with bytes is to unpickle them, whatever they hold.
        unpickles = getattr(type(planner), "load_bytes", None) is DefaultLoadPlanner.load_bytes
        direct = planner if isinstance(planner, DefaultLoadPlanner) and unpickles else None
        for item, path, text in zip(items, paths, texts, strict=True):
            name = item.dest_index.fqn
            if direct is None and path.endswith(".pt") and self._trust_pickle:
                planner.load_bytes(item, io.BytesIO(text))
                continue
            value = value_of(item.storage_index.fqn, path, text, self._trust_pickle)
            if direct is not None and direct.flatten_state_dict:
                set_element(direct.original_state_dict, direct.mappings[name], value)
            elif direct is not None:
                direct.state_dict[name] = value
            else:
                # Bytes of our own making: a planner may unpickle what it gets, whatever that runs.
                data = io.BytesIO()
                torch.save(value, data)
                data.seek(0)
                planner.load_bytes(item, data)


def describe(checkpoint: Checkpoint) -> tuple[Metadata, list[str]]:
    """Returns DCP's description of a checkpoint, each tensor one chunk, whatever slices it was saved in; and the
    tensors that it leaves out: torch has no type for their elements."""
    entries: dict[str, STORAGE_TYPES] = {}
    left_out = []
    for name, info in checkpoint.tensors.items():
        dtype = torch_type(info.dtype)
        if dtype is None:
            left_out.append(f"{name} ({info.dtype})")
            continue
        size = torch_shape(name, info.dtype, info.shape)
        chunk = ChunkStorageMetadata(offsets=torch.Size([0] * len(size)), sizes=size)
        entries[name] = TensorStorageMetadata(TensorProperties(dtype=dtype), size, [chunk])
    structures = {}
    for path in checkpoint.files:
        value = objects.name_of(path)
        if value is not None:
            entries[value[0]] = BytesStorageMetadata()
        elif STRUCTURE.fullmatch(path):
            structures[path] = checkpoint.read_file(path)
    return Metadata(entries, planner_data=paths_of(entries, structures)), left_out


def value_of(name: str, path: str, text: bytes, trust_pickle: bool) -> Any:
    """Returns the value that a file holds."""
    if path.endswith(".json"):
        return objects.decode(name, text)
    try:
        return torch.load(io.BytesIO(text), map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        # Not as its cause: what torch advises, over many lines, is about a call that is not the caller's.
        raise InvalidError(
            f"the value of {name} can be read by running its pickle only: {_distrusted(str(error))}",
            object=path,
            hint="trust_pickle=True where you trust who saved it, or torch.serialization.add_safe_globals",
        ) from None
    except Exception as error:
        raise InvalidError(
            f"the value of {name} is not as torch.save writes it: {type(error).__name__}: {error}", object=path
        ) from error


def _distrusted(told: str) -> str:
    """Returns what torch does not trust in a pickle, without the advice around it, nor what controls a terminal."""
    found = _DISTRUSTED.search(told)
    if found is not None:
        reason = f"torch does not trust {found[1]}"
    else:
        # What was met stands last, before the address of a page.
        lines = [line.strip() for line in told.partition("\n\nCheck the documentation")[0].splitlines()]
        reason = next((line for line in reversed(lines) if line), "torch does not tell why")
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in reason)


def value_path(checkpoint: Checkpoint, name: str) -> str:
    """Returns the path of the file that holds the value of a name."""
    for suffix in (".json", ".pt"):
        path = objects.path_of(name, suffix)
        if path in checkpoint.files:
            return path
    raise NotFoundError(f"{checkpoint.target} has no value {name!r}", known=list(checkpoint.files))


def _want(checkpoint: Checkpoint, item: ReadItem, tensor: torch.Tensor) -> Wanted | _Piece:
    """Returns a box that is read in place, or one that passes through the host's memory."""
    name = item.storage_index.fqn
    info = checkpoint.tensors.get(name)
    if info is None:
        raise NotFoundError(f"{checkpoint.target} has no tensor {name!r}", known=list(checkpoint.tensors))
    dtype = torch_type(info.dtype)
    assert dtype is not None, "what torch has no type for is not described to DCP"
    if tensor.shape != item.lengths:
        text = f"{name}: a box of shape {list(item.lengths)} is to fill a tensor of shape {list(tensor.shape)}"
        raise InvalidError(text, object=name)
    if tensor.is_meta:
        raise InvalidError(f"{name}: a tensor on the meta device has no memory", hint="materialise it: to_empty()")
    offsets = tuple(item.storage_offsets)
    in_order = tensor.is_contiguous() and not (tensor.is_conj() or tensor.is_neg())
    if tensor.device.type == "cpu" and tensor.dtype == dtype and in_order:
        box = stored_box(name, info.dtype, offsets, tensor.shape)
        return name, box, memory_of(name, tensor)[0] if tensor.numel() else bytearray()
    return _Piece(name, offsets, tensor, dtype)


def _take(taken: list[tuple[int, int]], tensor: torch.Tensor) -> bool:
    """Adds the memory of a tensor to what is taken, in order; tells whether none of it was."""
    memory = (tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes)
    at = bisect(taken, memory)
    before, after = at > 0 and taken[at - 1][1] > memory[0], at < len(taken) and taken[at][0] < memory[1]
    if tensor.nbytes and not (before or after):
        taken.insert(at, memory)
    return not (before or after)


def _cut(piece: _Piece) -> Iterator[_Piece]:
    """Cuts a box along its first dimension into pieces of at most `_STAGED_BYTES`, or one row where a row is longer."""
    rows = piece.into.shape[0] if piece.into.dim() else 1
    if piece.bytes <= _STAGED_BYTES or rows <= 1:
        yield piece
        return
    step = max(1, _STAGED_BYTES // (piece.bytes // rows))
    for row in range(0, rows, step):
        offsets = (piece.offsets[0] + row, *piece.offsets[1:])
        yield _Piece(piece.name, offsets, piece.into.narrow(0, row, min(step, rows - row)), piece.dtype)


def _batches(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    filled = 0
    for piece in pieces:
        if batch and filled + room(piece.bytes) > _STAGED_BYTES:
            yield batch
            batch, filled = [], 0
        batch.append(piece)
        filled += room(piece.bytes)
    if batch:
        yield batch


def _put(piece: _Piece, held: torch.Tensor) -> None:
    if piece.into.dtype == held.dtype and not (piece.into.is_conj() or piece.into.is_neg()):
        as_bits(piece.into).copy_(as_bits(held), non_blocking=True)
    else:
        piece.into.copy_(held, non_blocking=True)
