"""Memory of the host that is kept, and copies of tensors into it.

Must never hand memory out again while anything may still read it: an area is free when no tensor refers to it any more,
or when the one who alone has its tensors said that nobody will read them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch

from .. import _native
from ..errors import InvalidError
from .layout import as_bits

__all__ = ["PLAIN", "Copies", "HostArea", "room"]

#: Types of tensors that are nothing but memory with a shape.
PLAIN = (torch.Tensor, torch.nn.Parameter)

#: Tensors begin at a cache line: the widest loads of hashing and copying stay within one.
_ALIGNMENT = 64


def room(size: int) -> int:
    """Returns the bytes that a tensor of so many takes up in an area."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class HostArea:
    """Memory of the host for tensors, kept until a larger state needs more; pinned where CUDA is there."""

    def __init__(self, shared: bool = False) -> None:
        self._shared = shared
        self._flat = torch.empty(0, dtype=torch.uint8)
        self._alone = 0
        self._leased = False
        #: How often it was taken.
        self.taken = 0
        self._unpin: Callable[[], object] | None = None

    def _storage(self) -> int:
        return int(self._flat.untyped_storage()._cdata)

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
        self._leased, self.taken = True, self.taken + 1
        return self._flat[:size]

    def give_back(self) -> None:
        """Says that nobody will read what was put into it."""
        self._leased = False

    def holds(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Tells whether any of the tensors lies in it."""
        return any(tensor.untyped_storage()._cdata == self._storage() for tensor in tensors)

    def _grow(self, size: int) -> None:
        if self._unpin is not None:
            self._unpin()
        # The old memory goes before the new comes: a host seldom has room for both.
        self._flat = torch.empty(0, dtype=torch.uint8)
        if self._shared:
            storage = torch.UntypedStorage._new_shared(size, device="cpu")  # type: ignore[no-untyped-call]
            self._flat = torch.empty(0, dtype=torch.uint8).set_(storage)
        else:
            self._flat = torch.frombuffer(_native.Memory(size), dtype=torch.uint8)
        if torch.cuda.is_available():
            self._pin()
        self._alone = torch._C._storage_Use_Count(self._storage())

    def _pin(self) -> None:
        import torch.cuda._pin_memory_utils as pinning

        flat, address = self._flat, self._flat.data_ptr()
        pinning.pin_memory(address, flat.nbytes)
        unpin = weakref.finalize(self, pinning.unpin_memory, address)
        unpin.atexit = False
        self._unpin = unpin


class Copies:
    """Copies of tensors, planned first and made at once: contiguous ones of the host by one parallel copy."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], int] = {}
        #: Each tensor, and whether it lies in order in memory of the host.
        self._sources: list[tuple[torch.Tensor, bool]] = []

    def plan(self, name: str, tensor: torch.Tensor) -> int:
        """Plans the copy of a plain tensor, and returns its number. The same memory is copied once."""
        if tensor.is_meta:
            raise InvalidError(f"{name}: a tensor on the meta device has no bytes", hint="materialise it: to_empty()")
        if tensor.layout != torch.strided or tensor.is_quantized:
            what = "a quantized tensor" if tensor.is_quantized else f"a tensor of layout {tensor.layout}"
            raise InvalidError(f"{name}: {what} has no row-major bytes", hint="pass tensor.to_dense() or .dequantize()")
        tensor = tensor.detach()
        if tensor.is_conj() or tensor.is_neg():
            tensor = tensor.resolve_conj().resolve_neg()
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.get_device())
        number = self._known.setdefault(key, len(self._sources))
        if number == len(self._sources):
            self._sources.append((tensor, tensor.is_cpu and tensor.is_contiguous()))
        return number

    def make(self, area: Callable[[int], torch.Tensor]) -> list[torch.Tensor]:
        """Makes the copies in memory that `area` gives for a number of bytes; returns them by number."""
        starts, end, gathered = [0] * len(self._sources), 0, 0
        # What is gathered comes first and lies together.
        for in_order in (True, False):
            for number, (source, ordered) in enumerate(self._sources):
                if ordered is in_order:
                    starts[number], end = end, end + room(source.nbytes)
            gathered = end if in_order else gathered
        flat = area(end)
        _gather([source for source, ordered in self._sources if ordered], flat[:gathered])
        copies, devices = [], set()
        for (source, ordered), start in zip(self._sources, starts, strict=True):
            copy = flat[start : start + source.nbytes].view(source.dtype).view(source.shape)
            copies.append(copy)
            if not ordered:
                as_bits(copy).copy_(as_bits(source), non_blocking=True)
                devices.add(source.device)
        for device in devices:
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
        return copies


def _gather(sources: list[torch.Tensor], into: torch.Tensor) -> None:
    """Copies tensors one after another, each from the start of a cache line on."""
    parts: list[Any] = []
    for source in sources:
        size = source.nbytes
        if size:
            # Not reshape: a tensor of one element may keep a stride of its own, over which torch sees no bytes.
            parts.append(source.as_strided((source.numel(),), (1,)).view(torch.uint8).numpy())
            if room(size) > size:
                parts.append(bytes(room(size) - size))
    if parts:
        destination: Any = into.numpy()
        _native.gather(parts, destination)
