"""A store: save, open, list, compare, tag, watch.

Reads and writes move bytes in the native part, with the interpreter's lock released; this module gives them names.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypedDict, Unpack, overload

from . import _native, background
from ._arguments import counted, seconds, secret, text, texts_by_name, unless_none, url_of
from .background import PendingSave
from .checkpoint import Checkpoint
from .cursors import Data, cursors_of
from .dataset import Dataset
from .errors import InvalidError
from .info import CommitInfo, Diff, NameInfo, VerifyReport, commit_info, committed, report
from .progress import Progress, callable_of
from .tensors import native_files, native_slices

__all__ = ["PendingSave", "Progress", "SaveOptions", "Store"]

#: How a save that finds another under way goes on: see `Store.save`.
_ASYNCHRONOUS = (False, True, "wait", "skip")

#: How a save is compressed, in the words of the native part.
_COMPRESSION: Mapping[bool | str, str] = {False: "off", True: "always", "auto": "auto"}


class SaveOptions(TypedDict, total=False):
    """Keywords of `Store.save` that mean the same for all kinds of saves."""

    rank: int
    world_size: int
    attempt: str | None
    metadata: Mapping[str, str] | None
    data: Data | None
    files: Mapping[str, Any] | None
    tag: str | None
    compress: bool | str
    dedup: bool
    deadline: float


class Store:
    """A store by its URL: `file:///DIR`, `s3://BUCKET/PREFIX`, `gs://…`, `az://…`, or a service, `http(s)://HOST:PORT`.

    A service is asked with `token`, else with the one in `GIGASTORE_TOKEN`; cloud stores take their settings from the
    environment. With `create` (the default) a store that is not there is made. May be pickled, and used after a fork.
    """

    def __init__(self, url: str, token: str | None = None, *, create: bool = True) -> None:
        self._native = _native.Store(url_of(url), secret("token", token), create)
        self._token, self._create = token, create
        # Tells stores of different tokens apart, and is no secret.
        used = token if token is not None else os.environ.get("GIGASTORE_TOKEN")
        self._identity = "" if used is None else f"sha256:{hashlib.sha256(used.encode()).hexdigest()[:16]}"

    @property
    def url(self) -> str:
        """Its URL."""
        return self._native.url

    @property
    def refetched(self) -> int:
        """Reads of this process that did not match their hashes, and were made once more past all caches."""
        return self._native.refetched

    def __repr__(self) -> str:
        # fsspec, and other caches, take two stores for one where this is the same.
        return f"gigastore.Store({self.url!r}{self._identity and f', token={self._identity}'})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_again, (self.url, self._token, self._create))

    @overload
    def save(
        self,
        target: str,
        step: int,
        tensors: Mapping[str, Any],
        *,
        asynchronous: Literal[False] = False,
        commit: Literal[True] = True,
        progress: Progress | None = None,
        **options: Unpack[SaveOptions],
    ) -> CommitInfo: ...

    @overload
    def save(
        self,
        target: str,
        step: int,
        tensors: Mapping[str, Any],
        *,
        asynchronous: Literal[True, "wait"],
        progress: None = None,
        **options: Unpack[SaveOptions],
    ) -> PendingSave: ...

    @overload
    def save(
        self,
        target: str,
        step: int,
        tensors: Mapping[str, Any],
        *,
        asynchronous: bool | str = False,
        commit: bool = True,
        progress: Progress | None = None,
        **options: Unpack[SaveOptions],
    ) -> CommitInfo | PendingSave | None: ...

    def save(
        self,
        target: str,
        step: int,
        tensors: Mapping[str, Any],
        *,
        rank: int = 0,
        world_size: int = 1,
        attempt: str | None = None,
        metadata: Mapping[str, str] | None = None,
        data: Data | None = None,
        files: Mapping[str, Any] | None = None,
        tag: str | None = None,
        compress: bool | str = False,
        dedup: bool = True,
        asynchronous: bool | str = False,
        commit: bool = True,
        deadline: float = 600.0,
        progress: Progress | None = None,
    ) -> CommitInfo | PendingSave | None:
        """Saves this rank's tensors as a part of checkpoint `step` of `target` ("project/run"), and commits it.

        Values are tensors (torch on the CPU, numpy), `Slice`s where a rank holds a box of a larger tensor, or lists of
        them; `files` are opaque bytes by path. All ranks call it with the same `world_size` and `attempt` (what tells
        this launch of the job from others; required where there are several ranks); none waits for another before its
        bytes are stored, and nothing is visible before all of them are. Returns what was committed.

        `data` is the data stream that this rank reads (or several by name; one is called "data"): where it is when `save`
        is called is committed in the same record, and `Checkpoint.cursor` gives it back. Ranks must be at the same place,
        what they saw is added up. Ranks that read no data leave it out, and so do all but one of those that read the
        same, as a tensor-parallel group does.

        `commit=False` only delivers this rank's part and returns `None`: one rank calls `commit` then. `asynchronous=True`
        returns as soon as the tensors were copied; while an earlier save of this rank is under way it waits for that,
        with `asynchronous="skip"` it does nothing and returns `None`. The copy is in memory that is kept for the next
        save. A save in the background tells no `progress`. `compress`: False, True, or "auto" (while the store takes
        bytes more slowly than they are compressed).
        """
        target, step = text("target", target), counted("step", step)
        rank, world_size = counted("rank", rank, 32), counted("world_size", world_size, 32)
        attempt = _attempt(unless_none("attempt", attempt), world_size)
        told = callable_of(progress)
        _check_background(asynchronous, world_size, commit=bool(commit), told=told is not None)
        if not isinstance(compress, (bool, str)) or compress not in _COMPRESSION:
            raise InvalidError(f"compress={compress!r}: expected one of {list(_COMPRESSION)}")
        # First of all: the stream may go on while tensors are looked at.
        cursors = cursors_of(data)
        slices, opaque = native_slices(tensors), native_files(files or {})
        common: dict[str, Any] = {
            "world_size": world_size,
            "attempt": attempt,
            "metadata": texts_by_name("metadata", metadata),
            "cursors": cursors,
            "tag": unless_none("tag", tag),
            "compress": _COMPRESSION[compress],
            "dedup": bool(dedup),
            "deadline": seconds("deadline", deadline),
        }
        if not asynchronous:
            options = {**common, "rank": rank, "commit": bool(commit), "progress": told}
            found = self._native.save(target, step, slices, opaque, **options)
            return None if found is None else committed(target, found)
        skip = asynchronous == "skip"
        return background.save(self, target, step, slices, opaque, rank=rank, skip=skip, **common)

    def commit(
        self,
        target: str,
        step: int,
        *,
        world_size: int,
        attempt: str,
        tag: str | None = None,
        deadline: float = 600.0,
    ) -> CommitInfo:
        """Commits a checkpoint whose ranks saved with `commit=False`; waits up to `deadline` seconds for their parts."""
        found = self._native.commit(
            text("target", target),
            counted("step", step),
            world_size=counted("world_size", world_size, 32),
            attempt=text("attempt", attempt),
            tag=unless_none("tag", tag),
            deadline=seconds("deadline", deadline),
        )
        return committed(target, found)

    def wait(self) -> None:
        """Waits for all saves in the background to this store. Raises what failed and nobody was told of."""
        background.wait(self.url)

    def checkpoint(self, target: str) -> Checkpoint:
        """Opens a checkpoint: "project/run@step", "project/run@tag", or "project/run" for the one committed last."""
        return Checkpoint(self, target, self._native.checkpoint(text("target", target)))

    def dataset(self, target: str) -> Dataset:
        """Opens a version of a dataset: "project/dataset@version", "…@tag", or the one committed last."""
        return Dataset(self, target, self._native.dataset(text("target", target)))

    def resolve(self, target: str) -> CommitInfo:
        """Finds what a target means."""
        return commit_info(target, json.loads(self._native.resolve(text("target", target))))

    def projects(self) -> list[str]:
        """Lists the projects."""
        return self._native.projects()

    def list(self, project: str) -> list[NameInfo]:
        """Lists the runs and datasets of a project, with their live steps and versions."""
        names = json.loads(self._native.project(text("project", project)))["names"]
        return [
            NameInfo(
                name["name"],
                name["sort"],
                tuple(commit_info(f"{project}/{name['name']}", info) for info in name["live"]),
            )
            for name in names
        ]

    def tag(self, target: str, tag: str) -> CommitInfo:
        """Points a tag at what a target means."""
        return commit_info(target, json.loads(self._native.set_tag(text("target", target), text("tag", tag))))

    def diff(self, before: str, after: str) -> Diff:
        """Compares two checkpoints by their hashes; no tensor is read."""
        found = json.loads(self._native.diff(text("before", before), text("after", after)))
        added, removed, changed = (tuple(found[kind]) for kind in ("added", "removed", "changed"))
        return Diff(added, removed, changed, found["unchanged"], found["streams"])

    def verify(self, target: str, *, depth: float | str = "full", progress: Progress | None = None) -> VerifyReport:
        """Reads and hashes what a project, run, dataset, step or version stores. Damage is in the report, not raised.

        `depth`: "full", "quick" (lengths, and all of log and manifests), or a share of the bytes such as 0.05.
        """
        return report(self._native.verify(text("target", target), str(depth), callable_of(progress)))

    def watch(self, target: str, *, after: int | None = None, timeout: float | None = None) -> Iterator[CommitInfo]:
        """Yields each new commit of a run or dataset, as it comes; `after`: a log number to begin at, else from now on.

        Ends when none came for `timeout` seconds; waits for ever where that is `None`.
        """
        project, _, name = text("target", target).removeprefix("gigastore://").partition("/")
        seq = json.loads(self._native.project(project))["seq"] if after is None else counted("after", after)
        return self._watched(project, name, seq, None if timeout is None else seconds("timeout", timeout))

    def _watched(self, project: str, name: str, seq: int, timeout: float | None) -> Iterator[CommitInfo]:
        began = time.monotonic()
        while True:
            left = 20.0 if timeout is None else max(began + timeout - time.monotonic(), 0.0)
            records = json.loads(self._native.records(project, seq, min(left, 20.0)))
            # What others commit all the time does not count: the time is up when there is nothing more to look at.
            if not records and left == 0:
                return
            for record in records:
                seq = record["seq"]
                for entry in record["entries"]:
                    if entry["kind"] == "commit" and entry["name"] == name:
                        try:
                            info = self.resolve(f"{project}/{name}@{entry['number']}")
                        except LookupError:  # It was dropped since.
                            continue
                        # A void entry lost against another record, which is told of in its turn.
                        if info.seq == seq:
                            yield info
                            began = time.monotonic()


def opened(store: Store | str, *, create: bool = True) -> Store:
    """Returns a store, by its URL where that is given."""
    return store if isinstance(store, Store) else Store(store, create=create)


def _check_background(asynchronous: bool | str, world_size: int, *, commit: bool, told: bool) -> None:
    """Refuses what a save in the background can't do."""
    if asynchronous not in _ASYNCHRONOUS:
        raise InvalidError(f"asynchronous={asynchronous!r}: expected one of {_ASYNCHRONOUS}")
    if not asynchronous:
        return
    if not commit:
        raise InvalidError("commit=False and asynchronous exclude each other: a save in the background commits")
    if told:
        hint = "leave progress out, and let wait() of the save that is returned tell when it is committed"
        raise InvalidError("progress and asynchronous exclude each other: nobody waits to be told", hint=hint)
    if asynchronous == "skip" and world_size > 1:
        hint = "asynchronous=True waits; or let one rank decide, and tell the others before they save"
        raise InvalidError("asynchronous='skip': each rank would skip, or not, on its own", hint=hint)


