"""Batches of a stream as arrays of numpy or torch, and whose batches they are: of which rank, made by which worker.

Must never copy an array, nor import torch where numpy's arrays are asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ._arguments import counted
from ._native import Memory
from .errors import InvalidError

__all__ = ["Arrays", "Worker", "ranks"]

_TYPES = {"cu_seqlens": "int32", "loss_mask": "bool"}


class Arrays:
    """Makes the dict of a batch from its memories."""

    def __init__(self, format: str, options: dict[str, Any]) -> None:
        shape = None if options["packing"] == "documents" else (options["batch_size"], options["seq_len"])
        shapes = {name: shape for name in ("tokens", "position_ids", "loss_mask")}
        views = {"torch": _torch_view, "numpy": _numpy_view}
        if format not in views:
            raise InvalidError(f"format={format!r}: expected one of {list(views)}")
        self._views = [
            (name, views[format](np.dtype(_TYPES.get(name, "int64")), shapes.get(name))) for name in options["columns"]
        ]

    def of(self, step: int, memories: Sequence[Memory]) -> dict[str, Any]:
        """Returns the batch of a number."""
        batch: dict[str, Any] = {"step": step}
        for (name, view), memory in zip(self._views, memories, strict=True):
            batch[name] = view(memory)
        return batch


class Worker:
    """Which worker of a data loader this process is."""

    def __init__(self) -> None:
        self._resumed: tuple[int, int] | None = None
        self._found: tuple[int, int] | None = None
        self._begun = False

    def __call__(self, step: int) -> tuple[int, int] | None:
        """Returns which batches this worker makes: those whose number leaves this rest when divided by that; `None` in a
        trainer. `step` is the number of the first batch, which the first worker makes."""
        info = _worker_info()
        if info is None:
            return None
        if self._found is None:
            worker, workers = self._resumed or ((info.id + step) % info.num_workers, info.num_workers)
            if workers != info.num_workers:
                raise InvalidError(
                    f"the state is of one of {workers} workers, the loader has {info.num_workers}",
                    hint="the stream's own cursor() goes on with any number of workers",
                )
            self._found = (worker, workers)
        return self._found

    def begin(self) -> InvalidError | None:
        """Notes that the stream is iterated; returns why not, where a worker does so twice: an error when a batch is asked
        for, of which the trainer hears."""
        if _worker_info() is None:
            return None
        if self._begun:
            hint = "persistent_workers=False, or one loop over epochs=N"
            return InvalidError("a worker can't begin again: what it had read ahead is lost", hint=hint)
        self._begun = True
        return None

    def resume(self, worker: Any) -> None:
        """Goes on as a worker that has left its state."""
        if worker is None:
            return
        if _worker_info() is None:
            hint = "load it through the loader, or load the state_dict() of the stream in the trainer"
            raise InvalidError("the state is one of a loader's workers", hint=hint)
        number, workers = worker
        self._resumed = (counted("worker", number, 32), counted("workers", workers, 32))
        self._found = None


def ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Returns rank and world size: as given, or those of torch.distributed, else of the launcher, else one rank."""
    if rank is not None and world_size is not None:
        return rank, world_size
    if rank is not None or world_size is not None:
        raise InvalidError(f"rank={rank!r}, world_size={world_size!r}", hint="give both or neither")
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    given = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if given[0] is None or given[1] is None:
        return 0, 1
    try:
        return int(given[0]), int(given[1])
    except ValueError:
        text = f"RANK={given[0]!r} and WORLD_SIZE={given[1]!r} are no numbers"
        raise InvalidError(text, hint="pass rank= and world_size=") from None


def _worker_info() -> Any:
    # Nobody is a worker of torch's who has not loaded it.
    data: Any = sys.modules.get("torch.utils.data")
    return None if data is None else data.get_worker_info()


def _numpy_view(dtype: np.dtype[Any], shape: tuple[int, int] | None) -> Callable[[Memory], Any]:
    frombuffer: Callable[..., Any] = np.frombuffer  # it takes any buffer, its types name a few
    if shape is None:
        return lambda memory: frombuffer(memory, dtype)
    return lambda memory: frombuffer(memory, dtype).reshape(shape)


def _torch_view(dtype: np.dtype[Any], shape: tuple[int, int] | None) -> Callable[[Memory], Any]:
    del dtype, shape  # the capsule has them
    import torch.utils.data
    from torch.utils.dlpack import from_dlpack

    return lambda memory: from_dlpack(memory.__dlpack__())
