"""Checkpoints from folders of DCP's own, and back into such folders: bit for bit, sharded as they were.

Both ways go share by share, so that memory is bounded by a share or the largest box, whatever the checkpoint has. Must
never show half a checkpoint: one commit, or one rename of the folder's description, comes last.
"""

from __future__ import annotations

import io
import os
import pickle
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)

from ..checkpoint import Checkpoint, Wanted
from ..errors import ConflictError, GigastoreError, InvalidError, StoreWriteError
from ..info import CommitInfo
from ..store import Store
from ..tensors import Slice, empty
from . import objects
from .layout import stored_box, stored_dtype, structure_file, torch_shape
from .pickled import FolderReader, reading
from .reader import describe, value_of, value_path
from .writer import step_of

__all__ = ["export_dcp", "import_dcp"]

#: Bytes of tensors of one share: 256 MiB, four packs.
_SHARE_BYTES = 256 << 20


@dataclass
class _Share:
    """What is converted at once: boxes of tensors, and values that are no tensors."""

    boxes: list[tuple[str, ChunkStorageMetadata, int]] = field(default_factory=list)
    values: list[str] = field(default_factory=list)


def import_dcp(
    folder: str | os.PathLike[str],
    store: Store | str,
    target: str,
    *,
    tag: str | None = None,
    metadata: Mapping[str, str] | None = None,
    compress: bool | str = False,
    dedup: bool = True,
) -> CommitInfo:
    """Saves a checkpoint that DCP wrote into a folder as `target`, "project/run@step".

    The folder's description is a pickle: only what a description needs is made of it. Tensors are read as torch reads
    them with `weights_only`. Folders of saves without collectives, which DCP does not reshard, are joined.
    """
    store = Store(store) if isinstance(store, str) else store
    run, step = step_of(target)
    reader = FolderReader(folder)
    description = reader.read_metadata()
    with reading(lambda: Path(folder) / ".metadata"):
        shares = list(_shares(description.state_dict_metadata))
        path, structure = structure_file(description.planner_data)
    attempt = secrets.token_hex(8)
    for rank, share in enumerate(shares):
        planner = _Taken(description)
        with reading(lambda: Path(folder) / ".metadata"):
            plan = planner.plan(share)
        reader.read_data(plan, planner).wait()
        files = {path: structure} if rank == 0 else {}
        files.update(_value_file(name, data) for name, data in planner.values.items())
        store.save(
            run,
            step,
            planner.slices,
            rank=rank,
            world_size=len(shares),
            attempt=attempt,
            metadata=metadata,
            files=files,
            tag=tag,
            compress=compress,
            dedup=dedup,
            commit=False,
        )
    return store.commit(run, step, world_size=len(shares), attempt=attempt, tag=tag)


def export_dcp(store: Store | str, target: str, folder: str | os.PathLike[str]) -> list[str]:
    """Writes a checkpoint into an empty folder as DCP's own FileSystemReader loads it; returns the files.

    Tensors stay in the boxes that they were saved in. Files that are no part of a state dict stay in the store.
    """
    store = Store(store, create=False) if isinstance(store, str) else store
    checkpoint = store.checkpoint(target)
    description, left_out = describe(checkpoint)
    if left_out:
        raise InvalidError(
            f"{checkpoint.target}: torch {torch.__version__} has no type for the elements of {', '.join(left_out)}",
            hint="a newer torch may have; gigastore ckpt restore writes them as safetensors files",
        )
    try:
        return _export(checkpoint, description, Path(folder))
    except OSError as error:
        if isinstance(error, GigastoreError):
            raise
        hint = "name a folder that is not there yet, where there is room"
        raise StoreWriteError(f"{folder} can't be written: {error}", object=str(folder), hint=hint) from error


def _export(checkpoint: Checkpoint, description: Metadata, path: Path) -> list[str]:
    if path.exists() and not path.is_dir():
        raise ConflictError(f"{path} is no folder", hint="name a folder that is not there yet")
    if path.exists() and any(path.iterdir()):
        raise ConflictError(f"{path} is not empty", hint="name a folder that is not there yet")
    for name, entry in description.state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata):
            entry.chunks = _saved_chunks(checkpoint, name)
    shares = list(_shares(description.state_dict_metadata))
    planner = _Given(checkpoint, description)
    writer = FileSystemWriter(path)
    writer.set_up_storage_writer(True)
    writer.prepare_local_plan(SavePlan([]))
    plans = writer.prepare_global_plan([SavePlan(planner.items(share)) for share in shares])
    results = []
    for plan, share in zip(plans, shares, strict=True):
        planner.load(share)
        results.append(writer.write_data(plan, planner).wait())
    writer.finish(description, results)
    return sorted(str(file) for file in path.iterdir())


def _shares(entries: Mapping[str, STORAGE_TYPES]) -> Iterator[_Share]:
    """Cuts what a checkpoint holds into shares; there is one at least."""
    share, filled = _Share(), 0
    for name, entry in entries.items():
        if not isinstance(entry, TensorStorageMetadata):
            share.values.append(name)
            continue
        for i, chunk in enumerate(entry.chunks):
            size = prod(chunk.sizes) * entry.properties.dtype.itemsize
            if share.boxes and filled + size > _SHARE_BYTES:
                yield share
                share, filled = _Share(), 0
            share.boxes.append((name, chunk, i))
            filled += size
    yield share


