"""The structure of a tree as JSON in a file of a checkpoint, and what of it is no array.

Must never make anything of a file that does not describe a tree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from .checkpoint import Checkpoint
from .errors import IntegrityError, InvalidError

__all__ = ["SCALARS", "SCALAR_NAMES", "STRUCTURE", "encoded", "leaves_of", "name_of", "rebuilt", "saved_structure"]

#: The file of a checkpoint that has the structure of its tree, and what is not an array.
STRUCTURE = "pytree.json"

_FORMAT = 1
# Nodes below nodes: a few frames of the interpreter's thousand for each.
_DEPTH = 200

# Types of Python that JSON keeps exactly; numbers with a point as text, for infinities and NaN.
SCALARS: Mapping[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    bool: ("bool", bool, bool),
    int: ("int", int, int),
    float: ("float", repr, float),
    complex: ("complex", lambda value: [repr(value.real), repr(value.imag)], lambda pair: complex(*map(float, pair))),
    str: ("str", str, str),
}
SCALAR_NAMES = {name: decode for name, _, decode in SCALARS.values()}

def encoded(tree: Any, leaves: Mapping[str, dict[str, Any]]) -> bytes:
    """Returns the file that describes a tree."""
    structure = {"format": _FORMAT, "tree": _structure(tree, (), leaves)}
    return json.dumps(structure, separators=(",", ":"), allow_nan=False).encode()


def name_of(path: Sequence[Any]) -> str:
    """Returns the name of a leaf: the keys on the way to it."""
    parts = []
    for entry in path:
        found = [str(getattr(entry, field)) for field in ("key", "idx", "name") if hasattr(entry, field)]
        parts.append(found[0] if found else str(entry))
    return "/".join(parts) or "leaf"


def _structure(node: Any, path: tuple[Any, ...], leaves: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the structure of a tree as JSON has it."""
    if node is None:
        return {"kind": "none"}
    if len(path) > _DEPTH:
        raise InvalidError(f"the tree has more than {_DEPTH} nodes below each other")
    children = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda one: one is not node)[0]
    if len(children) == 1 and children[0][0] == ():
        return leaves[name_of(path)]
    # None is no leaf, but a node without leaves: it has a place all the same.
    inner = [(below[-1], _structure(child, (*path, *below), leaves)) for below, child in children]
    if type(node) in (list, tuple):
        return {"kind": type(node).__name__, "items": [child for _, child in inner]}
    if isinstance(node, dict):
        return {"kind": "dict", "items": [[_plain(entry.key, path), child] for entry, child in inner]}
    name = f"{type(node).__module__}.{type(node).__qualname__}"
    return {"kind": "node", "type": name, "items": [[name_of([entry]), child] for entry, child in inner]}


def _plain(key: Any, path: Sequence[Any]) -> str | int:
    if type(key) not in (str, int):
        where = name_of(path) if path else "the tree"
        raise InvalidError(f"a dict in {where} has the key {key!r}, of type {type(key).__name__}: expected str or int")
    return key  # type: ignore[no-any-return]


def saved_structure(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Returns the structure that was saved; nothing where a checkpoint was not saved from a tree."""
    if STRUCTURE not in checkpoint.files:
        return None
    try:
        found = json.loads(checkpoint.read_file(STRUCTURE))
        # Of a newer format nothing else is known.
        saved_as = found["format"]
        if saved_as == _FORMAT:
            _check_node(found["tree"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise IntegrityError(
            f"{checkpoint.target}: {STRUCTURE} does not describe a tree: {type(error).__name__}: {error}",
            object=f"{checkpoint.target}/{STRUCTURE}",
            hint="it was not written by gigastore.jax: load the tensors with Checkpoint.load",
        ) from error
    if saved_as != _FORMAT:
        raise InvalidError(
            f"{checkpoint.target}: {STRUCTURE} has format {saved_as!r}, expected {_FORMAT}",
            hint="a newer gigastore wrote it: update",
        )
    tree: dict[str, Any] = found["tree"]
    return tree


def _check_node(node: Any, depth: int = 0) -> None:
    """Raises ValueError, TypeError or KeyError where a node, or one below it, is not as `_structure` makes them."""
    kind = node["kind"]
    if depth > _DEPTH:
        raise ValueError(f"more than {_DEPTH} nodes below each other")
    if kind in ("list", "tuple"):
        inner = [(0, child) for child in _of(list, node["items"])]
    elif kind in ("dict", "node"):
        inner = [(key, child) for key, child in _of(list, node["items"])]
    elif kind in SCALAR_NAMES:
        _of(str, node["name"])
        value = node["value"]
        encode = next(encode for name, encode, _ in SCALARS.values() if name == kind)
        again = encode(SCALAR_NAMES[kind](value))
        if type(again) is not type(value) or again != value:
            raise ValueError(f"{value!r} is no {kind}")
        return
    elif kind in ("jax", "numpy", "numpy_scalar", "key"):
        _of(str, node["name"])
        if kind == "key":
            _of(str, node["implementation"])
        return
    elif kind == "none":
        return
    else:
        raise ValueError(f"a node of kind {kind!r}")
    for key, child in inner:
        if type(key) not in (str, int):
            raise TypeError(f"a key {key!r}")
        _check_node(child, depth + 1)


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _children(node: Mapping[str, Any]) -> list[dict[str, Any]]:
    items: list[Any] = node.get("items", [])
    return items if node["kind"] in ("list", "tuple") else [child for _, child in items]


def leaves_of(node: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the leaves of a saved structure, by name."""
    if "name" in node:
        return {node["name"]: node}
    return {name: leaf for child in _children(node) for name, leaf in leaves_of(child).items()}


def rebuilt(node: Mapping[str, Any], built: Mapping[str, Any]) -> Any:
    """Returns the tree of a saved structure, with the leaves that were built for it."""
    kind = node["kind"]
    if "name" in node:
        return built[node["name"]]
    if kind == "none":
        return None
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(rebuilt(child, built) for child in node["items"])
    return {key: rebuilt(child, built) for key, child in node["items"]}
