"""Stages state dicts for saves in the background: what a trainer stands still for.

Must never let a later step of the trainer change what is being saved: tensors and all other values are copied.
"""

from __future__ import annotations

import copy
import gc
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.distributed._shard.sharded_tensor.api import ShardedTensor, ShardedTensorBase
from torch.distributed._shard.sharded_tensor.shard import Shard
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.tensor import DTensor

from .._arguments import kind_of
from ..errors import InvalidError, UnavailableError
from .memory import PLAIN, Copies, HostArea

__all__ = ["Staging"]

#: How often a stage that waits for memory looks for it: a hundredth of a second is nothing beside a save.
_POLL = 0.01


class Staging(AsyncStager):
    """Stages state dicts for `dcp.async_save` in memory that is kept between saves: the trainer stops for one copy.

    The first `stage` takes the memory: one before the training begins, its result dropped, spares the first step that.
    Structure stays as it is: nested containers, DTensor, ShardedTensor; what is no tensor is copied too. While the save
    before still reads its copy, a second one is made beside it (`states` is how many there may be); past that `stage`
    waits, for `deadline` seconds at most. Copies of tensors are on the CPU whatever device they came from. `shared`: in
    memory that other processes see, for `AsyncCheckpointerType.PROCESS`; else torch moves it there at the first save.
    """

    _synchronize_after_execute = False

    def __init__(self, *, states: int = 2, shared: bool = False, deadline: float = 600.0) -> None:
        if states < 1:
            raise InvalidError(f"states={states}: there must be memory for one state")
        self._areas: list[HostArea] = []
        self._states, self._shared, self._deadline = states, shared, deadline
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_staging, (self._states, self._shared, self._deadline))

    @property
    def bytes(self) -> int:
        """Bytes of host memory that are kept."""
        return sum(area.bytes for area in self._areas)

    @torch.no_grad()
    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Returns a copy of a state dict that later steps of the trainer do not change.

        It stays as it is as long as any tensor of it is there: a save that failed may be tried again with it.
        """
        return self._stage(state_dict)[0]

    def _stage(self, state_dict: dict[str, Any]) -> tuple[dict[str, Any], HostArea]:
        """Returns the copy, and the memory that it is in: who has all of its tensors may give that back."""
        copies, areas = Copies(), list[HostArea]()

        def take(size: int) -> torch.Tensor:
            areas.append(self._free_area())
            return areas[0].take(size)

        try:
            build = _plan(copies, "", state_dict, set())
        except RecursionError as error:
            raise InvalidError("the state dict is nested too deeply", hint="flatten it") from error
        with self._lock:
            made = copies.make(take)
        found = build(made)
        assert isinstance(found, dict)
        return found, areas[0]

    def synchronize_staging(self) -> None:
        """Does nothing: `stage` returns when the copy is there."""

    def close(self) -> None:
        """Gives the memory back; that of saves under way goes when they end."""
        with self._lock:
            self._areas.clear()

    def _free_area(self) -> HostArea:
        for area in self._areas:
            if area.free:
                return area
        if self._areas:
            # What failed may be kept by cycles of its traceback.
            gc.collect()
        end = time.monotonic() + self._deadline
        while True:
            for area in self._areas:
                if area.free:
                    return area
            if len(self._areas) < self._states:
                self._areas.append(HostArea(self._shared))
                return self._areas[-1]
            if time.monotonic() > end:
                raise UnavailableError(
                    f"all {self._states} staged states are still being saved after {self._deadline} s",
                    hint="wait for the future of an earlier dcp.async_save, and drop it, before the next one",
                )
            time.sleep(_POLL)


#: Types of values that nobody can change: most of what is no tensor.
_ATOMS = (bool, int, float, str, bytes, type(None))
#: Attributes in which DCP finds the boxes of a larger tensor that a plain one holds.
_BOXES = ("global_shape", "global_offsets", "local_offsets", "local_sizes")
#: Makes a value from the copies of all tensors.
_Build = Callable[[list[torch.Tensor]], Any]


def _plan(copies: Copies, name: str, value: Any, above: set[int]) -> _Build:
    """Plans the copy of a value, and returns what makes it."""
    if isinstance(value, torch.Tensor):
        return _plan_tensor(copies, name, value)
    if type(value) in _ATOMS:
        return lambda _: value
    if not isinstance(value, Mapping | list | tuple):
        try:
            copied = copy.deepcopy(value)
        except Exception as error:
            text = f"{name}: {kind_of(value)} can't be copied: {error}"
            raise InvalidError(text, object=name, hint="take it out of the state dict") from error
        return lambda _: copied
    if id(value) in above:
        raise InvalidError(f"{name} holds itself: a state dict has no cycles", object=name)
    inner = above | {id(value)}
    label = f"{name}." if name else ""
    if isinstance(value, Mapping):
        kind: type = OrderedDict if isinstance(value, OrderedDict) else dict
        pairs = [(key, _plan(copies, f"{label}{key}", item, inner)) for key, item in value.items()]
        return lambda made: kind((key, build(made)) for key, build in pairs)
    items = [_plan(copies, f"{label}{i}", item, inner) for i, item in enumerate(value)]
    if isinstance(value, list):
        return lambda made: [build(made) for build in items]
    of, cls = getattr(type(value), "_make", None), type(value)
    return lambda made: (of or cls)(build(made) for build in items)


def _plan_tensor(copies: Copies, name: str, tensor: torch.Tensor) -> _Build:
    # By their very type: a parameter that is a DTensor calls itself a Parameter too.
    if type(tensor) in PLAIN:
        return _plan_plain(copies, name, tensor)
    if isinstance(tensor, DTensor):
        number = copies.plan(name, tensor._local_tensor)
        return lambda made: _distributed(tensor, made[number])
    if isinstance(tensor, ShardedTensor):
        shards = [(shard.metadata, copies.plan(name, shard.tensor)) for shard in tensor.local_shards()]
        return lambda made: _sharded(tensor, [Shard(made[number], metadata) for metadata, number in shards])
    # A subclass with insides of its own: torch alone knows how to copy it.
    copied = tensor.detach().to("cpu", copy=True)
    return lambda _: copied


def _plan_plain(copies: Copies, name: str, tensor: torch.Tensor) -> _Build:
    number = copies.plan(name, tensor)
    if not hasattr(tensor, _BOXES[0]):
        return lambda made: made[number]
    attributes = {key: value for key, value in vars(tensor).items() if key in _BOXES}

    def build(made: list[torch.Tensor]) -> torch.Tensor:
        # An alias: tied tensors share a copy, and may stand for other boxes.
        alias = made[number].detach()
        vars(alias).update(attributes)
        return alias

    return build


def _distributed(tensor: DTensor, local: torch.Tensor) -> DTensor:
    """Returns a DTensor that differs from another in its local tensor."""
    # Not from_local: that would move the copy to the device of the mesh. Nor made of `local` itself, whose place in its
    # memory torch takes over: it would not know such a DTensor for one when it is sent to another process.
    blank = torch.empty((), dtype=local.dtype).expand(local.shape)
    found = DTensor(blank, tensor._spec, requires_grad=False)
    found._local_tensor = local
    return found


def _sharded(tensor: ShardedTensor, shards: list[Shard]) -> ShardedTensor:
    """Returns a sharded tensor that differs from another in the memory of its local shards."""
    properties = tensor.metadata().tensor_properties
    found: ShardedTensor = ShardedTensorBase.__new__(
        ShardedTensor,
        tensor.sharding_spec(),
        tensor.size(),
        dtype=properties.dtype,
        layout=properties.layout,
        pin_memory=False,
        requires_grad=False,
        strides=properties.strides,
    )
    vars(found).update(vars(tensor))
    found._sharded_tensor_id = None
    found._local_shards = shards
    return found


def _staging(states: int, shared: bool, deadline: float) -> Staging:
    return Staging(states=states, shared=shared, deadline=deadline)
