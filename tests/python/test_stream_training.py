"""A training run on a dataset, killed and resumed: data seen, losses and state are what they would have been.

`train_stream.py` is what is tested, as a user starts it. Must never compare losses or states with a tolerance.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gigastore
import pytest
from conftest import command
from gigastore.data import Stream
from test_training import curve, lines_of

HERE = Path(__file__).parent
RUN, DATA = "demo/run", "demo/speeches"
SAVE_EVERY = 4
#: Seconds that a life may take.
PATIENCE = 180.0

#: What torchrun does, with ranks that are forked from one process, which has imported torch once; and all of them are
#: in its process group, so that one signal kills all.
FORKED = """
import sys, uuid
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
import train_stream
ranks = int(sys.argv.pop(1))
job = dict(run_id=uuid.uuid4().hex, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
elastic_launch(LaunchConfig(1, 1, ranks, start_method="fork", **job), train_stream.main)()
"""


@dataclass
class Job:
    """What all runs of a test have in common."""

    folder: Path
    store: str
    options: tuple[str, ...] = ()

    @property
    def losses(self) -> Path:
        """Where the losses are."""
        return self.folder / "losses.txt"

    @contextmanager
    def life(self, ranks: int, *more: str) -> Iterator[subprocess.Popen[str]]:
        """Starts the script, and kills it."""
        options = ["--store", self.store, "--data", DATA, "--save-every", str(SAVE_EVERY)]
        # 512 samples of 64 tokens a step, of few classes, so that all of the corpus is seen in seconds.
        options += ["--batch", "512", "--vocabulary", "64"]
        options += ["--losses", str(self.losses), *self.options, *more]
        paths = os.pathsep.join([str(HERE), *sys.path])
        env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        with (self.folder / "errors.txt").open("a") as errors:
            process = subprocess.Popen(
                [sys.executable, "-c", FORKED, str(ranks), RUN, *options],
                cwd=HERE,
                env=env,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.communicate()

    def finish(self, ranks: int, *more: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Lets it go on to its end, and returns what it said at its beginning and at its end."""
        with self.life(ranks, *more) as process:
            said, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, (self.folder / "errors.txt").read_text()
        begin, end = (json.loads(line) for line in said.splitlines() if line.startswith("{"))
        assert (begin["what"], end["what"]) == ("begin", "end")
        return begin, end


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """The folder of a store with a dataset: 10 MB of speeches, a document a line, in the tokens of MiniLM."""
    folder, texts = tmp_path_factory.mktemp("corpus"), os.environ.get("GIGASTORE_TEST_TEXTS")
    assert texts, "GIGASTORE_TEST_TEXTS must name a folder of texts: see `cargo xtask test`"
    options = ["--tokenizer", str(model / "tokenizer.json"), "--eos", "[SEP]", "--split", "lines", "--part-mib", "1"]
    work = ["--work", str(folder / "work")]
    command("--store", f"file://{folder}/store", "data", "tokenize", texts, "--to", DATA, *options, *work)
    return folder


def job(corpus: Path, folder: Path, *options: str) -> Job:
    """A job with a copy of the store."""
    subprocess.run(["cp", "-r", corpus / "store", folder / "store"], check=True)
    return Job(folder, f"file://{folder}/store", options)


@pytest.fixture(scope="module")
def alone(corpus: Path) -> dict[str, str]:
    """The digest of what one rank sees that nobody disturbs, by packing; no training is needed for it."""
    found = {}
    for packing in ("concat", "first_fit"):
        options: dict[str, Any] = {"seed": 1, "seq_len": 64, "packing": packing}
        stream = Stream(f"file://{corpus}/store", DATA, **options)
        assert sum(batch["tokens"].numel() for batch in stream) > 2_000_000
        found[packing] = stream.seen.digest
    return found


@pytest.mark.parametrize("packing", ["concat", "first_fit"])
def test_a_killed_run_sees_and_learns_the_same(
    corpus: Path, alone: dict[str, str], tmp_path: Path, packing: str
) -> None:
    seed = int(os.environ.get("GIGASTORE_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"again with the same moments: GIGASTORE_TEST_SEED={seed}")
    dice = random.Random(seed)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = job(corpus, tmp_path / "whole", "--packing", packing)
    begin, expected = whole.finish(2)
    assert (begin["step"], expected["seen"]) == (0, alone[packing])
    losses = curve(whole.losses)
    assert len(losses) == expected["step"] > 40
    assert float.fromhex(losses[expected["step"]]) < 0.8 * float.fromhex(losses[1])

    killed = job(corpus, tmp_path / "killed", "--packing", packing)
    for _ in range(2):
        before, steps, began = len(lines_of(killed.losses)), dice.randint(6, 15), time.monotonic()
        with killed.life(2) as process:
            while len(lines_of(killed.losses)) < before + steps:
                assert process.poll() is None and time.monotonic() - began < PATIENCE, (
                    killed.folder / "errors.txt"
                ).read_text()
                time.sleep(0.002)
    begin, end = killed.finish(2)
    assert begin["step"] >= SAVE_EVERY and begin["step"] % SAVE_EVERY == 0
    assert end == expected
    assert curve(killed.losses) == losses
    store = gigastore.Store(killed.store)
    cursor = json.loads(store.checkpoint(RUN).cursor())
    assert cursor["seen"]["digest"] == alone[packing]
    assert store.verify("demo").ok


def test_ranks_come_and_go_and_all_is_seen_once(corpus: Path, alone: dict[str, str], tmp_path: Path) -> None:
    elastic = job(corpus, tmp_path, "--packing", "first_fit")
    for ranks, steps in ((2, 10), (4, 22), (1, None)):
        begin, end = elastic.finish(ranks, *([] if steps is None else ["--steps", str(steps)]))
        assert steps in (None, end["step"])
    assert end["seen"] == alone["first_fit"]
    assert list(curve(elastic.losses)) == list(range(1, end["step"] + 1))
    cursor = json.loads(gigastore.Store(elastic.store).checkpoint(RUN).cursor())
    assert cursor["seen"]["digest"] == alone["first_fit"]
