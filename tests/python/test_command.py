"""The `gigastore` command of the package: the same program, and what it asks Python to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from conftest import COMMAND, command

import gigastore


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command, whatever becomes of it."""
    env = {**os.environ, **environment}
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, env=env)


def test_it_is_on_the_path_and_tells_its_version() -> None:
    assert command("--version").stdout == f"gigastore {gigastore.__version__}\n"
    assert "Exit codes" in command("--help").stdout
    (found,) = [one for one in entry_points(group="console_scripts") if one.name == "gigastore"]
    assert found.value == "gigastore._command:main"
    script = Path(sys.executable).with_name("gigastore")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"gigastore {gigastore.__version__}\n"), done.stderr


def test_it_is_the_package_run_as_a_module() -> None:
    called = [sys.executable, "-m", "gigastore"]
    done = subprocess.run([*called, "--version"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"gigastore {gigastore.__version__}\n"), done.stderr
    assert subprocess.run([*called, "no-such-command"], capture_output=True, timeout=120).returncode == 2


def test_failures_have_the_exit_codes_of_the_binary(url: str, store: gigastore.Store) -> None:
    assert run().returncode == 2
    assert run("no-such-command").returncode == 2
    missing = run("--store", url, "ckpt", "show", "demo/nothing")
    assert missing.returncode == 4 and missing.stdout == "" and "error:" in missing.stderr


def test_the_command_and_the_package_see_the_same_store(url: str, store: gigastore.Store) -> None:
    store.save("demo/run", 5, {"w": torch.arange(6)}, tag="best")
    listed = json.loads(command("--store", url, "--format", "json", "ckpt", "ls", "demo").stdout)
    assert "best" in json.dumps(listed)
    assert command("--store", url, "verify", "demo").returncode == 0


def test_folders_of_dcp_are_saved_and_written(url: str, store: gigastore.Store, tmp_path: Path) -> None:
    state = {"w": torch.arange(12, dtype=torch.bfloat16).reshape(3, 4), "step": 7}
    dcp.save(dict(state), checkpoint_id=tmp_path / "theirs", no_dist=True)
    command("--store", url, "ckpt", "save", "--from-dcp", str(tmp_path / "theirs"), "--to", "demo/run@7", "--tag", "best")
    assert torch.equal(store.checkpoint("demo/run@best").load(device="cpu")["w"], state["w"])

    command("--store", url, "ckpt", "restore", "demo/run@7", "--out", str(tmp_path / "again"), "--dcp")
    loaded = {"w": torch.zeros(3, 4, dtype=torch.bfloat16), "step": 0}
    dcp.load(loaded, checkpoint_id=tmp_path / "again", no_dist=True)
    assert torch.equal(loaded["w"], state["w"]) and loaded["step"] == 7


@pytest.mark.parametrize("python", ["/nowhere/python", "false"])
def test_without_the_package_it_says_what_is_missing(url: str, tmp_path: Path, python: str) -> None:
    failed = run(
        "--store", url, "ckpt", "save", "--from-dcp", str(tmp_path), "--to", "demo/run@7", GIGASTORE_PYTHON=python
    )
    assert failed.returncode == 1 and "GIGASTORE_PYTHON" in failed.stderr


def test_what_the_other_program_refuses_is_no_success(url: str, store: gigastore.Store, tmp_path: Path) -> None:
    failed = run("--store", url, "ckpt", "save", "--from-dcp", str(tmp_path), "--to", "demo/run@7")
    assert failed.returncode != 0 and str(tmp_path) in failed.stderr
    assert [name for project in store.projects() for name in store.list(project)] == []


ENDLESS = [["serve", "--listen", "127.0.0.1:0", "--keep-free", "0"], ["ckpt", "watch", "demo/run"]]


@pytest.mark.parametrize("command", ENDLESS, ids=["serve", "watch"])
def test_it_ends_at_an_interrupt_as_the_binary_does(url: str, store: gigastore.Store, command: list[str]) -> None:
    store.save("demo/run", 1, {"w": torch.arange(3)})
    process = subprocess.Popen(
        [*COMMAND, "--store", url, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        # A service says where it listens; whoever watches says nothing before there is something.
        if command[0] == "serve":
            assert process.stdout is not None and process.stdout.readline().startswith("serving")
        else:
            time.sleep(2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in said, said
    assert process.returncode == (0 if command[0] == "serve" else 130), said
