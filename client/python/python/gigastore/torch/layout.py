"""How torch and the store describe the same tensor: types, boxes, and the structure of a nested state dict.

torch counts an element of two 4-bit floats once, the store (as safetensors does) twice. Must never guess: a type or a
structure that the store has no form for is refused, by name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..errors import IntegrityError, InvalidError
from ..tensors import _FROM_TORCH, _TORCH

__all__ = ["Box", "as_bits", "paths_of", "stored_box", "stored_dtype", "structure_file", "torch_shape", "torch_type"]

#: Offsets and sizes.
Box = tuple[list[int], list[int]]

#: Where the structures of state dicts are among the files of a checkpoint.
STRUCTURE = re.compile(r"dcp/structure-[0-9a-f]{16}\.json")
#: Types of as many bits, whose values are copied without a look at them.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def stored_dtype(name: str, dtype: torch.dtype) -> str:
    """Returns the store's name of a type of torch's."""
    found = _FROM_TORCH.get(str(dtype))
    if found is None:
        known = ", ".join(sorted(str(one) for one in _FROM_TORCH))
        raise InvalidError(
            f"{name}: torch's type {dtype} can't be stored", object=name, hint=f"convert it to one of {known}"
        )
    return found


def torch_type(dtype: str) -> torch.dtype | None:
    """Returns torch's type of elements that the store calls `dtype`; `None` where this torch has none."""
    found = getattr(torch, _TORCH.get(dtype, ""), None)
    return found if isinstance(found, torch.dtype) else None


def _scaled(name: str, dtype: str, numbers: Sequence[int], up: bool) -> list[int]:
    found = [int(number) for number in numbers]
    if dtype != "F4":
        return found
    if not found or (not up and found[-1] % 2):
        raise InvalidError(f"{name}: 4-bit floats come in pairs along the last dimension, the shape is {found}")
    found[-1] = found[-1] * 2 if up else found[-1] // 2
    return found


def stored_box(name: str, dtype: str, offsets: Sequence[int], sizes: Sequence[int]) -> Box:
    """Returns the store's numbers of a box of torch's."""
    return _scaled(name, dtype, offsets, up=True), _scaled(name, dtype, sizes, up=True)


def torch_shape(name: str, dtype: str, shape: Sequence[int]) -> torch.Size:
    """Returns torch's numbers of a shape, or of offsets, of the store's."""
    return torch.Size(_scaled(name, dtype, shape, up=False))


def as_bits(tensor: torch.Tensor) -> torch.Tensor:
    """Views a tensor as one of plain integers, so that a copy keeps every bit and needs no arithmetic of its type."""
    kind = _BITS.get(tensor.dtype.itemsize)
    return tensor if kind is None or tensor.is_conj() or tensor.is_neg() else tensor.view(kind)


def structure_file(planner_data: Any) -> tuple[str, bytes]:
    """Returns path and content of the file that tells where in the nested state dict each name was.

    The path is named by its content: ranks with the same structure deliver the same file, others another.
    """
    if not isinstance(planner_data, Mapping | None):
        raise InvalidError(
            f"data of a planner of type {type(planner_data).__qualname__} can't be stored",
            hint="expected a mapping of names to paths, as DefaultSavePlanner makes it",
        )
    paths: dict[str, list[str | int]] = {}
    for name, path in (planner_data or {}).items():
        if type(name) is not str or not all(type(key) in (str, int) for key in path):
            raise InvalidError(f"{name!r} at {path!r}: paths of a state dict are made of str and int")
        if list(path) != [name]:
            paths[name] = list(path)
    text = json.dumps({"version": 1, "paths": paths}, separators=(",", ":"), sort_keys=True).encode()
    return f"dcp/structure-{hashlib.blake2b(text, digest_size=8).hexdigest()}.json", text


def paths_of(names: Iterable[str], structures: Mapping[str, bytes]) -> dict[str, tuple[str | int, ...]]:
    """Returns where in the nested state dict each name was, of all structures that ranks delivered."""
    found: dict[str, tuple[str | int, ...]] = {name: (name,) for name in names}
    for file, text in structures.items():
        try:
            parsed = json.loads(text)
            version = parsed["version"]
            paths = {name: _path(path) for name, path in parsed["paths"].items()} if version == 1 else {}
        except Exception as error:
            # The text is verified, but who wrote it may have written anything.
            said = f"{type(error).__name__}: {error}"
            raise IntegrityError(f"{file} is no structure of a state dict: {said}", object=file) from error
        if version != 1:
            raise InvalidError(f"{file} has version {version}, this package knows 1", hint="install a newer gigastore")
        found.update({name: path for name, path in paths.items() if name in found})
    return found


def _path(parts: Any) -> tuple[str | int, ...]:
    if type(parts) is not list or not parts or not all(type(part) in (str, int) for part in parts):
        raise ValueError(f"{parts!r} is no path, which is made of names and indices")
    return tuple(parts)
