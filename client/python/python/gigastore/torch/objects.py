"""Values of a state dict that are not tensors, as JSON text, and back: exactly, types included.

Plain values are plain JSON. What JSON has no form for is an object of one key that begins with `$`: `{"$tuple": [0.9,
0.999]}`. Must never read or write a pickle: a value that has no form here is somebody else's to store.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .._arguments import with_article
from ..errors import IntegrityError, InvalidError

__all__ = ["NotPlain", "decode", "encode", "name_of", "path_of"]

#: Where values are among the files of a checkpoint.
FOLDER = "objects/"

# What a path can't hold, and the character that stands for it.
_ESCAPED = re.compile(r"[%/\\\x00-\x1f\x7f-\x9f]")
_ESCAPE = re.compile(r"%([0-9A-F]{2})")
#: Kinds of numpy's types whose bytes mean the same everywhere: truth values, integers, floats, complex numbers.
_ARRAY_KINDS = "biufc"


class NotPlain(Exception):
    """A value that has no form in JSON."""


def path_of(name: str, suffix: str) -> str:
    """Returns the path of the file that holds the value of a name."""
    return FOLDER + _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", name) + suffix


def name_of(path: str) -> tuple[str, str] | None:
    """Returns the name whose value a file holds, and the suffix of its path; `None` where it is another file."""
    if not path.startswith(FOLDER):
        return None
    for suffix in (".json", ".pt"):
        if path.endswith(suffix):
            inner = path[len(FOLDER) : -len(suffix)]
            return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), inner), suffix
    return None


def encode(name: str, value: Any) -> bytes:
    """Returns the JSON text of a value; raises `NotPlain` where it has none, `InvalidError` where it holds itself."""
    try:
        plain = _encode(name, value, set())
        return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode()
    except (RecursionError, ValueError) as error:
        if isinstance(error, InvalidError):
            raise
        # Nested past what the interpreter follows, or an integer of thousands of digits.
        raise NotPlain(str(error)) from error


def decode(name: str, text: bytes) -> Any:
    """Returns the value that `encode` was given."""
    try:
        return _decode(json.loads(text))
    except Exception as error:
        # The text is verified, but who wrote it may have written anything.
        raise IntegrityError(
            f"the value of {name} is not as this version writes it: {type(error).__name__}: {error}",
            object=name,
            hint="was the checkpoint written by a newer version?",
        ) from error


def _encode(name: str, value: Any, above: set[int]) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    tagged = _TAGGED.get(kind)
    if tagged is not None:
        return {tagged[0]: tagged[1](value)}
    if isinstance(value, torch.dtype):
        return {"$dtype": str(value).removeprefix("torch.")}
    if isinstance(value, np.generic) and value.dtype.kind in _ARRAY_KINDS:
        return {"$scalar": [value.dtype.str, _base64(value.tobytes())]}
    if kind is np.ndarray and value.dtype.kind in _ARRAY_KINDS:
        return {"$array": [value.dtype.str, list(value.shape), _base64(value.tobytes())]}
    if kind not in _CONTAINERS:
        raise NotPlain(with_article(f"{kind.__module__}.{kind.__qualname__}"))
    if id(value) in above:
        raise InvalidError(
            f"{name} holds itself: a state dict has no cycles", hint="save its parts, and tie them when they are loaded"
        )
    above.add(id(value))
    try:
        return _encode_container(name, kind, value, above)
    finally:
        above.discard(id(value))


def _encode_container(name: str, kind: type, value: Any, above: set[int]) -> Any:
    if kind is dict or kind is OrderedDict:
        pairs = [(key, _encode(name, item, above)) for key, item in value.items()]
        if kind is dict and all(type(key) is str and not key.startswith("$") for key, _ in pairs):
            return dict(pairs)
        return {"$dict" if kind is dict else "$ordered": [[_encode(name, key, above), item] for key, item in pairs]}
    items = [_encode(name, item, above) for item in value]
    if kind is list:
        return items
    if kind in (set, frozenset):
        # The order of a set is another in each process: the same values must be the same bytes.
        items.sort(key=lambda item: json.dumps(item, sort_keys=True))
    return {_CONTAINERS[kind]: items}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _complex(value: complex) -> list[str]:
    return [repr(value.real), repr(value.imag)]


_CONTAINERS: dict[type, str] = {
    list: "",
    dict: "",
    OrderedDict: "$ordered",
    tuple: "$tuple",
    set: "$set",
    frozenset: "$frozenset",
    torch.Size: "$size",
}
_TAGGED: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bytes: ("$bytes", _base64),
    complex: ("$complex", _complex),
    torch.device: ("$device", str),
}


def _decode(value: Any) -> Any:
    if type(value) is list:
        return [_decode(item) for item in value]
    if type(value) is not dict:
        return value
    if len(value) == 1:
        ((key, inner),) = value.items()
        if key.startswith("$"):
            return _FORMS[key](inner)
    return {key: _decode(item) for key, item in value.items()}


def _pairs(pairs: Any) -> list[tuple[Any, Any]]:
    return [(_decode(key), _decode(item)) for key, item in pairs]


def _items(items: Any) -> list[Any]:
    return [_decode(item) for item in items]


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"this torch ({torch.__version__}) has no type {name}")
    return found


def _plain_dtype(text: str) -> np.dtype[Any]:
    dtype = np.dtype(text)
    if dtype.kind not in _ARRAY_KINDS:
        raise ValueError(f"{text} is no plain type")
    return dtype


def _array(parts: Any) -> np.ndarray[Any, Any]:
    dtype, shape, data = parts
    return np.frombuffer(_bytes(data), dtype=_plain_dtype(dtype)).reshape(shape).copy()


_FORMS: dict[str, Callable[[Any], Any]] = {
    "$float": float,
    "$bytes": _bytes,
    "$complex": lambda parts: complex(float(parts[0]), float(parts[1])),
    "$device": torch.device,
    "$dtype": _dtype,
    "$scalar": lambda parts: np.frombuffer(_bytes(parts[1]), dtype=_plain_dtype(parts[0]))[0],
    "$array": _array,
    "$dict": lambda pairs: dict(_pairs(pairs)),
    "$ordered": lambda pairs: OrderedDict(_pairs(pairs)),
    "$tuple": lambda items: tuple(_items(items)),
    "$set": lambda items: set(_items(items)),
    "$frozenset": lambda items: frozenset(_items(items)),
    "$size": lambda items: torch.Size(_items(items)),
}
