"""What the README shows of the package runs as it is written there, in its order, and again."""

from __future__ import annotations

import functools
import io
import re
import shlex
import tokenize
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gigastore
import gigastore.fsspec  # noqa: F401 (an installed package is found by its entry point)
import pandas
import pytest
import streams
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from conftest import command
from gigastore.data import Stream
from gigastore.torch import StorageReader
from torch.distributed.checkpoint import CheckpointException
from torch.utils.data import DataLoader

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SECTION = README.partition("\n## In Python\n")[2].partition("\n## ")[0]
SCRIPT = re.compile(r"tests/python/\w+\.py")
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def group() -> Iterator[None]:
    """A group of one process, which saves in the background need."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def blocks(url: str) -> list[tuple[str, str]]:
    """Returns the examples of the section, over a store of the test."""
    found = [(kind, text.replace("file:///tmp/store", url)) for kind, text in BLOCK.findall(SECTION)]
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
    elif "self." not in text:  # Parts of scripts, which tests of their own run.
        exec(code, names)


def statements(code: str) -> list[str]:
    """Returns the statements of some code, each as its words: without comments, and however its lines are broken."""
    found: list[str] = []
    words: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.NEWLINE:
            # A comma at the end comes and goes with the line.
            found.append(re.sub(r" , ([)\]}])", r" \1", " ".join(words)))
            words = []
        elif token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            words.append(token.string)
    return found


def test_parts_of_scripts_are_what_the_scripts_say() -> None:
    checked = []
    for block in BLOCK.finditer(SECTION):
        if block[1] == "python" and "self." in block[2]:
            named = SCRIPT.findall(SECTION, 0, block.start())[-1]
            script = iter(statements((ROOT / named).read_text()))
            for statement in statements(block[2]):
                # Lines may be left out, and others keep their order.
                assert statement == "..." or statement in script, f"{named} has no `{statement}` there"
            checked.append(named)
    assert checked == ["tests/python/train.py", "tests/python/train_stream.py"]


def test_the_examples_run(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: None) -> None:
    monkeypatch.chdir(tmp_path)
    pandas.DataFrame({"id": range(1000)}).to_parquet("part-0.parquet")
    streams.push(url, tmp_path / "tokens", streams.drawn(1, 1, 2, 8, 40), "demo/tokens")
    # Not by a fork: JAX has threads.
    loader = functools.partial(DataLoader, multiprocessing_context="spawn")
    for _ in range(2):
        stream, taken = Stream(url, "demo/tokens", seq_len=16, batch_size=2), list[Any]()
        names: dict[str, Any] = {"stream": stream, "DataLoader": loader, "train": taken.append}
        for kind, text in blocks(url):
            run(kind, text, names)
        assert taken and [batch["step"] for batch in taken] == list(range(stream.state_dict()["step"]))
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
