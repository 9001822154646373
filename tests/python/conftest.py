"""What tests of the Python package share: stores in folders of their own, a service, a real model."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

# Before anything imports JAX: eight devices in one process, all of them this machine's CPU.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import gigastore  # noqa: E402

#: The command of the package, as a process of its own.
COMMAND = [sys.executable, "-c", "from gigastore._command import main; main()"]

#: Variables that would lead a test to a store, or give it a token, that is not its own.
for variable in ("GIGASTORE_STORE", "GIGASTORE_TOKEN", "GIGASTORE_TOKENS", "GIGASTORE_CACHE"):
    os.environ.pop(variable, None)


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs the command of the package, and returns what it said; fails where it does."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, f"gigastore {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def visible(store: gigastore.Store) -> list[str]:
    """Returns all checkpoints that anybody can see in a store."""
    found: list[str] = []
    for project in store.projects():
        try:
            found += [info.target for name in store.list(project) for info in name.live]
        except gigastore.NotFoundError:
            # A save was begun in it, and nothing was ever committed.
            continue
    return found


class Service:
    """A `gigastore serve` over a store."""

    def __init__(self, url: str, store: str, process: subprocess.Popen[str]) -> None:
        self.url, self.store, self.process = url, store, process

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of an empty store."""
    return f"file://{tmp_path / 'store'}"


@pytest.fixture
def store(url: str) -> gigastore.Store:
    """An empty store."""
    return gigastore.Store(url)


@contextmanager
def running(store: str, log: Path, *arguments: str) -> Iterator[Service]:
    """Runs a service over a store, and kills it."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*COMMAND, "--store", store, "serve", "--listen", "127.0.0.1:0", "--keep-free", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("serving "), f"the service did not start: {log.read_text()}"
        yield Service(said.rpartition(" at ")[2].strip(), store, process)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services: `serve(store URL, *more arguments)`. They are killed when the test is over."""
    with ExitStack() as stack:
        count = itertools.count()
        yield lambda store, *arguments: stack.enter_context(
            running(store, tmp_path / f"service-{next(count)}.log", *arguments)
        )


@pytest.fixture
def service(serve: Callable[..., Service], url: str) -> Service:
    """A service over an empty store."""
    gigastore.Store(url)
    return serve(url)


@pytest.fixture(scope="session")
def model() -> Path:
    """The folder of a real model, MiniLM as safetensors with its tokenizer."""
    folder = os.environ.get("GIGASTORE_TEST_MODEL")
    assert folder, "GIGASTORE_TEST_MODEL must name the folder of MiniLM: see `cargo xtask test`"
    assert (Path(folder) / "model.safetensors").is_file(), f"no model.safetensors in GIGASTORE_TEST_MODEL={folder}"
    return Path(folder)
