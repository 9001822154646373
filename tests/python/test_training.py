"""A real training run, killed with SIGKILL and resumed: bit for bit what it would have been, at any number of ranks.

`train.py` is what is tested, as a user starts it. Must never compare losses or states with a tolerance.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import gigastore

HERE = Path(__file__).parent
RUN = "demo/train"
#: More steps than all lives together reach before they are killed, see `killed_lives`.
STEPS, SAVE_EVERY = 40, 4
#: Seconds that a life may take; one takes about ten where two cores are idle.
PATIENCE = 150.0

#: What torchrun does, with ranks that are forked from one process, which has imported torch once; and all of them are
#: in its process group, so that one signal kills all.
FORKED = """
import sys, uuid
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
import train
ranks = int(sys.argv.pop(1))
job = dict(run_id=uuid.uuid4().hex, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
elastic_launch(LaunchConfig(1, 1, ranks, start_method="fork", **job), train.main)()
"""


def torchrun(ranks: int) -> list[str]:
    """The command that the README shows."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "train.py"]


def forked(ranks: int) -> list[str]:
    """The same, sooner there."""
    return [sys.executable, "-c", FORKED, str(ranks)]


@dataclass
class Life:
    """A launch of the training script: from its start to its end, or until it is killed."""

    process: subprocess.Popen[str]
    losses: Path
    errors: Path
    lines: int

    def reach(self, steps: int) -> float:
        """Waits until this life has done some steps, and returns how long one took."""
        began, first, done = time.monotonic(), 0.0, 0
        while done < steps:
            time.sleep(0.002)
            done = len(lines_of(self.losses)) - self.lines
            first = first or (time.monotonic() if done else 0.0)
            assert self.process.poll() is None, f"ended before step {steps} of this life:\n{self.errors.read_text()}"
            waited = time.monotonic() - began
            assert waited < PATIENCE, f"step {steps} of this life does not come:\n{self.errors.read_text()}"
        return (time.monotonic() - first) / done

    def kill(self) -> None:
        """Kills launcher and ranks, and returns when the last is gone: then nobody holds the pipe any more."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == -signal.SIGKILL, f"over before it was killed:\n{self.errors.read_text()}"

    def finish(self) -> tuple[tuple[int, str], tuple[int, str]]:
        """Waits for its end, and returns step and state at which it began and ended."""
        said, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, f"{said}\n{self.errors.read_text()}"
        found = re.findall(r"^(begin|end) at step (\d+), state ([0-9a-f]{64})$", said, re.MULTILINE)
        assert [what for what, _, _ in found] == ["begin", "end"], said
        begin, end = ((int(step), state) for _, step, state in found)
        return begin, end


@contextmanager
def life(command: list[str], folder: Path, store: str, steps: int = STEPS) -> Iterator[Life]:
    """Starts a life that writes its losses into a folder. It is over when this is."""
    losses, errors = folder / "losses.txt", folder / "errors.txt"
    options = ["--store", store, "--steps", str(steps), "--save-every", str(SAVE_EVERY), "--losses", str(losses)]
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with errors.open("a") as log:
        process = subprocess.Popen(
            [*command, RUN, *options],
            cwd=HERE,
            env=env,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        yield Life(process, losses, errors, len(lines_of(losses)))
    finally:
        if process.poll() is None:
            # torchrun ends its ranks, which are in sessions of their own, when it is told to end.
            process.terminate()
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def lines_of(losses: Path) -> list[str]:
    """The lines that are complete."""
    return losses.read_text().splitlines() if losses.exists() else []


def curve(losses: Path) -> dict[int, str]:
    """The loss of each step; lives that did the same step must have found the same, to the last bit."""
    found: dict[int, str] = {}
    for line in lines_of(losses):
        step, loss, _ = line.split()
        known = found.setdefault(int(step), loss)
        assert known == loss, f"step {step}: loss {known} in one life, {loss} in another"
    return found


def committed(store: gigastore.Store) -> dict[int, str]:
    """The hash of the content of each checkpoint; every stored byte of all of them is verified."""
    assert store.projects() == ["demo"]
    (run,) = store.list("demo")
    report = store.verify("demo")
    assert report.ok, report.findings
    assert run.name == "train" and report.commits >= len(run.live)
    return {info.number: info.content for info in run.live}


@dataclass
class Uninterrupted:
    """A run of four ranks that nobody disturbed."""

    folder: Path
    losses: dict[int, str]
    checkpoints: dict[int, str]
    state: str


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """The run that all others are compared with, started as the README says."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    store = f"file://{folder}/store"
    with life(torchrun(4), folder, store) as only:
        begin, end = only.finish()
    assert (begin[0], end[0]) == (0, STEPS)
    return Uninterrupted(folder, curve(folder / "losses.txt"), committed(gigastore.Store(store)), end[1])


def killed_lives(kills: int, folder: Path, store: str, expected: Uninterrupted) -> None:
    """Trains to the end with lives that are killed at random moments, and compares all that is left of them."""
    seed = int(os.environ.get("GIGASTORE_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"again with the same moments: GIGASTORE_TEST_SEED={seed}")
    dice = random.Random(seed)
    for number in range(kills):
        # The second checkpoint waits for the first: the first life leaves one, and later ones have something to resume.
        steps = dice.randint(2 * SAVE_EVERY + 1, 12) if number == 0 else dice.randint(2, 9)
        with life(forked(4), folder, store) as one:
            pace = one.reach(steps)
            time.sleep(dice.uniform(0, 2 * pace))
            one.kill()
        left = committed(gigastore.Store(store, create=False))
        assert left and left.items() <= expected.checkpoints.items(), f"life {number} left {left}"
        assert curve(folder / "losses.txt").items() <= expected.losses.items()
    with life(forked(4), folder, store) as last:
        begin, end = last.finish()
    # What a service had been asked for before the kill may have been committed after the look.
    assert begin[0] >= max(left)
    assert end == (STEPS, expected.state)
    assert curve(folder / "losses.txt") == expected.losses
    assert committed(gigastore.Store(store, create=False)) == expected.checkpoints


def test_a_run_learns_and_saves_every_few_steps(uninterrupted: Uninterrupted) -> None:
    losses = {step: float.fromhex(loss) for step, loss in uninterrupted.losses.items()}
    assert list(losses) == list(range(1, STEPS + 1))
    assert losses[1] > 5 and losses[STEPS] < 3.2
    assert list(uninterrupted.checkpoints) == list(range(SAVE_EVERY, STEPS + 1, SAVE_EVERY))
    assert len(set(uninterrupted.checkpoints.values())) == len(uninterrupted.checkpoints)


def test_a_killed_run_goes_on_bit_for_bit(uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    killed_lives(3, tmp_path, f"file://{tmp_path}/store", uninterrupted)


def test_a_killed_run_goes_on_through_a_service(
    uninterrupted: Uninterrupted, tmp_path: Path, serve: Callable[..., object]
) -> None:
    store = f"file://{tmp_path}/store"
    gigastore.Store(store)
    service = serve(store)
    killed_lives(1, tmp_path, service.url, uninterrupted)  # type: ignore[attr-defined]
    assert committed(gigastore.Store(store)) == uninterrupted.checkpoints


@pytest.mark.parametrize("ranks", [2, 6])
def test_another_number_of_ranks_goes_on_from_the_same_bits(
    uninterrupted: Uninterrupted, tmp_path: Path, ranks: int
) -> None:
    shutil.copytree(uninterrupted.folder / "store", tmp_path / "store")
    store = f"file://{tmp_path}/store"
    with life(forked(ranks), tmp_path, store, STEPS + 2) as one:
        begin, end = one.finish()
    assert begin == (STEPS, uninterrupted.state)
    assert end[0] == STEPS + 2 and end[1] != uninterrupted.state
    losses = curve(tmp_path / "losses.txt")
    assert list(losses) == [STEPS + 1, STEPS + 2]
    assert all(float.fromhex(loss) < 3.2 for loss in losses.values())
    # What they save in turn is as sound, and has the same tensors.
    opened = gigastore.Store(store)
    assert list(committed(opened)) == [*uninterrupted.checkpoints, STEPS + 2]
    shapes = [
        {name: info.shape for name, info in opened.checkpoint(f"{RUN}@{step}").tensors.items() if "random" not in name}
        for step in (STEPS, STEPS + 2)
    ]
    assert shapes[0] == shapes[1] and shapes[0]["model.head.weight"] == (256, 64)
