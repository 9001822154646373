"""Datasets for training: batches of tokens, every byte verified, in an order that ranks and workers have no part in.

    from gigastore.data import Stream

    stream = Stream("file:///tmp/store", "demo/corpus@3", seed=7, seq_len=2048, batch_size=8)
    for batch in stream:                            # {"step": 0, "tokens": int64 (8, 2048), "cu_seqlens": int32}
        ...
        store.save("demo/run", batch["step"], tensors, data=stream)     # the cursor lies in the checkpoint's record
    cursor = store.checkpoint("demo/run").cursor()
    stream = Stream(store, "demo/corpus@3", seed=7, cursor=cursor)      # on any number of ranks

Batches are made ahead by threads of this process while the trainer computes; iterating the stream itself is the
fastest way, since nothing is copied between processes. For loops that are built on torch's `DataLoader` a stream is an
`IterableDataset` with batches of its own (`batch_size=None`): each worker makes every so many'th batch, and
`map(stream.observe, loader)` keeps the cursor of the trainer's stream where the loop is, not where workers have read
ahead. torchdata's `StatefulDataLoader` works as well, with the same number of workers when it goes on.

Must never say that a batch was seen which the loop did not get, nor need torch where no torch tensors are asked for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from . import _native
from ._arguments import counted, kind_of, text
from ._batches import Arrays, Worker, checked, ranks
from .errors import InvalidError
from .store import Store, opened

__all__ = ["Seen", "SourceInfo", "Stream"]


@dataclass(frozen=True)
class Seen:
    """What was seen of a stream: by this rank since it began, or of all ranks where cursors were joined.

    `digest` is a sum over all samples that does not depend on their order or on who saw them: two runs with the same
    one saw the same tokens at the same positions. `missing` counts tokens of documents taken down or skipped.
    """

    digest: str
    samples: int
    tokens: int
    documents: int
    missing: int


@dataclass(frozen=True)
class SourceInfo:
    """A dataset of a stream, in the version that is read."""

    target: str
    weight: float
    documents: int
    tokens: int
    #: Samples of the epoch that it is in, where that is known without reading lengths of documents.
    epoch_samples: int | None


class Stream(Iterator[dict[str, Any]]):
    """Batches of one dataset, or of several by their weights: the same global batches on any ranks and workers.

    Each item is a dict: `step`, the number of the batch, and the `columns` asked for, which share the memory that they
    were decoded into: `tokens` and `position_ids` int64 and `loss_mask` bool of shape (batch_size, seq_len), or flat
    where samples are documents; `cu_seqlens` int32, the borders of all pieces of documents among the tokens, 0 first;
    `positions` of the samples in the stream, -1 for one that is padding; `sources`, the number of each one's dataset.
    """

    def __init__(
        self,
        store: Store | str,
        source: str | Mapping[str, float],
        *,
        seed: int | None = 0,
        seq_len: int = 2048,
        batch_size: int = 8,
        packing: Literal["concat", "first_fit", "documents"] = "concat",
        long: Literal["split", "truncate"] = "split",
        lanes: int | None = None,
        window: int = 2,
        rank: int | None = None,
        world_size: int | None = None,
        epochs: int | None = 1,
        budget: int | None = None,
        unit: Literal["tokens", "documents", "samples"] | None = None,
        columns: Sequence[str] = ("tokens", "cu_seqlens"),
        pad: int = 0,
        last: Literal["pad", "drop"] = "pad",
        on_damage: Literal["fail", "skip"] = "fail",
        prefetch: int | str = "256 MiB",
        format: Literal["torch", "numpy"] = "torch",
        cursor: str | Mapping[str, Any] | None = None,
    ) -> None:
        """Opens a stream of `source`: "project/dataset@version", or weights of several of them.

        What makes the order, and must be the same where a cursor goes on: `seed` (None: files and rows as they are),
        `packing` (all documents of a window one after the other and cut every `seq_len` tokens; whole documents where
        they fit first, `long` ones split or truncated; or a document a sample), `lanes` (16, without a seed 1: a
        multiple of the ranks lets each byte be read once in all), `window` (row groups of a lane that are shuffled
        together, and in memory together). What may change: `rank` and `world_size` (default: of torch.distributed, else
        of RANK and WORLD_SIZE), `batch_size` of each rank, the number of workers.

        It ends after `epochs` of each dataset (None: never), or with the sample that reaches `budget`, counted in
        `unit`, which weights are of as well: planned tokens, or samples where these are documents, unless told. The
        `last` batch is filled with `pad`, or dropped. Damage ends the stream with an error that names the file, and
        leaves the cursor where it is; `on_damage="skip"` takes those documents as missing. `prefetch` bytes are read
        ahead.
        """
        weights = _weights(source)
        if seed is None and lanes not in (None, 1):
            raise InvalidError(f"lanes={lanes!r} without a seed", hint="documents in their order come in one lane")
        lanes = (16 if seed is not None else 1) if lanes is None else lanes
        rank, world_size = ranks(rank, world_size)
        options = checked(
            seed=seed, lanes=lanes, window=window, packing=packing, seq_len=seq_len, long=long, unit=unit,
            budget=budget, rank=rank, world_size=world_size, batch_size=batch_size, last=last, on_damage=on_damage,
            pad=pad, columns=columns, prefetch=prefetch,
        )  # fmt: skip
        epochs = None if epochs is None else counted("epochs", epochs)
        options["sources"] = [(name, weight, epochs) for name, weight in weights]
        state = {"cursor": None, "step": 0, "rank": rank} if cursor is None else _state(cursor)
        self._set(opened(store, create=False), options, format, state)
        self._native.open()

    def _set(self, store: Store, options: dict[str, Any], format: str, state: Mapping[str, Any]) -> None:
        self._store, self._options, self._format = store, options, format
        self._arrays = Arrays(format, options)
        self._worker = Worker()
        self._worker.resume(state.get("worker"))
        self._refusal: InvalidError | None = None
        self._began = _samples(state["cursor"])
        native = {**options, "cursor": state["cursor"], "step": state["step"], "seen_by": state["rank"]}
        self._native = _native.Stream(store._native, self._worker, **native)
        if "torch.utils.data" in sys.modules:
            # What DataLoader tells streams from lists by. Not a base class, which would need torch in all programs.
            sys.modules["torch.utils.data"].IterableDataset.register(Stream)

    def __repr__(self) -> str:
        return f"<gigastore.data.Stream of {', '.join(self._native.targets)} at step {self._native.step}>"

    def __reduce__(self) -> tuple[Any, ...]:
        options = dict(self._options)
        # The versions that were found, whatever is the latest elsewhere.
        options["sources"] = [
            (target, *rest) for target, (_, *rest) in zip(self._native.targets, options["sources"], strict=True)
        ]
        return (_again, (self._store, options, self._format, self._place()))

    def __iter__(self) -> Stream:
        """Returns the stream itself: it goes on where it is, and is iterated once."""
        self._refusal = self._refusal or self._worker.begin()
        return self

    def __next__(self) -> dict[str, Any]:
        """Waits for the next batch."""
        if self._refusal is not None:
            raise self._refusal
        taken = self._native.next()
        if taken is None:
            raise StopIteration
        step, memories, cursor = taken
        batch = self._arrays.of(step, memories)
        if cursor is not None:
            batch["cursor"] = cursor
        return batch

    def __len__(self) -> int:
        """Returns the batches from where the stream began or was resumed, where the manifest tells: not of several
        datasets, of whole documents by first fit, of no end, or of a budget of tokens."""
        samples = json.loads(self._native.info())["samples"]
        if samples is None:
            raise TypeError("the manifest does not tell how many batches the stream has")
        left = max(int(samples) - self._began, 0)
        batch: int = self._options["world_size"] * self._options["batch_size"]
        return left // batch if self._options["last"] == "drop" else -(-left // batch)

    def observe(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Notes that the loop has got a batch which a worker made, and returns it: `for batch in map(stream.observe,
        loader)`. A batch that was made in this process is noted already."""
        cursor = batch.get("cursor")
        if cursor is not None:
            self._native.observe(batch["step"], cursor)
        return batch

    def cursor(self) -> str:
        """Returns where the stream is, after the last batch that was handed out or observed: JSON, a few hundred bytes.

        It says what this rank has seen; a commit joins those of all ranks. Any number of ranks and workers goes on from
        it, with any size of batches."""
        return self._native.cursor()

    def state_dict(self) -> dict[str, Any]:
        """Returns cursor and step, as torchdata's Stateful has it; of a worker, what that worker alone goes on from."""
        state = self._place()
        worker = self._worker(state["step"])
        return state if worker is None else {**state, "worker": list(worker)}

    def _place(self) -> dict[str, Any]:
        return {"cursor": self._native.cursor(), "step": self._native.step, "rank": self._options["rank"]}

    def load_state_dict(self, state: Mapping[str, Any] | str) -> None:
        """Goes on where a `state_dict()`, or a cursor, is. What was seen until there counts where it was seen: with the
        rank of the state; of a mere cursor, such as the one of a checkpoint, which is of all ranks, with rank 0."""
        found = _state(state)
        self._worker.resume(found.get("worker"))
        self._native.resume(found["cursor"], found["step"], found["rank"])
        self._began = _samples(found["cursor"])

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Sets the weights of all datasets, named as they were given, from the next batch on; batches that were made
        ahead are made again. Workers of a loader that runs do not hear of it: begin another loader."""
        names = [name for name, *_ in self._options["sources"]]
        given = dict(_weights(weights))
        if sorted(given) != sorted(names):
            raise InvalidError(f"weights of {sorted(given)}, the stream has {sorted(names)}", hint="name each of them")
        self._native.set_weights([given[name] for name in names])

    @property
    def seen(self) -> Seen:
        """What this rank has seen so far."""
        return Seen(*self._native.seen)

    @property
    def info(self) -> tuple[SourceInfo, ...]:
        """The datasets, in the order of their numbers."""
        return tuple(SourceInfo(**source) for source in json.loads(self._native.info())["sources"])

    @property
    def memory_bound(self) -> int:
        """The most bytes that rows of the datasets take in this process: windows in use, and those read ahead."""
        return int(json.loads(self._native.info())["memory_bound"])

    def close(self) -> None:
        """Stops reading ahead, and gives up the memory. Where it is can still be asked for."""
        self._refusal = InvalidError("the stream is closed", hint="open another one with its cursor()")
        self._native.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _weights(source: Any) -> list[tuple[str, float]]:
    """Returns datasets and weights; refuses what is neither one dataset nor several with weights."""
    if isinstance(source, str):
        return [(source, 1.0)]
    if not isinstance(source, Mapping) or not source:
        raise InvalidError(
            f"a source is {source!r}", hint="expected 'project/dataset@version', or weights by such names"
        )
    found = []
    for name, weight in source.items():
        if isinstance(weight, (bool, str)) or not hasattr(weight, "__float__"):
            raise InvalidError(f"the weight of {name!r} is {weight!r}", hint="expected a number")
        found.append((text("a source", name), float(weight)))
    return found


def _state(state: Any) -> dict[str, Any]:
    """Returns cursor, step, the rank and, of a worker, which one; from a state or a mere cursor."""
    if isinstance(state, (str, bytes)):
        state = {"cursor": state.decode() if isinstance(state, bytes) else state}
    if not isinstance(state, Mapping) or not isinstance(state.get("cursor"), str):
        raise InvalidError(f"a state is {kind_of(state)}", hint="expected cursor() or state_dict()")
    step, rank = counted("step", state.get("step", 0)), counted("rank", state.get("rank", 0), 32)
    return {**state, "cursor": state["cursor"], "step": step, "rank": rank}


def _samples(cursor: str | None) -> int:
    """Returns the samples before a cursor. What is no cursor is refused by the native part."""
    try:
        return 0 if cursor is None else int(json.loads(cursor)["samples"])
    except (ValueError, TypeError, LookupError):
        return 0


def _again(store: Store, options: dict[str, Any], format: str, state: dict[str, Any]) -> Stream:
    """Makes a stream again that came from another process. It is opened when it is asked for a batch."""
    stream = Stream.__new__(Stream)
    stream._set(store, options, format, state)
    return stream
