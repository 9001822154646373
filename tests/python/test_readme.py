"""What the README shows of the package runs as it is written there, in its order, and again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gigastore
import gigastore.fsspec  # noqa: F401 (an installed package is found by its entry point)
import pandas
import pytest
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from conftest import command
from gigastore.torch import StorageReader
from torch.distributed.checkpoint import CheckpointException

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def group() -> Iterator[None]:
    """A group of one process, which saves in the background need."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def blocks(url: str) -> list[tuple[str, str]]:
    """Returns the examples of the section, over a store of the test."""
    section = README.partition("\n## In Python\n")[2].partition("\n## ")[0]
    found = [(kind, text.replace("file:///tmp/store", url)) for kind, text in BLOCK.findall(section)]
    assert [kind for kind, _ in found].count("python") >= 5
    return found


def run(kind: str, text: str, names: dict[str, Any]) -> None:
    """Runs an example: one that speaks of a rank as four of them."""
    if kind == "sh":
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["gigastore"]:
                command(*words[1:])
        return
    code = compile(text, "README.md", "exec")
    if "rank=rank" in text:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda rank: exec(code, {**names, "rank": rank, "launch": "drawn"}), range(4)))
    elif "self." not in text:  # Parts of tests/python/train.py, which tests of its own run.
        exec(code, names)


def test_the_examples_run(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: None) -> None:
    monkeypatch.chdir(tmp_path)
    pandas.DataFrame({"id": range(1000)}).to_parquet("part-0.parquet")
    for _ in range(2):
        names: dict[str, Any] = {}
        for kind, text in blocks(url):
            run(kind, text, names)
        assert names["pending"].wait().target == "demo/plain@101"
        assert names["rows"].read_all()["id"].to_pylist() == names["frame"]["id"].tolist() == list(range(1000))
    store = gigastore.Store(url)
    live = {name.name: [info.number for info in name.live] for name in store.list("demo")}
    assert live.items() >= {"plain": [100, 101], "ranks": [100], "dcp": [100, 200], "jax": [100]}.items()
    whole = store.checkpoint("demo/ranks").load(device="cpu")["w"]
    assert whole.equal(names["w"]) and names["state"]["w"].equal(whole)
    assert (names["part"] == whole[256:512].numpy()).all()
    # What it says of errors.
    with pytest.raises(CheckpointException) as caught:
        dcp.load({"w": names["w"]}, storage_reader=StorageReader(url, "demo/none"))
    assert not isinstance(caught.value, Exception)
    assert isinstance(caught.value.failures[0][0], gigastore.NotFoundError)
