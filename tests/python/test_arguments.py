"""Calls that make no sense are refused as such, and what a launcher tells of its launches is not overrated."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gigastore
import numpy as np
import pytest
import torch
from conftest import visible
from gigastore import InvalidError, MissingRanksError, Slice, Store

W = np.arange(4, dtype=np.float32)

CALLS: dict[str, dict[str, Any]] = {
    "is not a target": {"target": "demo"},
    "is not a name": {"target": "Demo/run"},
    "the step is given apart": {"target": "demo/run@1"},
    "compress='zip'": {"compress": "zip"},
    "asynchronous='maybe'": {"asynchronous": "maybe"},
    "deadline: -1": {"deadline": -1},
    "step: -1 is no whole number": {"step": -1},
    "step: 1.5 is no whole number": {"step": 1.5},
    "step: 1180591620717411303424 is no": {"step": 1 << 70},
    "rank: -1 is no whole number": {"rank": -1},
    "deadline: nan is no number of seconds": {"deadline": float("nan")},
    '"12" can\'t be a tag': {"tag": "12"},
    '"latest" can\'t be a tag': {"tag": "latest"},
    "rank 1 of 1": {"rank": 1},
    "rank 2 of 2": {"rank": 2, "world_size": 2, "attempt": "a"},
    "rank 0 of 0": {"world_size": 0, "attempt": "a"},
    "nothing tells this launch": {"world_size": 2},
    "the name of a tensor is 1, an int: expected a str": {"tensors": {1: W}},
    "which is no Unicode text": {"tensors": {"\ud800": W}},
    "expected a mapping of names to tensors": {"tensors": [W]},
    "metadata 'a': 1 is not text by text": {"metadata": {"a": 1}},
    "tensors are a Linear, expected a mapping of names to tensors (pass a flat": {"tensors": torch.nn.Linear(2, 2)},
    "w: a collections.OrderedDict is no tensor (pass a flat mapping of names to tensors, such as model.state_dict(); "
    "nested state is saved by gigastore.torch": {"tensors": {"w": torch.nn.Linear(2, 2).state_dict()}},
    "w: a torch.nn.modules.linear.Linear is no tensor (pass a flat": {"tensors": {"w": torch.nn.Linear(2, 2)}},
    "file 'a' is text, expected bytes (text.encode(), or": {"files": {"a": "text"}},
    "file 'b' is a PosixPath, expected the content of the file: bytes (pass path.read_bytes())": {
        "files": {"b": Path("/tmp/x")}
    },
    '"" can\'t name a tensor': {"tensors": {"": W}},
    "can't name a tensor: expected 1 to 1024": {"tensors": {"x" * 1025: W}},
    "without control characters": {"tensors": {"a\0b": W}},
    "is not a path inside": {"files": {"../escaped": b"x"}},
    '"/absolute" is not a path': {"files": {"/absolute": b"x"}},
    "commit=False and asynchronous exclude each other": {"commit": False, "asynchronous": True},
    "progress and asynchronous exclude each other": {"progress": print, "asynchronous": True},
    "let wait() of the save that is returned tell": {"progress": print, "asynchronous": "skip"},
    "no slice among them": {"tensors": {}},
    "each rank would skip, or not, on its own": {
        "world_size": 2,
        "attempt": "a",
        "asynchronous": "skip",
    },
    "rank: 8589934592 is no whole number from 0 to 2^32 - 1": {"rank": 1 << 33},
    "world_size: 'x' is no whole": {"world_size": "x"},
    "target is 5, an int": {"target": 5},
    "target is '\\ud800/run', which is no Unicode text": {"target": "\ud800/run"},
    "tag is 5, an int": {"tag": 5},
    "attempt is 5, an int": {"attempt": 5},
    "deadline: 'x' is no number": {"deadline": "x"},
    "compress=[]": {"compress": []},
    "metadata is a list, expected a mapping": {"metadata": [1]},
    "metadata 'a' is '\\ud800', which is no": {"metadata": {"a": "\ud800"}},
    "files are a list, expected a mapping": {"files": [1]},
    "progress is an int": {"progress": 5},
    "w: 5 are no whole numbers": {"tensors": {"w": Slice(W, global_shape=5)}},  # type: ignore[arg-type]
    "w is 5, an int": {"tensors": {"w": Slice(W, dtype=5)}},  # type: ignore[arg-type]
    "8589934592 is no whole number from 0 to 2^32": {"tensors": {"w": Slice(W, replicas=(1 << 33,))}},
}


def launched_by(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    """Makes the environment that of a rank which a launcher started."""
    for variable in list(os.environ):
        if variable.startswith(("TORCHELASTIC_", "SLURM_", "GROUP_")):
            monkeypatch.delenv(variable)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)


@pytest.mark.parametrize("problem", CALLS)
def test_calls_that_make_no_sense(store: Store, monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    launched_by(monkeypatch)
    arguments = {"target": "demo/run", "step": 1, "tensors": {"w": W}, **CALLS[problem]}
    with pytest.raises(InvalidError) as caught:
        store.save(**arguments)
    assert problem in str(caught.value)
    assert visible(store) == []


OTHER_CALLS: dict[str, Callable[[Store, gigastore.Checkpoint], Any]] = {
    "'/tmp/store' is not a URL (did you mean file:///tmp/store?)": lambda *_: Store(Path("/tmp/store")),
    "url is None": lambda store, _: Store(None),  # type: ignore[arg-type]
    "token is a bytes: expected a str": lambda store, _: Store(store.url, b"x"),  # type: ignore[arg-type]
    "into is a Tensor, expected a mapping": lambda _, one: one.load(into=torch.zeros(4)),  # type: ignore[arg-type]
    "into is a ndarray, expected a mapping": lambda _, one: one.load(into=W),  # type: ignore[arg-type]
    "into has 'W', which names does not have (did you mean w?)": lambda _, one: one.load(["w"], into={"W": W}),
    "into has 's', which names does not have (add it to names": lambda _, one: one.load(["w"], into={"w": W, "s": W}),
    "into has 5, which names does not have": lambda _, one: one.load(["w"], into={5: W}),  # type: ignore[dict-item]
    "into has '00'": lambda _, one: one.load([], into={f"{number:02}": W for number in range(13)}),
    "target is 5": lambda store, _: store.checkpoint(5),  # type: ignore[arg-type]
    "target is '\\ud800'": lambda store, _: store.resolve("\ud800"),
    "project is None": lambda store, _: store.list(None),  # type: ignore[arg-type]
    "tag is 5": lambda store, _: store.tag("demo/run@1", 5),  # type: ignore[arg-type]
    "before is None": lambda store, _: store.diff(None, "demo/run"),  # type: ignore[arg-type]
    "after: -1": lambda store, _: store.watch("demo/run", after=-1),
    "timeout: 'x'": lambda store, _: store.watch("demo/run", timeout="x"),  # type: ignore[arg-type]
    "attempt is None": lambda store, _: store.commit("demo/run", 2, world_size=2, attempt=cast(Any, None)),
    "names are 'ws': expected several": lambda _, one: one.load("ws"),
    "names are 5": lambda _, one: one.load(5),  # type: ignore[arg-type]
    "one of names is 5": lambda _, one: one.load([5]),  # type: ignore[list-item]
    "device='bogus'": lambda _, one: one.load(device="bogus"),
    "device='cuda'": lambda _, one: one.slice("w", 0, device="cuda"),
    "w: a box has no [0, 1] in it": lambda _, one: one.slice("w", [0, 1]),  # type: ignore[arg-type]
    "w: a box has no 1.5 in it": lambda _, one: one.slice("w", 1.5),  # type: ignore[arg-type]
    "w: slice('a', None, None) can't": lambda _, one: one.slice("w", (slice("a", None),)),
    "w: -1 is no whole number": lambda _, one: one.slice("w", ([-1], [1])),
    "start: -5": lambda _, one: one.read_file("f", start=-5),
    "end: 'x'": lambda _, one: one.read_file("f", end="x"),  # type: ignore[arg-type]
    "path is b'f'": lambda _, one: one.read_file(b"f"),  # type: ignore[arg-type]
    "paths are 'f'": lambda _, one: one.read_files("f"),
    "names are 'w'": lambda _, one: one.export("/nowhere", names="w"),
}


@pytest.mark.parametrize("problem", OTHER_CALLS)
def test_other_calls_that_make_no_sense(store: Store, problem: str) -> None:
    store.save("demo/run", 1, {"w": W, "s": W}, files={"f": b"12"})
    with pytest.raises(InvalidError) as caught:
        OTHER_CALLS[problem](store, store.checkpoint("demo/run"))
    assert problem in str(caught.value)


NO_URLS = {
    "file:/x": "did you mean file:///x?",
    "file:x": "did you mean file:///x?",
    "file://x": "did you mean file:///x?",
    "s3:/bucket/prefix": "did you mean s3://bucket/prefix?",
    "http:/host:7070": "did you mean http://host:7070?",
    "localhost:7070": "did you mean http://localhost:7070?",
    "/tmp/a b": "did you mean file:///tmp/a%20b?",
    "folder": "/folder? URLs of stores are file:///DIR, s3://BUCKET/PREFIX, gs://…, az://…, or http(s)://HOST:PORT",
    "file:": "expected file:///DIR",
    "ftp://host/x": "or http(s)://HOST:PORT of a service",
}


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(InvalidError, match="is not (a URL|the URL of a store)") as caught:
        Store(url, create=False)
    assert NO_URLS[url] in str(caught.value) and repr(url) in str(caught.value)


def test_a_url_that_pathlib_has_cut() -> None:
    with pytest.raises(InvalidError, match=r"did you mean s3://bucket/prefix\?"):
        Store(Path("s3://bucket/prefix"), create=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [str, str.encode, Path], ids=["str", "bytes", "path"])
def test_no_error_tells_a_token(store: Store, kind: Callable[[str], Any]) -> None:
    for token in ("gst_0123456789abcdef", " gst_0123456789abcdef", "gst_0123456789abcdef://x"):
        with pytest.raises(InvalidError, match="this looks like a token: pass it as token=") as caught:
            Store(kind(token))
        assert "0123" not in str(caught.value) and "0123" not in repr(caught.value)
    for secret in (b"gst_0123456789abcdef", "gst_0123456789abcdef\ud800"):
        with pytest.raises(InvalidError, match="token is") as caught:
            Store(store.url, secret)  # type: ignore[arg-type]
        assert "0123" not in str(caught.value)


DRAWN = "0b0b1bd1-6ae5-4a4b-8bd5-3a5b0d9a44f7"
STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
# What may be the same after a restart: the id of a job, a count that a step of another launcher does not know.
SAME_AGAIN: list[dict[str, str]] = [
    {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0"},
    {"TORCHELASTIC_RUN_ID": "7", "TORCHELASTIC_RESTART_COUNT": "0", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"},
    {"TORCHELASTIC_RUN_ID": "7", **STEP},
    {"TORCHELASTIC_RUN_ID": DRAWN, "GROUP_WORLD_SIZE": "2"},
    {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "0"},
    {**STEP, "SLURM_STEP_NUM_TASKS": "1"},
]


@pytest.mark.parametrize("environment", SAME_AGAIN, ids=str)
def test_two_launches_do_not_make_one_checkpoint(
    store: Store, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    launched_by(monkeypatch, **environment)
    for rank in range(2):
        with pytest.raises(InvalidError, match="nothing tells this launch.*pass attempt"):
            store.save("demo/run", 1, {f"w{rank}": W}, rank=rank, world_size=2, commit=False)
    assert visible(store) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"TORCHELASTIC_RUN_ID": DRAWN}, {"TORCHELASTIC_RUN_ID": DRAWN, "TORCHELASTIC_RESTART_COUNT": "1"}),
        ({"TORCHELASTIC_RUN_ID": DRAWN}, {"TORCHELASTIC_RUN_ID": DRAWN, "SLURM_RESTART_COUNT": "1"}),
        ({"TORCHELASTIC_RUN_ID": DRAWN}, {"TORCHELASTIC_RUN_ID": DRAWN.replace("0b0b", "1c1c")}),
        (STEP, {**STEP, "SLURM_STEP_ID": "1"}),
        (STEP, {**STEP, "SLURM_RESTART_COUNT": "1"}),
    ],
    ids=str,
)
def test_a_launcher_tells_its_launches_apart(
    store: Store, monkeypatch: pytest.MonkeyPatch, before: dict[str, str], after: dict[str, str]
) -> None:
    launched_by(monkeypatch, **before)
    store.save("demo/run", 1, {"w": Slice(W[:2], (4,), (0,), (2,))}, rank=0, world_size=2, commit=False)
    launched_by(monkeypatch, **after)
    with pytest.raises(MissingRanksError):
        store.save("demo/run", 1, {"w": Slice(W[2:], (4,), (2,), (2,))}, rank=1, world_size=2, deadline=0.5)
    assert visible(store) == []
    store.save("demo/run", 1, {"w": Slice(W[:2] + 1, (4,), (0,), (2,))}, rank=0, world_size=2)
    assert store.checkpoint("demo/run@1").load()["w"].tolist() == [1, 2, 2, 3]
