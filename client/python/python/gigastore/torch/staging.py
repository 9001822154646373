"""Host memory that is kept between saves, and the copy of a state dict into it: what a trainer stands still for.

Must never hand memory out again while anything may still read it: an area is free when the save that reads it said that
its bytes are stored, or when no tensor refers to it any more.
"""

from __future__ import annotations

import copy
import gc
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensorBase
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.tensor import DTensor

from .. import _native
from ..errors import InvalidError, UnavailableError
from .layout import as_bits

__all__ = ["HostArea", "Staging", "release"]

#: Tensors begin at a cache line: the widest loads of hashing and copying stay within one.
_ALIGNMENT = 64
#: How often a stage that waits for memory looks for it: a hundredth of a second is nothing beside a save.
_POLL = 0.01


class HostArea:
    """Memory of the host for tensors, kept until a larger state needs more; pinned where CUDA is there."""

    def __init__(self, shared: bool = False) -> None:
        self._shared = shared
        self._flat = torch.empty(0, dtype=torch.uint8)
        self._alone = 0
        self._leased = False
        self._unpin: Callable[[], object] | None = None

    def _storage(self) -> int:
        return self._flat.untyped_storage()._cdata

    @property
    def bytes(self) -> int:
        """How large it is."""
        return self._flat.numel()

    @property
    def free(self) -> bool:
        """Tells whether nobody reads it any more."""
        return not self._leased or torch._C._storage_Use_Count(self._storage()) <= self._alone

    def take(self, size: int) -> torch.Tensor:
        """Returns `size` bytes of it as a flat tensor, of any content. It is not free until `give_back`, or until no
        tensor made from what this returned is left."""
        if self._flat.numel() < size:
            self._grow(size)
        self._leased = True
        return self._flat[:size]

    def give_back(self) -> None:
        """Says that what was put into it is stored."""
        self._leased = False

    def _grow(self, size: int) -> None:
        _AREAS.pop(self._storage(), None)
        if self._unpin is not None:
            self._unpin()
        # The old memory goes before the new comes: a host seldom has room for both.
        self._flat = torch.empty(0, dtype=torch.uint8)
        if self._shared:
            storage = torch.UntypedStorage._new_shared(size, device="cpu")
            self._flat = torch.empty(0, dtype=torch.uint8).set_(storage)
        else:
            self._flat = torch.frombuffer(_native.Memory(size), dtype=torch.uint8)
        if torch.cuda.is_available():
            self._pin()
        self._alone = torch._C._storage_Use_Count(self._storage())
        _AREAS[self._storage()] = self

    def _pin(self) -> None:
        import torch.cuda._pin_memory_utils as pinning

        flat, address = self._flat, self._flat.data_ptr()
        pinning.pin_memory(address, flat.nbytes)
        self._unpin = weakref.finalize(self, pinning.unpin_memory, address)
        self._unpin.atexit = False  # type: ignore[attr-defined]


_AREAS: weakref.WeakValueDictionary[int, HostArea] = weakref.WeakValueDictionary()


def release(tensors: Iterable[torch.Tensor]) -> None:
    """Says that the bytes of tensors are stored: areas that they lie in may be used again."""
    for storage in {tensor.untyped_storage()._cdata for tensor in tensors}:
        area = _AREAS.get(storage)
        if area is not None:
            area.give_back()


