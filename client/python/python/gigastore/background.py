"""Saves in the background: what saves them, and the wait for them when the process ends.

Each run has a saver of its own for each rank, which keeps its memory: a training job saves again and again. Must never
hold one run up for another, nor let a process end before what it copied is stored.
"""

from __future__ import annotations

import atexit
import multiprocessing.util
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import _native
from .info import CommitInfo, committed

if TYPE_CHECKING:
    from .store import Store

__all__ = ["PendingSave", "save", "wait"]

#: Seconds that a process which failed gives saves of several ranks: as much as a large part may take to be stored.
_AFTER_FAILURE = 60.0
#: The status of a process that lost a save and could tell nobody; Python's own for output that was lost at exit.
_EXIT_STATUS = 120


class PendingSave:
    """A save in the background. What fails in it is raised by `wait`, or else by the next save of the same run and rank."""

    def __init__(self, target: str, waited: float, copied: float, pending: _native.Pending) -> None:
        self.target, self._pending = target, pending
        #: Seconds that the caller waited for an earlier save, and seconds of the copy.
        self.waited, self.copied = waited, copied

    def wait(self) -> CommitInfo:
        """Waits until it is committed, and returns what was; raises what went wrong, each time it is asked."""
        return committed(self.target, self._pending.wait())


class _Slot:
    """The saver of one rank of one run. Saves take turns: a lock is held while one waits for another, and copies."""

    def __init__(self, what: str) -> None:
        self.what = what
        #: Whether the save that is under way needs other ranks.
        self.several = False
        self.turn = threading.Lock()
        self.saver: _native.Saver | None = None
        # Bytes of state that the saver has memory for, and a digest of the token that it saves with.
        self.room, self.token = -1, ""

    def fit(self, native: _native.Store, token: str, rank: int, need: int) -> _native.Saver:
        """Returns the saver; a state that outgrew its memory, and another token, get a new one when the old is idle."""
        if self.saver is None or self.room < need or self.token != token:
            if self.saver is not None:
                self.saver.wait()
            # Memory of the old one goes before that of the new one is taken.
            self.saver = None
            saver = _native.Saver(native, rank, need)
            saver.reserve()
            self.saver, self.room, self.token = saver, need, token
        return self.saver


#: Slots by process, store, run and rank.
_SLOTS: dict[tuple[int, str, str, int], _Slot] = {}


def save(
    store: Store,
    target: str,
    step: int,
    slices: Sequence[tuple[Any, ...]],
    files: Sequence[tuple[str, Any]],
    *,
    rank: int,
    skip: bool,
    **options: Any,
) -> PendingSave | None:
    """Copies a rank's state, and saves the copy in the background; where an earlier one is under way waits for that, or
    with `skip` returns `None`."""
    _watch_exit()
    key = (os.getpid(), store.url, target.removeprefix("gigastore://"), rank)
    # Not under a lock, which a fork could leave held: only one of several slots gets in.
    slot = _SLOTS.setdefault(key, _Slot(f"{store.url}: {key[2]}, rank {rank}"))
    need = sum(memoryview(one[5]).nbytes for one in slices) + sum(memoryview(data).nbytes for _, data in files)
    if not slot.turn.acquire(blocking=not skip):
        return None
    try:
        saver = slot.fit(store._native, store._identity, rank, need)
        slot.several = options["world_size"] > 1
        begun = saver.save(target, step, slices, files, wait=not skip, **options)
    finally:
        slot.turn.release()
    return None if begun is None else PendingSave(f"{target}@{step}", *begun)


def wait(url: str) -> None:
    """Waits for all saves of this process to a store. Raises what failed and nobody was told of."""
    for store, saver in _savers():
        if store == url:
            saver.wait()


def _savers() -> list[tuple[str, _native.Saver]]:
    found = [(key[0], key[1], slot.saver) for key, slot in list(_SLOTS.items())]
    return [(url, saver) for process, url, saver in found if process == os.getpid() and saver is not None]


def _at_exit() -> bool:
    """Waits for saves in the background: what was copied is not lost for an early exit. Returns whether all went well.

    A process that failed does not wait for other ranks as long as those might take: they may have failed before it.
    """
    failed = _is_failing()
    ends = time.monotonic() + _AFTER_FAILURE
    good = True
    for slot in [slot for key, slot in list(_SLOTS.items()) if key[0] == os.getpid()]:
        try:
            if slot.saver is not None:
                slot.saver.wait(max(ends - time.monotonic(), 0.0) if failed and slot.several else None)
        except (Exception, KeyboardInterrupt) as error:  # Nobody is left to catch it.
            good = False
            print(f"gigastore: {slot.what}: {error or 'interrupted'}", file=sys.stderr)
    return good


def _is_failing() -> bool:
    # The second is set in processes of multiprocessing, the first in all others: when the exception is printed. At a
    # prompt, a slip of hours ago is no failure.
    prompt = hasattr(sys, "ps1")
    return not prompt and (getattr(sys, "last_value", None) is not None or sys.exc_info()[0] is not None)


class _Unflushed:
    """Standard error that can't be flushed at the very end, so that the interpreter exits with status 120.

    Nothing else that is called at exit can change the status, without what is called after it being left out.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def flush(self) -> None:
        """Flushes it."""
        self._stream.flush()
        if sys.is_finalizing():
            raise OSError("a save in the background failed")


@atexit.register
def _interpreter_ends() -> None:
    if not _at_exit():
        sys.stderr = _Unflushed(sys.stderr)


def _worker_ends() -> None:
    if not _at_exit() and multiprocessing.parent_process() is not None:
        raise SystemExit(_EXIT_STATUS)


def _watch_exit() -> None:
    """Sees to it that `_at_exit` is called in this process: processes of multiprocessing end in a way of their own."""
    if os.getpid() not in _WATCHED:
        _WATCHED.add(os.getpid())
        # After all others, for it ends them.
        multiprocessing.util.Finalize(None, _worker_ends, exitpriority=-1000)


_WATCHED: set[int] = set()
