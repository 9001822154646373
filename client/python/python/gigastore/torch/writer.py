"""DCP's storage writer: each rank's part of a state dict goes to the store, and one commit makes all of them visible.

Must never commit under another rank's attempt or another thread's target, and never copy what lies in order in memory
of the host: such tensors are read where they are.
"""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import StorageWriter as DcpStorageWriter
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future

from ..cursors import Data, cursors_of
from ..errors import InvalidError
from ..info import CommitInfo
from ..store import Store, _attempt
from ..tensors import Slice
from . import objects
from .items import file_of_item, memory_of_item, replicas_of
from .layout import stored_box, stored_dtype, structure_file
from .memory import Copies, HostArea
from .staging import Staging

__all__ = ["StorageWriter", "step_of"]

_TARGET = re.compile(r"(?:gigastore://)?([^/@]+/[^/@]+)@(\d+)")
#: Folders among a checkpoint's files that this module fills.
_OURS = (objects.FOLDER, "dcp/")

#: What DCP names the threads in which it saves in the background: what they save was staged by DCP, for that alone.
_DCP_THREAD = "AsyncCheckpointExecutor"

#: Attempts that this process has saved under.
_USED: set[str] = set()


@dataclass(frozen=True)
class _Drawn:
    """What the coordinator tells the ranks in their plans."""

    attempt: str
    world_size: int


class _Save(threading.local):
    """One save, from `set_up_storage_writer` to `finish`: DCP runs all of it in one thread, others in theirs."""

    #: What `reset` named for the next save.
    named: str | None = None
    target: str | None = None
    rank: int = 0
    coordinator: bool = True
    collective: bool = True
    drawn: _Drawn | None = None
    #: Where the data was when it began; none where it is of a stage, which knows.
    cursors: dict[str, str] | None = None
    #: Which save to this target it is of this rank, since the process group began.
    count: int = 0


