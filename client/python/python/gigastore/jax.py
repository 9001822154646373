"""Pytrees of JAX: each process saves the shards that are its own, and each device gets the box that it is to hold.

Arrays are tensors named by their path in the tree ("params/dense/kernel"); scalars of Python and the structure of the
tree are JSON in a file of the checkpoint. Must never pickle anything, gather an array on one process, or change a type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all

from ._arguments import kind_of, with_article
from ._trees import SCALAR_NAMES, SCALARS, STRUCTURE, encoded, leaves_of, name_of, rebuilt, saved_structure
from .checkpoint import Checkpoint, TensorInfo, Wanted
from .cursors import Data, cursors_of
from .errors import InvalidError, NotFoundError
from .info import CommitInfo
from .progress import Progress
from .store import PendingSave, Store
from .store import opened as by_url
from .tensors import _FROM_NUMPY, Slice, empty, numpy_dtype

__all__ = ["restore_pytree", "save_pytree"]

# The box of a tensor that a device holds.
_Box = tuple[tuple[int, ...], tuple[int, ...]]


def save_pytree(
    store: Store | str,
    target: str,
    step: int,
    tree: Any,
    *,
    attempt: str | None = None,
    metadata: Mapping[str, str] | None = None,
    data: Data | None = None,
    tag: str | None = None,
    compress: bool | str = False,
    dedup: bool = True,
    asynchronous: bool | str = False,
    deadline: float = 600.0,
    progress: Progress | None = None,
) -> CommitInfo | PendingSave | None:
    """Saves a tree of arrays as checkpoint `step` of `target` ("project/run").

    Every process of the job calls it with its own view of the same tree; nothing is exchanged between them. Of each box
    only replica 0 is given. Leaves may be arrays of JAX (keys of random numbers too) and numpy, and the scalars bool,
    int, float, complex and str, of which those of process 0 are kept. Arrays of a weak type come back as of that type.
    Options and results are those of `Store.save`; `data` is the stream that this process reads.
    """
    cursors = cursors_of(data)
    opened = by_url(store)
    first = jax.process_index() == 0
    tensors: dict[str, list[Slice]] = {}
    leaves: dict[str, dict[str, Any]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = name_of(path)
        if name in leaves:
            raise InvalidError(f"two leaves of the tree are named {name!r}", hint="rename a key that has a / in it")
        leaves[name], slices = _described(name, leaf, first)
        if slices:
            tensors[name] = slices
    files = {STRUCTURE: encoded(tree, leaves)} if first else {}
    return opened.save(
        target,
        step,
        tensors,
        rank=jax.process_index(),
        world_size=jax.process_count(),
        attempt=attempt,
        metadata=metadata,
        data=cursors,
        files=files,
        tag=tag,
        compress=compress,
        dedup=dedup,
        asynchronous=asynchronous,
        deadline=deadline,
        progress=progress,
    )


def restore_pytree(store: Store | str, target: str, like: Any = None, *, progress: Progress | None = None) -> Any:
    """Restores a tree from a checkpoint: "project/run@step", "project/run@tag", or the one committed last.

    `like` is a tree of what is wanted, all that was saved or a part of it: arrays, or `jax.ShapeDtypeStruct`s with the
    sharding that each is to have, whatever it was saved with; numpy arrays and scalars come back as such. Without it,
    the tree that was saved comes back: arrays on the default device, dicts, lists and tuples as they were, other nodes
    as dicts of their fields; a checkpoint that was not saved from a tree as a dict of its tensors.

    All boxes are read at once, each byte and each box once in a process, and only those that its devices hold. In a job
    of several processes all call it with the same target; what a tag, or no step, means is what process 0 found.
    """
    opened = by_url(store, create=False)
    checkpoint = opened.checkpoint(_agreed(opened, target))
    tree = saved_structure(checkpoint)
    saved = leaves_of(tree) if tree is not None else {name: {"kind": "jax"} for name in checkpoint.tensors}
    boxes = _Boxes(checkpoint)
    if like is None:
        plans = {name: _plan_saved(boxes, name, leaf) for name, leaf in saved.items()}
        boxes.read(progress)
        built = {name: plan() for name, plan in plans.items()}
        return built if tree is None else rebuilt(tree, built)
    paths, form = jax.tree_util.tree_flatten_with_path(like)
    wanted = [_plan_like(boxes, name_of(path), leaf, saved) for path, leaf in paths]
    boxes.read(progress)
    return jax.tree_util.tree_unflatten(form, [plan() for plan in wanted])


def _agreed(store: Store, target: str) -> str:
    """Returns a target with its step; where several processes ask, what it means to the first holds for all."""
    name, _, selector = target.partition("@")
    if jax.process_count() == 1 or selector.isdecimal():
        return target
    failure: Exception | None = None
    told = np.zeros(9, np.uint8)
    if jax.process_index() == 0:
        try:
            number = store.resolve(target).number
            told = np.frombuffer(b"\1" + number.to_bytes(8, "little"), np.uint8)
        except Exception as error:
            # The others wait for what it found, also where it found nothing.
            failure = error
    found = bytes(np.asarray(broadcast_one_to_all(told)))
    if failure is not None:
        raise failure
    if not found[0]:
        raise NotFoundError(f"process 0 found no {target}", hint="its error says why")
    return f"{name}@{int.from_bytes(found[1:], 'little')}"


class _Boxes:
    """Boxes of tensors in memory of the host: all are asked for first, then read in one go, then handed out."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._arrays: dict[tuple[str, _Box], np.ndarray[Any, Any]] = {}
        self._wanted: list[Wanted] = []

    def info(self, name: str) -> TensorInfo:
        return self.checkpoint._tensor(name)

    def ask(self, name: str, index: Sequence[slice] | None = None) -> None:
        info = self.info(name)
        box = _box(info.shape, index)
        if (name, box) in self._arrays:
            return
        array, memory = empty(info.dtype, box[1])
        self._arrays[name, box] = array
        if array.size:
            self._wanted.append((name, box, memory))

    def read(self, progress: Progress | None) -> None:
        if self._wanted:
            self.checkpoint.read_into(self._wanted, progress=progress)

    def array(self, name: str, index: Sequence[slice] | None = None) -> np.ndarray[Any, Any]:
        return self._arrays[name, _box(self.info(name).shape, index)]