class _Taken(LoadPlanner):
    """Takes what DCP reads out of a folder, box by box as it was saved."""

    def __init__(self, description: Metadata) -> None:
        self._entries = description.state_dict_metadata
        self.slices: dict[str, list[Slice]] = {}
        self.values: dict[str, bytes] = {}

    def plan(self, share: _Share) -> LoadPlan:
        """Returns what is read for a share."""
        none = torch.Size([0])
        items = [
            ReadItem(LoadItemType.BYTE_IO, MetadataIndex(name), none, MetadataIndex(name), none, none)
            for name in share.values
        ]
        for name, chunk, i in share.boxes:
            index, start = MetadataIndex(name, chunk.offsets, i), torch.Size([0] * len(chunk.sizes))
            items.append(ReadItem(LoadItemType.TENSOR, index, start, index, start, chunk.sizes))
        return LoadPlan(items)

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Takes a value that is no tensor."""
        self.values[read_item.dest_index.fqn] = value.getvalue()

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        """Returns the memory for a box."""
        name, offsets = read_item.dest_index.fqn, read_item.dest_index.offset
        entry = self._entries[name]
        assert isinstance(entry, TensorStorageMetadata) and offsets is not None, "the plan reads boxes of tensors"
        dtype = stored_dtype(name, entry.properties.dtype)
        start, sizes = stored_box(name, dtype, offsets, read_item.lengths)
        shape, _ = stored_box(name, dtype, entry.size, entry.size)
        tensor: torch.Tensor = empty(dtype, sizes, "cpu")[0]
        if 0 not in sizes or 0 in shape:
            self.slices.setdefault(name, []).append(Slice(tensor, shape, start, sizes, dtype))
        return tensor

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        """Does nothing: the box is where it belongs."""

    # What DCP's own loop would call; here a plan is made for each share.

    def set_up_planner(self, state_dict: Any, metadata: Any = None, is_coordinator: bool = False) -> None:
        """Does nothing: the description is known."""

    def create_local_plan(self) -> LoadPlan:
        """Returns a plan of nothing."""
        return LoadPlan([])

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """Returns the plans as they are."""
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """Returns the plan as it is."""
        return central_plan


def _value_file(name: str, data: bytes) -> tuple[str, bytes]:
    """Returns path and content of the file for a value: JSON where torch reads the value without its pickle."""
    with reading(lambda: f"the value of {name}"):
        try:
            value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            return objects.path_of(name, ".json"), objects.encode(name, value)
        except (pickle.UnpicklingError, objects.NotPlain):
            return objects.path_of(name, ".pt"), data


def _saved_chunks(checkpoint: Checkpoint, name: str) -> list[ChunkStorageMetadata]:
    dtype = checkpoint.tensors[name].dtype
    return [
        ChunkStorageMetadata(torch_shape(name, dtype, offsets), torch_shape(name, dtype, sizes))
        for offsets, sizes, _ in checkpoint.slices(name)
    ]


class _Given(SavePlanner):
    """Gives DCP's writer what is in a checkpoint, share by share."""

    def __init__(self, checkpoint: Checkpoint, description: Metadata) -> None:
        self._checkpoint, self._entries = checkpoint, description.state_dict_metadata
        self._tensors: dict[MetadataIndex, torch.Tensor] = {}
        self._values: dict[str, tuple[str, bytes]] = {}

    def items(self, share: _Share) -> list[WriteItem]:
        """Returns what DCP writes for a share."""
        items = [WriteItem(MetadataIndex(name), WriteItemType.BYTE_IO) for name in share.values]
        for name, chunk, i in share.boxes:
            entry = self._entries[name]
            assert isinstance(entry, TensorStorageMetadata), "only tensors have boxes"
            data = TensorWriteData(chunk, TensorProperties(dtype=entry.properties.dtype), entry.size)
            items.append(WriteItem(MetadataIndex(name, chunk.offsets, i), WriteItemType.SHARD, tensor_data=data))
        return items

    def load(self, share: _Share) -> None:
        """Reads what is in a share."""
        wanted: list[Wanted] = []
        self._tensors.clear()
        for name, chunk, i in share.boxes:
            dtype = self._checkpoint.tensors[name].dtype
            offsets, sizes = stored_box(name, dtype, chunk.offsets, chunk.sizes)
            tensor, memory = empty(dtype, sizes, "cpu")
            wanted.append((name, (offsets, sizes), memory))
            self._tensors[MetadataIndex(name, chunk.offsets, i)] = tensor
        self._checkpoint.read_into(wanted)
        paths = [value_path(self._checkpoint, name) for name in share.values]
        self._values = dict(zip(share.values, zip(paths, self._checkpoint.read_files(paths), strict=True), strict=True))

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        """Returns a tensor of the share, or bytes of torch.save."""
        if write_item.type != WriteItemType.BYTE_IO:
            return self._tensors[write_item.index]
        name = write_item.index.fqn
        path, text = self._values[name]
        if path.endswith(".pt"):
            return io.BytesIO(text)
        data = io.BytesIO()
        torch.save(value_of(name, path, text, False), data)
        return data

    def set_up_planner(self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False) -> None:
        """Does nothing: the checkpoint is known."""

    def create_local_plan(self) -> SavePlan:
        """Returns a plan of nothing: `items` makes one for each share."""
        return SavePlan([])

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """Refuses: each share has a plan of its own."""
        raise InvalidError("shares are planned one by one")

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        """Returns the plan as it is."""
        return new_plan