class Copies:
    """Copies of tensors, planned first and made at once: contiguous ones of the host by one parallel copy."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], int] = {}
        self._sources: list[torch.Tensor] = []

    def plan(self, name: str, tensor: torch.Tensor) -> int:
        """Plans the copy of a plain tensor, and returns its number. The same memory is copied once."""
        if tensor.is_meta:
            raise InvalidError(f"{name}: a tensor on the meta device has no bytes", hint="materialise it: to_empty()")
        if tensor.layout != torch.strided or tensor.is_quantized:
            what = "a quantized tensor" if tensor.is_quantized else f"a tensor of layout {tensor.layout}"
            raise InvalidError(f"{name}: {what} has no row-major bytes", hint="convert it first: to_dense(), dequantize()")
        tensor = tensor.detach()
        if tensor.is_conj() or tensor.is_neg():
            tensor = tensor.resolve_conj().resolve_neg()
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        number = self._known.setdefault(key, len(self._sources))
        if number == len(self._sources):
            self._sources.append(tensor)
        return number

    def make(self, area: Callable[[int], torch.Tensor]) -> list[torch.Tensor]:
        """Makes the copies in memory that `area` gives for a number of bytes; returns them by number."""
        order = sorted(range(len(self._sources)), key=lambda i: not self._plain(self._sources[i]))
        starts, gathered, end = {}, 0, 0
        for i in order:
            starts[i] = end
            end += -(-self._sources[i].nbytes // _ALIGNMENT) * _ALIGNMENT
            gathered = end if self._plain(self._sources[i]) else gathered
        flat = area(end)
        copies = [self._place(flat, starts[i], source) for i, source in enumerate(self._sources)]
        self._gather([self._sources[i] for i in order if self._plain(self._sources[i])], flat[:gathered])
        devices = set()
        for source, found in zip(self._sources, copies, strict=True):
            if not self._plain(source):
                as_bits(found).copy_(as_bits(source), non_blocking=True)
                devices.add(source.device)
        for device in devices:
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
        return copies

    @staticmethod
    def _plain(tensor: torch.Tensor) -> bool:
        return tensor.device.type == "cpu" and tensor.is_contiguous()

    @staticmethod
    def _place(flat: torch.Tensor, start: int, source: torch.Tensor) -> torch.Tensor:
        return flat[start : start + source.nbytes].view(source.dtype).reshape(source.shape)

    @staticmethod
    def _gather(sources: list[torch.Tensor], into: torch.Tensor) -> None:
        parts: list[Any] = []
        for source in sources:
            if source.nbytes:
                parts.append(source.reshape(-1).view(torch.uint8).numpy())
                parts.append(bytes(-source.nbytes % _ALIGNMENT))
        if parts:
            _native.gather(parts, into.numpy())


class Staging(AsyncStager):
    """Stages state dicts for `dcp.async_save` in memory that is kept between saves: the trainer stops for one copy.

    Structure stays as it is: nested containers, DTensor, ShardedTensor; what is no tensor is copied too. While the save
    before still reads its copy, a second one is made beside it (`states` is how many there may be); past that `stage`
    waits, for `deadline` seconds at most. Copies of tensors are on the CPU whatever device they came from. `shared`: in
    memory that other processes see too, for `AsyncCheckpointerType.PROCESS`; else torch moves it there at the first save.
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
        """Returns a copy of a state dict that later steps of the trainer do not change."""
        copies = Copies()
        build = _plan(copies, "", state_dict, set())
        with self._lock:
            made = copies.make(lambda size: self._free_area().take(size))
        found = build(made)
        assert isinstance(found, dict)
        return found

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
                    hint="wait for the future of an earlier dcp.async_save before the next one",
                )
            time.sleep(_POLL)


#: Makes a value from the copies of all tensors.
_Build = Callable[[list[torch.Tensor]], Any]


def _plan(copies: Copies, name: str, value: Any, above: set[int]) -> _Build:
    """Plans the copy of a value, and returns what makes it."""
    if isinstance(value, torch.Tensor):
        return _plan_tensor(copies, name, value)
    if not isinstance(value, Mapping | list | tuple):
        try:
            copied = copy.deepcopy(value)
        except Exception as error:
            text = f"{name}: a {type(value).__qualname__} can't be copied: {error}"
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
    if isinstance(tensor, DTensor):
        number = copies.plan(name, tensor._local_tensor)
        return lambda made: _distributed(tensor, made[number])
    if isinstance(tensor, ShardedTensor):
        shards = [(shard.metadata, copies.plan(name, shard.tensor)) for shard in tensor.local_shards()]
        return lambda made: _sharded(tensor, [Shard(made[number], metadata) for metadata, number in shards])
    if type(tensor) is not torch.Tensor and not isinstance(tensor, torch.nn.Parameter | torch.nn.Buffer):
        # A subclass with insides of its own: torch alone knows how to copy it.
        copied = tensor.detach().to("cpu", copy=True)
        return lambda _: copied
    number = copies.plan(name, tensor)
    attributes = dict(vars(tensor))

    def build(made: list[torch.Tensor]) -> torch.Tensor:
        if not attributes:
            return made[number]
        # DCP finds boxes of checkpointable tensors in their attributes; an alias, as tied tensors share a copy.
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
    found = ShardedTensorBase.__new__(
        ShardedTensor, tensor.sharding_spec(), tensor.size(), dtype=properties.dtype, layout=properties.layout
    )
    vars(found).update(vars(tensor))
    found._sharded_tensor_id = None
    found._local_shards = shards
    return found


def _staging(states: int, shared: bool, deadline: float) -> Staging:
    return Staging(states=states, shared=shared, deadline=deadline)
