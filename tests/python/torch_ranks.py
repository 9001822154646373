"""Processes that are the ranks of small jobs: started once, they join a gloo group of each test's own size.

Must never leave a process behind, nor wait for ever: a rank that does not answer in time is killed, by its own handle.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest

#: The largest world of a test, and how long a rank may take for one task; the first one imports torch.
WORLD, SECONDS = 4, 120.0


class Failed(AssertionError):
    """A rank raised: `error` is what."""

    def __init__(self, rank: int, error: BaseException, trace: str) -> None:
        super().__init__(f"rank {rank}: {trace}")
        self.rank, self.error = rank, error


class Ranks:
    """Runs a function of a module at all ranks of a world: `ranks(4, scenario, …)` returns what each returned."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[Any] = []
        self._pipes: list[Connection] = []

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        worker = self._context.Process(target=_serve, args=(theirs,))
        worker.start()
        theirs.close()
        self._workers.append(worker)
        self._pipes.append(ours)

    def __call__(self, world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Returns what the ranks returned; raises `Failed` for the first that raised."""
        while len(self._workers) < world:
            self._start()
        with tempfile.TemporaryDirectory() as folder:
            for rank, pipe in enumerate(self._pipes[:world]):
                pipe.send((os.path.join(folder, "group"), world, rank, function, arguments))
            answers = []
            for rank, pipe in enumerate(self._pipes[:world]):
                if not pipe.poll(SECONDS):
                    self.stop()
                    pytest.fail(f"rank {rank} of {world} did not end {function.__name__} in {SECONDS} s")
                answers.append(pipe.recv())
        for rank, (fine, value, trace) in enumerate(answers):
            if not fine:
                raise Failed(rank, value, trace)
        return [value for _, value, _ in answers]

    def stop(self) -> None:
        """Ends all processes."""
        for pipe in self._pipes:
            pipe.close()
        for worker in self._workers:
            worker.join(30)
            if worker.is_alive():
                worker.kill()
                worker.join()
        self._workers, self._pipes = [], []


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Runs functions at the ranks of a world."""
    found = Ranks()
    yield found
    found.stop()


def _serve(pipe: Connection) -> None:
    """Runs what it is sent, until the other end is closed."""
    import torch.distributed as dist

    while True:
        try:
            group, world, rank, function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            dist.init_process_group("gloo", init_method=f"file://{group}", rank=rank, world_size=world)
            try:
                answer = (True, function(rank, world, *arguments), "")
            finally:
                dist.destroy_process_group()
        except BaseException as error:
            answer = (False, error, traceback.format_exc())
        pipe.send(answer)