def _box(shape: Sequence[int], index: Sequence[slice] | None) -> _Box:
    """Returns the offsets and sizes of a shard's index; of the whole where there is none."""
    index = [slice(None)] * len(shape) if index is None else index
    ends = [part.indices(length)[:2] for part, length in zip(index, shape, strict=True)]
    return tuple(start for start, _ in ends), tuple(stop - start for start, stop in ends)


def _described(name: str, leaf: Any, first: bool) -> tuple[dict[str, Any], list[Slice]]:
    """Returns what the structure says of a leaf, and the slices of it that this process gives."""
    if type(leaf) in SCALARS:
        kind, encode, _ = SCALARS[type(leaf)]
        return {"kind": kind, "name": name, "value": encode(leaf)}, []
    if isinstance(leaf, jax.core.Tracer):
        raise InvalidError(f"{name} is being traced: it has no value yet", hint="save outside of jax.jit and jax.grad")
    if isinstance(leaf, jax.Array):
        if leaf.is_deleted():
            raise InvalidError(f"{name} was deleted, or donated to a computation", hint="save what that returned")
        if _is_key(leaf):
            implementation = str(jax.random.key_impl(leaf))
            described = {"kind": "key", "name": name, "implementation": implementation}
            return described, _shards(jax.random.key_data(leaf))
        _dtype_name(name, leaf.dtype)
        return {"kind": "jax", "name": name}, _shards(leaf)
    if isinstance(leaf, (np.ndarray, np.generic)):
        _dtype_name(name, leaf.dtype)
        kind = "numpy" if isinstance(leaf, np.ndarray) else "numpy_scalar"
        return {"kind": kind, "name": name}, [Slice(np.asarray(leaf))] if first else []
    raise InvalidError(
        f"{name}: a leaf of type {type(leaf).__module__}.{type(leaf).__qualname__} can't be stored",
        hint="expected arrays of JAX or numpy, bool, int, float, complex, str or None",
    )


def _shards(array: jax.Array) -> list[Slice]:
    shards = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    for shard in shards:
        shard.data.copy_to_host_async()
    found = []
    for shard in shards:
        offsets, sizes = _box(array.shape, shard.index)
        found.append(Slice(np.ascontiguousarray(shard.data).reshape(sizes), array.shape, offsets, sizes))
    return found