def _attempt(attempt: str | None, world_size: int) -> str | None:
    """Finds what tells this launch from others: as given, or as the launcher tells.

    Only what can't be the same after a restart, by whomever, will do: parts of two launches would make one checkpoint.
    """
    if attempt is not None or world_size == 1:
        return attempt
    env = os.environ
    run, again = env.get("TORCHELASTIC_RUN_ID"), env.get("SLURM_RESTART_COUNT", "0")
    # With --standalone torchrun draws an id for itself. Others, such as --rdzv-id=$SLURM_JOB_ID, may come again; and so
    # does the count of restarts where nodes come and go.
    if run is not None and _drawn(run) and env.get("GROUP_WORLD_SIZE", "1") == "1":
        return f"{run}-{env.get('TORCHELASTIC_RESTART_COUNT', '0')}-{again}"
    # Each srun is a step of its own. It has to be srun that started the ranks: what runs below it may do so twice.
    if run is None and "SLURM_STEP_ID" in env and env.get("SLURM_STEP_NUM_TASKS") == str(world_size):
        return f"{env.get('SLURM_JOB_ID')}.{env['SLURM_STEP_ID']}-{again}"
    raise InvalidError(
        f"{world_size} ranks, and nothing tells this launch of the job from others",
        hint="pass attempt=…, drawn once for each launch (such as uuid.uuid4().hex of rank 0, sent to the others), or "
        "save with gigastore.torch, which draws it; ranks that srun started, and torchrun --standalone, tell "
        "it themselves; an id of a job, such as --rdzv-id=$SLURM_JOB_ID, is the same after a restart",
    )


def _drawn(text: str) -> bool:
    """Tells whether a text is a random UUID."""
    try:
        return uuid.UUID(text).version == 4
    except ValueError:
        return False


def _again(url: str, token: str | None, create: bool) -> Store:
    return Store(url, token, create=create)
