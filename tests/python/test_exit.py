"""What becomes of saves in the background when their process ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from gigastore import Store


def end(how: str, url: str) -> tuple[int, str, str, float]:
    """Runs a process that ends; returns its status, output, errors, and how long it took."""
    begun = time.monotonic()
    command = [sys.executable, str(Path(__file__).parent / "exiting.py"), how, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "the last hook" in done.stdout, done
    return done.returncode, done.stdout, done.stderr, time.monotonic() - begun


def test_a_save_is_waited_for(url: str) -> None:
    assert end("good", url)[::2] == (0, "")
    assert Store(url).resolve("demo/run").number == 1


def test_a_save_that_failed_is_a_failure_of_the_process(url: str) -> None:
    status, output, errors, _ = end("conflict", url)
    assert status == 120
    assert "demo/run, rank 0: " in errors and "demo/run@1 exists with other content" in errors
    assert "buffered" in output and "Traceback" not in errors


def test_a_failure_that_was_told_is_none_of_the_process(url: str) -> None:
    status, output, errors, _ = end("told", url)
    assert (status, errors) == (0, "") and "told: " in output


def test_a_rank_that_failed_does_not_wait_for_others(url: str) -> None:
    status, _, errors, seconds = end("crash", url)
    assert status != 0 and seconds < 30
    assert "it crashed" in errors and "still under way after 2 s" in errors


def test_a_process_that_failed_stores_what_it_copied(url: str) -> None:
    status, _, errors, _ = end("crash alone", url)
    assert status == 1 and "it crashed" in errors
    assert Store(url).resolve("demo/run").number == 1


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing(url: str, method: str) -> None:
    status, output, errors, _ = end(method, url)
    assert status == 0 and "exit codes [0, 120]" in output, (output, errors)
    assert "demo/run@2 exists with other content" in errors and "Traceback" not in errors
    (run,) = Store(url).list("demo")
    assert [info.number for info in run.live] == [1, 2, 3]