def _is_key(leaf: Any) -> bool:
    return bool(jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _dtype_name(name: str, dtype: Any) -> str:
    """Returns what safetensors calls a type."""
    found = _FROM_NUMPY.get(np.dtype(dtype).name)
    if found is None:
        raise InvalidError(
            f"{name}: elements of {np.dtype(dtype).name} can't be stored",
            hint="convert it first: x.astype(jnp.int8) for int4, real and imaginary parts for complex128",
        )
    return found


def _plan_saved(boxes: _Boxes, name: str, leaf: Mapping[str, Any]) -> Callable[[], Any]:
    """Asks for a leaf as it was saved, and returns what makes it once the boxes are read."""
    kind = leaf["kind"]
    if kind in SCALAR_NAMES:
        return lambda: SCALAR_NAMES[kind](leaf["value"])
    if kind == "numpy":
        boxes.ask(name)
        return lambda: boxes.array(name)
    if kind == "numpy_scalar":
        boxes.ask(name)
        return lambda: boxes.array(name)[()]
    place = _plan_array(boxes, name, None)
    if kind == "key":
        return lambda: _keys(name, place(), leaf["implementation"])
    return place


def _keys(name: str, data: jax.Array, implementation: str) -> jax.Array:
    try:
        keys: jax.Array = jax.random.wrap_key_data(data, impl=implementation)
    except (ValueError, TypeError) as error:
        raise InvalidError(f"{name} can't be keys of {implementation!r}: {error}") from error
    return keys


def _plan_like(boxes: _Boxes, name: str, like: Any, saved: Mapping[str, Mapping[str, Any]]) -> Callable[[], Any]:
    """Asks for a leaf that is to be like another one, and returns what makes it once the boxes are read."""
    if name not in saved:
        raise NotFoundError(f"{boxes.checkpoint.target} has no leaf {name!r}", known=list(saved))
    kind = saved[name]["kind"]
    if type(like) in SCALARS or kind in SCALAR_NAMES:
        wanted = kind_of(like)
        if type(like) not in SCALARS or kind != SCALARS[type(like)][0]:
            raise InvalidError(f"{name} was saved as {_said(kind)}, and {wanted} is wanted in its place")
        return _plan_saved(boxes, name, saved[name])
    if isinstance(like, (np.ndarray, np.generic)):
        _check(boxes, name, like.shape, like.dtype)
        return _plan_saved(boxes, name, {"kind": "numpy" if isinstance(like, np.ndarray) else "numpy_scalar"})
    if not isinstance(like, (jax.Array, jax.ShapeDtypeStruct)):
        text = f"{name}: {kind_of(like, module=True)} does not tell what is wanted"
        raise InvalidError(text, hint="expected jax.Array, jax.ShapeDtypeStruct, numpy.ndarray or a scalar")
    if _is_key(like) != (kind == "key"):
        raise InvalidError(f"{name} was saved as {_said(kind)}, and elements of {like.dtype} are wanted in its place")
    if kind != "key":
        _check(boxes, name, like.shape, like.dtype)
        return _plan_array(boxes, name, _sharding(like))
    return _plan_key(boxes, name, like, saved[name]["implementation"])


def _plan_key(boxes: _Boxes, name: str, like: Any, implementation: str) -> Callable[[], jax.Array]:
    data = jax.eval_shape(jax.random.key_data, like)
    _check(boxes, name, data.shape, data.dtype)

    def wrapped(data: jax.Array) -> jax.Array:
        return _keys(name, data, implementation)

    found = jax.eval_shape(wrapped, data).dtype
    if found != like.dtype:
        raise InvalidError(f"{name} was saved as {found}, and {like.dtype} is wanted in its place")
    place = _plan_array(boxes, name, _sharding(like))
    return lambda: wrapped(place())


def _sharding(like: Any) -> Any:
    # An array that was never put anywhere goes to wherever it is needed: held on one device it could not be used
    # together with those of a mesh.
    return like.sharding if getattr(like, "committed", True) else None


def _plan_array(boxes: _Boxes, name: str, sharding: Any) -> Callable[[], jax.Array]:
    info = boxes.info(name)
    dtype = numpy_dtype(info.dtype)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise InvalidError(
            f"{name} has elements of {dtype}, of which JAX would make {jax.dtypes.canonicalize_dtype(dtype)}",
            hint='jax.config.update("jax_enable_x64", True)',
        )
    if sharding is None:
        boxes.ask(name)
        return lambda: jax.device_put(boxes.array(name))
    for index in sharding.addressable_devices_indices_map(info.shape).values():
        boxes.ask(name, index)

    def box(index: Any) -> np.ndarray[Any, Any]:
        return boxes.array(name, index)

    return lambda: jax.make_array_from_callback(info.shape, sharding, box, dtype=dtype)


def _check(boxes: _Boxes, name: str, shape: Sequence[int], dtype: Any) -> None:
    info = boxes.info(name)
    wanted = _dtype_name(name, dtype)
    if (info.dtype, info.shape) != (wanted, tuple(shape)):
        saved = f"{info.dtype} {list(info.shape)}"
        raise InvalidError(f"{name} is {saved} in the checkpoint, and {wanted} {list(shape)} is wanted in its place")


def _said(kind: str) -> str:
    arrays = dict.fromkeys(("jax", "numpy", "numpy_scalar"), "an array")
    return {**arrays, "key": "keys"}.get(kind, with_article(kind))
