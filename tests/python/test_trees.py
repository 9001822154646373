"""The file that describes a tree of JAX: how deep it goes, and what is no such file."""

from __future__ import annotations

import json
from typing import Any

import gigastore
import jax.numpy as jnp
import numpy as np
import pytest
from gigastore import IntegrityError, InvalidError
from gigastore.jax import restore_pytree, save_pytree


def deep(levels: int) -> Any:
    """Returns a list in a list, and so on."""
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


def test_trees_that_are_too_deep(store: gigastore.Store) -> None:
    save_pytree(store, "demo/run", 1, {"w": jnp.ones(1), "deep": deep(190)})
    assert restore_pytree(store, "demo/run")["deep"] == deep(190)
    with pytest.raises(InvalidError, match="more than 200 nodes"):
        save_pytree(store, "demo/run", 2, {"w": jnp.ones(1), "deep": deep(300)})


LEAF: dict[str, Any] = {"kind": "jax", "name": "w"}
NO_STRUCTURES: list[Any] = [
    b"",
    b"\xff",
    b"[" * 100_000,
    [],
    "text",
    None,
    {},
    {"format": 1},
    {"format": 1, "tree": []},
    {"format": 1, "tree": {}},
    {"format": 1, "tree": {"kind": "pickle", "name": "w"}},
    {"format": 1, "tree": {"kind": []}},
    {"format": 1, "tree": {"kind": "jax"}},
    {"format": 1, "tree": {"kind": "jax", "name": 1}},
    {"format": 1, "tree": {"kind": "key", "name": "w"}},
    {"format": 1, "tree": {"kind": "list", "items": {"a": LEAF}}},
    {"format": 1, "tree": {"kind": "list", "items": [1]}},
    {"format": 1, "tree": {"kind": "tuple"}},
    {"format": 1, "tree": {"kind": "dict", "items": [LEAF]}},
    {"format": 1, "tree": {"kind": "dict", "items": [[[], LEAF]]}},
    {"format": 1, "tree": {"kind": "dict", "items": [["a", LEAF, 1]]}},
    {"format": 1, "tree": {"kind": "int", "name": "n"}},
    {"format": 1, "tree": {"kind": "int", "name": "n", "value": "1"}},
    {"format": 1, "tree": {"kind": "bool", "name": "n", "value": 1}},
    {"format": 1, "tree": {"kind": "float", "name": "n", "value": "one"}},
    {"format": 1, "tree": {"kind": "complex", "name": "n", "value": []}},
    {"format": 1, "tree": {"kind": "str", "name": "n", "value": None}},
]


@pytest.mark.parametrize("structure", NO_STRUCTURES, ids=lambda one: str(one)[:60])
def test_files_that_describe_no_tree(store: gigastore.Store, structure: Any) -> None:
    content = structure if isinstance(structure, bytes) else json.dumps(structure).encode()
    store.save("demo/run", 1, {"w": np.ones(1, np.float32)}, files={"pytree.json": content})
    for wanted in (None, {"w": jnp.ones(1)}):
        with pytest.raises(IntegrityError, match="pytree.json does not describe a tree") as caught:
            restore_pytree(store, "demo/run", wanted)
        assert caught.value.object == "demo/run@1/pytree.json"


def test_structures_that_do_not_fit_the_tensors(store: gigastore.Store) -> None:
    keys = {"kind": "key", "name": "w", "implementation": "of nobody"}
    cases = {"can't be keys of 'of nobody'": keys, "no tensor 'gone'": {"kind": "jax", "name": "gone"}}
    for step, (match, tree) in enumerate(cases.items()):
        files = {"pytree.json": json.dumps({"format": 1, "tree": tree}).encode()}
        store.save("demo/run", step, {"w": np.ones((1, 2), np.uint32)}, files=files)
        with pytest.raises(gigastore.GigastoreError, match=match):
            restore_pytree(store, f"demo/run@{step}")
    store.save("demo/run", 9, {"w": np.ones(1)}, files={"pytree.json": b'{"format": 2}'})
    with pytest.raises(InvalidError, match="has format 2, expected 1"):
        restore_pytree(store, "demo/run@9")