class StorageWriter(DcpStorageWriter):
    """Saves through `dcp.save` and `dcp.async_save` into a store.

    `target` is "project/run@step"; where it is left out, DCP's `checkpoint_id` says it. Values that are no tensors are
    files of the checkpoint: JSON where it has a form for them, else bytes of torch.save. `attempt` and `world_size` are
    for saves with `use_collectives=False`: `attempt` where the ranks have no process group, whose store else tells this
    launch from others, `world_size` where only a group of some ranks saves.
    `data` is the data stream of this rank, or several by name, as for `Store.save`: its cursor is taken when `dcp.save` or
    `dcp.async_save` is called. Saves in the background need the writer as the stager then, and threads, not processes.
    As a stager it is a `Staging`: `dcp.async_save(state, storage_writer=writer)` copies into memory that is kept.
    """

    _synchronize_after_execute = False
    should_synchronize_after_execute = False

    def __init__(
        self,
        store: Store | str,
        target: str | None = None,
        *,
        attempt: str | None = None,
        world_size: int | None = None,
        metadata: Mapping[str, str] | None = None,
        data: Data | None = None,
        files: Mapping[str, bytes] | None = None,
        tag: str | None = None,
        compress: bool | str = False,
        dedup: bool = True,
        deadline: float = 600.0,
        staging: Staging | None = None,
    ) -> None:
        super().__init__()
        self.store = Store(store) if isinstance(store, str) else store
        if target is not None:
            step_of(target)
        for path in files or ():
            if path.startswith(_OURS):
                hint = "name it otherwise"
                raise InvalidError(f"file {path!r}: {' and '.join(_OURS)} hold the state dict", hint=hint)
        self._target, self._attempt, self._world_size = target, attempt, world_size
        self._metadata, self._files, self._tag = dict(metadata or {}), dict(files or {}), tag
        self._options: dict[str, Any] = {"compress": compress, "dedup": dedup, "deadline": deadline}
        self._data, self._staging = data, staging or Staging()
        self._reset_process()

    def _reset_process(self) -> None:
        self._area, self._lock, self._save = HostArea(), threading.Lock(), _Save()
        #: Memory of stages that are not saved yet: how often each had been taken then, and where the data was.
        self._staged: weakref.WeakKeyDictionary[HostArea, tuple[int, dict[str, str]]] = weakref.WeakKeyDictionary()
        #: What was committed last.
        self.committed: CommitInfo | None = None

    def __getstate__(self) -> dict[str, Any]:
        ours = ("_area", "_lock", "_save", "_staged", "committed")
        state = {name: value for name, value in vars(self).items() if name not in ours}
        # A stream is where it is in its own process alone.
        return {**state, "_data": None if self._data is None else _ELSEWHERE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset_process()

    # What DCP calls, in this order.

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Tells whether it is the form of a target, "project/run@step"."""
        return _TARGET.fullmatch(str(checkpoint_id)) is not None

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Names the target of this thread's next save; `None`: the writer's own."""
        if checkpoint_id is not None:
            step_of(str(checkpoint_id))
        self._save.named, self._save.target = None if checkpoint_id is None else str(checkpoint_id), None

    @property
    def checkpoint_id(self) -> str | None:
        """The target that is saved to."""
        return self._save.named or self._save.target or self._target

    def storage_meta(self) -> StorageMeta | None:
        """Begins a save, and says what DCP's logs call it."""
        # DCP resets only for saves that it was given a name for: a name holds for one save.
        self._save.target, self._save.named = self._save.named or self._target, None
        return StorageMeta(checkpoint_id=self.checkpoint_id)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Learns this rank's part in the save."""
        save = self._save
        save.coordinator, save.drawn = is_coordinator, None
        save.rank = int(kwargs.get("rank") or 0)
        save.collective = bool(kwargs.get("use_collectives", True))
        save.count = 0
        save.cursors = None if _in_background() else cursors_of(self._data)
        if not save.collective and dist.is_initialized():
            # Counted in the group's store, which lives as long as the launch, and before anything of the save can fail.
            save.count = dist.distributed_c10d._get_default_store().add(f"{self._key()}/{save.rank}", 1)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Refuses what can't be stored before any rank sends a byte."""
        step_of(self.checkpoint_id)
        for item in plan.items:
            if item.tensor_data is not None:
                stored_dtype(item.index.fqn, item.tensor_data.properties.dtype)
        if plan.usable:
            structure_file(plan.planner_data)
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Draws what tells this save from others at the same step, and tells it to all ranks."""
        save = self._save
        if save.collective:
            drawn = _Drawn(self._attempt or secrets.token_hex(8), len(plans))
            if self._world_size not in (None, len(plans)):
                raise InvalidError(f"world_size={self._world_size}, and {len(plans)} ranks take part in the save")
            if len(plans) > 1:
                # Ranks that cache their plan see an earlier draw in it: they ask the group's store, see `_drawn_for`.
                dist.distributed_c10d._get_default_store().set(self._key(), f"{drawn.attempt} {drawn.world_size}")
        else:
            world_size = self._world_size or (dist.get_world_size() if dist.is_initialized() else 1)
            if save.rank >= world_size:
                raise InvalidError(f"rank {save.rank} of a world of {world_size}", hint="ranks are counted from 0")
            drawn = _Drawn(self._attempt or self._agreed(world_size) or secrets.token_hex(8), world_size)
        save.drawn = drawn
        return [dataclasses.replace(plan, storage_data=drawn) for plan in plans]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Sends this rank's part."""
        save = self._save
        drawn = save.drawn = self._drawn_for(plan)
        run, step = step_of(self.checkpoint_id)
        path, structure = structure_file(plan.planner_data)
        files = {**(self._files if save.coordinator else {}), path: structure}
        tensors: list[tuple[WriteItem, torch.Tensor]] = []
        for item in plan.items:
            if item.type == WriteItemType.BYTE_IO:
                path, data = file_of_item(item, planner)
                files[path] = data
            else:
                tensors.append((item, memory_of_item(item, planner)))
        area, copies = self._copies(tensors)
        try:
            slices = self._slices(tensors, copies, planner, drawn)
            cursors = self._cursors([tensor for _, tensor in tensors], planner)
            self.store.save(
                run,
                step,
                slices,
                rank=save.rank,
                world_size=drawn.world_size,
                attempt=drawn.attempt,
                metadata=self._metadata,
                data=cursors,
                files=files,
                tag=self._tag,
                commit=False,
                **self._options,
            )
        finally:
            # The frames of a fault that somebody keeps would else keep the memory.
            if area is not None:
                area.give_back()
            self._give_back([tensor for _, tensor in tensors])
        found: Future[list[WriteResult]] = Future()
        sizes = {item.index: tensor.nbytes for item, tensor in tensors}
        found.set_result([WriteResult(item.index, sizes.get(item.index, 0), None) for item in plan.items])
        return found

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Commits: with collectives the coordinator, else every rank, and the first to find all parts there does."""
        drawn = self._save.drawn
        assert drawn is not None, "DCP calls write_data before finish"
        run, step = step_of(self.checkpoint_id)
        self.committed = self.store.commit(
            run,
            step,
            world_size=drawn.world_size,
            attempt=drawn.attempt,
            tag=self._tag,
            deadline=self._options["deadline"],
        )

    # What DCP calls of a stager.

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Copies a state dict into memory that is kept: see `Staging`."""
        cursors = cursors_of(self._data)
        found, area = self._staging._stage(state_dict)
        with self._lock:
            self._staged[area] = area.taken, cursors
        return found

    def synchronize_staging(self) -> None:
        """Does nothing: `stage` returns when the copy is there."""

    def close(self) -> None:
        """Gives the memory of stages back."""
        self._staging.close()

    # The rest is ours.

    def _key(self) -> str:
        return f"gigastore/{self.checkpoint_id}"

    def _agreed(self, world_size: int) -> str | None:
        """Returns what tells a save without collectives from others: what the first rank to come drew, none waits."""
        if world_size == 1 or not self._save.count or world_size > dist.get_world_size():
            return _attempt(None, world_size)
        # Not what the launcher tells: a job that is started again by hand may have the same id.
        store = dist.distributed_c10d._get_default_store()
        agreed: bytes = store.compare_set(f"{self._key()}/save {self._save.count}", "", secrets.token_hex(8))
        return agreed.decode()

    def _drawn_for(self, plan: SavePlan) -> _Drawn:
        """Returns what the coordinator drew for this save: a plan that DCP has cached tells of an earlier one."""
        save, drawn = self._save, plan.storage_data
        if save.drawn is not None:
            drawn = save.drawn
        elif not isinstance(drawn, _Drawn) or drawn.attempt in _USED:
            attempt, world_size = dist.distributed_c10d._get_default_store().get(self._key()).decode().split()
            drawn = _Drawn(attempt, int(world_size))
        _USED.add(drawn.attempt)
        return drawn

    def _give_back(self, tensors: list[torch.Tensor]) -> None:
        """Gives the memory of a stage back that DCP made for this save alone: nobody else has its tensors."""
        if not _in_background():
            return
        with self._lock:
            for area in self._stages_of(tensors):
                del self._staged[area]
                area.give_back()

    def _stages_of(self, tensors: list[torch.Tensor]) -> list[HostArea]:
        """Returns the stages that tensors are of."""
        return [area for area, (taken, _) in self._staged.items() if area.taken == taken and area.holds(tensors)]

    def _cursors(self, tensors: list[torch.Tensor], planner: SavePlanner) -> dict[str, str]:
        """Returns where the data was when what is saved was staged, or else when the save began."""
        if self._data is None:
            return {}
        if not tensors:
            # DCP gave all of this rank's tensors to other ranks, which hold the same.
            state = getattr(planner, "state_dict", {}).values()
            local = (one.to_local() if isinstance(one, DTensor) else one for one in state)
            tensors = [one for one in local if isinstance(one, torch.Tensor)]
        with self._lock:
            for area in self._stages_of(tensors):
                return self._staged[area][1]
        if self._save.cursors is None:
            hint = "with data=, let this writer stage: dcp.async_save(state, storage_writer=writer), no async_stager"
            raise InvalidError("nothing tells where the data was when this save began", hint=hint)
        return self._save.cursors

    def _copies(
        self, tensors: list[tuple[WriteItem, torch.Tensor]]
    ) -> tuple[HostArea | None, dict[int, torch.Tensor]]:
        """Copies tensors that are on a device or out of order: the memory, and the copies by their places."""
        copies = Copies()
        moved = {
            i: copies.plan(item.index.fqn, tensor)
            for i, (item, tensor) in enumerate(tensors)
            if not (tensor.is_cpu and tensor.layout == torch.strided and tensor.is_contiguous())
        }
        if not moved:
            return None, {}
        with self._lock:
            area = self._area if self._area.free else HostArea()
            made = copies.make(area.take)
        return area, {i: made[number] for i, number in moved.items()}

    def _slices(
        self,
        tensors: list[tuple[WriteItem, torch.Tensor]],
        copies: Mapping[int, torch.Tensor],
        planner: SavePlanner,
        drawn: _Drawn,
    ) -> dict[str, list[Slice]]:
        """Returns what the store saves: copies where there are any, other tensors where they lie."""
        slices: dict[str, list[Slice]] = {}
        for i, (item, tensor) in enumerate(tensors):
            name, data = item.index.fqn, item.tensor_data
            assert data is not None, "DCP describes each tensor"
            if 0 in data.chunk.sizes and 0 not in data.size:
                # An empty box of a tensor that has elements: what uneven sharding leaves to the last ranks.
                continue
            dtype = stored_dtype(name, tensor.dtype)
            offsets, sizes = stored_box(name, dtype, data.chunk.offsets, data.chunk.sizes)
            shape, _ = stored_box(name, dtype, data.size, data.size)
            held = copies.get(i, tensor)
            if held.shape != data.chunk.sizes:
                text = f"{name} has shape {list(held.shape)}, and {list(data.chunk.sizes)} in DCP's plan"
                raise InvalidError(text, object=name)
            replicas = () if self._save.collective else replicas_of(planner, name, self._save.rank, drawn.world_size)
            slices.setdefault(name, []).append(Slice(held, shape, offsets, sizes, dtype, replicas))
        return slices


class _Elsewhere:
    """What stands for data streams of another process."""

    def cursor(self) -> str:
        hint = "save in the background in threads, or save without data="
        raise InvalidError("a process that DCP made for saves does not know where the data is", hint=hint)


_ELSEWHERE = _Elsewhere()


def _in_background() -> bool:
    return threading.current_thread().name.startswith(_DCP_THREAD)


def step_of(target: str | None) -> tuple[str, int]:
    """Returns run and step of a target."""
    found = _TARGET.fullmatch(target or "")
    if found is None:
        raise InvalidError(
            f"{target!r} is no target to save to" if target else "nothing says where to save",
            hint="expected project/run@step, such as demo/run@100, as target= or as checkpoint_id=",
        )
    return found[1], int(found[2])
