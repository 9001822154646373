"""`gigastore.torch.Staging`: copies that keep their memory, and are not written to while anything reads them."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import AsyncStager

import gigastore
from gigastore.torch import Staging, StorageReader, StorageWriter
from gigastore.torch.memory import HostArea

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def state(value: float) -> dict[str, Any]:
    """Returns a state of tensors of all kinds of layouts."""
    tied = torch.full((50, 3), value)
    return {
        "model": OrderedDict(a=tied, b=tied, c=torch.full((8, 6), value).t(), d=torch.full((10, 4), value)[::2]),
        "list": [torch.tensor(value), (torch.full((3,), value, dtype=torch.bfloat16), "x")],
        "none": torch.empty(0, 3),
        "bits": torch.full((5,), value > 0),
        "numbers": [1, 2, {"lr": value}],
    }


def tensors(value: Any) -> list[torch.Tensor]:
    """Returns the tensors of a nested value."""
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in inner for tensor in tensors(item)]


def same(a: Any, b: Any) -> bool:
    """Tells whether two nested values are the same, types included."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return type(a) is type(b) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) and type(a) is type(b)


def addresses(staged: Any) -> set[int]:
    """Returns where the memory of staged tensors begins."""
    return {tensor.untyped_storage().data_ptr() for tensor in tensors(staged) if tensor.numel()}


def test_copies_are_equal_and_apart() -> None:
    staging = Staging()
    assert isinstance(staging, AsyncStager)
    original = state(1.5)
    staged = staging.stage(original)
    assert same(staged, state(1.5))
    for tensor in tensors(original):
        tensor.zero_()
    original["numbers"][2]["lr"] = 0
    assert same(staged, state(1.5))
    assert len(addresses(staged)) == 1
    assert staged["model"]["a"].data_ptr() == staged["model"]["b"].data_ptr(), "tied tensors are copied once"
    assert all(tensor.is_contiguous() for tensor in tensors(staged))


def test_memory_is_used_again_when_no_tensor_is_left() -> None:
    staging = Staging()
    staged = staging.stage(state(1.0))
    first, kept = addresses(staged), staging.bytes
    held = staged["model"]["c"].detach()[0]
    del staged
    beside = staging.stage(state(2.0))
    second = addresses(beside)
    assert second != first and staging.bytes == 2 * kept, "a view of the first copy is left"
    assert held.eq(1.0).all()
    del held, beside
    for value in range(5):
        staged = staging.stage(state(float(value)))
        assert addresses(staged) <= first | second and staging.bytes == 2 * kept
        assert same(staged, state(float(value)))
        del staged
    staging.close()
    assert staging.bytes == 0


@pytest.mark.parametrize("through", ["staging", "writer"])
def test_a_stage_that_is_still_held_is_not_written_over(url: str, through: str) -> None:
    staging = Staging()
    writer = StorageWriter(url, staging=staging)
    stage = (staging if through == "staging" else writer).stage
    model = {"w": torch.ones(4)}
    first = stage(model)
    dcp.save(first, storage_writer=writer, checkpoint_id="demo/run@1")
    model["w"].fill_(2)
    second = stage(model)
    model["w"].fill_(3)
    dcp.async_save(model, storage_writer=writer, async_stager=Staging(), checkpoint_id="demo/other@1").result()
    dcp.save(first, storage_writer=writer, checkpoint_id="demo/best@1")
    dcp.save(second, storage_writer=writer, checkpoint_id="demo/run@2")
    for target, value in (("demo/run@1", 1.0), ("demo/best@1", 1.0), ("demo/run@2", 2.0), ("demo/other@1", 3.0)):
        found = {"w": torch.zeros(4)}
        dcp.load(found, storage_reader=StorageReader(url, target))
        assert found["w"].eq(value).all(), target


def test_a_save_that_failed_is_tried_again_with_the_same_stage(url: str) -> None:
    writer = StorageWriter(url)
    dcp.save({"w": torch.zeros(4)}, storage_writer=writer, checkpoint_id="demo/run@1")
    staged = writer.stage({"w": torch.ones(4)})
    with pytest.raises(CheckpointException):
        dcp.save(staged, storage_writer=writer, checkpoint_id="demo/run@1")
    dcp.async_save({"w": torch.full((4,), 5.0)}, storage_writer=writer, checkpoint_id="demo/run@2").result()
    dcp.save(staged, storage_writer=writer, checkpoint_id="demo/run@3")
    found = {"w": torch.zeros(4)}
    dcp.load(found, storage_reader=StorageReader(url, "demo/run@3"))
    assert found["w"].eq(1.0).all()


def test_a_save_without_copies_frees_no_copies_of_another(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = StorageWriter(url)
    plain, turned = torch.arange(6.0), [torch.full((4, 6), float(i)).t() for i in range(3)]
    store_save = writer.store.save

    def another(name: str, tensor: torch.Tensor) -> None:
        dcp.save({"w": tensor}, storage_writer=writer, checkpoint_id=f"demo/{name}@1")

    threads: list[threading.Thread] = []
    copied, ended = threading.Event(), threading.Event()

    # A save without copies begins; another copies, and stands still; the first ends, and a third copies.
    def gated(run: str, *arguments: Any, **options: Any) -> Any:
        if run == "demo/plain":
            threads.append(threading.Thread(target=another, args=("one", turned[1])))
            threads[-1].start()
            assert copied.wait(30)
        elif run == "demo/one":
            copied.set()
            assert ended.wait(30)
        return store_save(run, *arguments, **options)

    monkeypatch.setattr(writer.store, "save", gated)
    another("plain", plain)
    another("two", turned[2])
    ended.set()
    threads[0].join()
    for name, value in (("one", 1.0), ("two", 2.0)):
        found = {"w": torch.zeros(6, 4)}
        dcp.load(found, storage_reader=StorageReader(url, f"demo/{name}@1"))
        assert found["w"].eq(value).all(), name


def test_a_stage_waits_for_memory_and_says_so() -> None:
    staging = Staging(states=1, deadline=0.3)
    held = [staging.stage(state(1.0))]
    with pytest.raises(gigastore.UnavailableError, match="still being saved"):
        staging.stage(state(2.0))
    assert same(held[0], state(1.0))
    staging = Staging(states=1, deadline=20.0)
    held = [staging.stage(state(1.0))]
    timer = threading.Timer(0.3, held.clear)
    timer.start()
    started = time.monotonic()
    assert same(staging.stage(state(2.0)), state(2.0))
    assert 0.2 < time.monotonic() - started < 10


def test_a_state_that_grows_gets_more_memory() -> None:
    staging = Staging()
    staging.stage({"w": torch.ones(10)})
    small = staging.bytes
    staged = staging.stage({"w": torch.ones(1000)})
    assert staging.bytes > small and staged["w"].sum() == 1000
    del staged
    assert staging.stage({"w": torch.ones(10)})["w"].sum() == 10


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_memory_is_pinned_for_as_long_as_it_is_there(monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    said: list[tuple[str, int, int]] = []
    area = HostArea(shared)
    # Not to hold what is to be collected.
    seen = weakref.ref(area)

    def pin(address: int, size: int) -> None:
        said.append(("pin", address, size))

    def unpin(address: int) -> None:
        held = seen()
        assert held is None or held._flat.data_ptr() == address, "memory that is gone is still pinned"
        said.append(("unpin", address, 0))

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda._pin_memory_utils.pin_memory", pin)
    monkeypatch.setattr("torch.cuda._pin_memory_utils.unpin_memory", unpin)
    small = area.take(1000).data_ptr()
    assert said == [("pin", small, 1000)]
    area.give_back()
    assert area.take(10).data_ptr() == small and len(said) == 1, "what fits takes no other memory"
    area.give_back()
    large = area.take(1 << 20).data_ptr()
    assert said[1:] == [("unpin", small, 0), ("pin", large, 1 << 20)]
    del area
    gc.collect()
    assert seen() is None and said[3:] == [("unpin", large, 0)]


Pair = namedtuple("Pair", "left right")


def test_structure_is_kept() -> None:
    staged = Staging().stage({"pair": Pair(torch.ones(1), 2), "deep": {"a": [{"b": (torch.ones(2),)}]}, "text": "x"})
    assert type(staged["pair"]) is Pair and staged["pair"].right == 2
    assert torch.equal(staged["deep"]["a"][0]["b"][0], torch.ones(2))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.empty(2, device="meta"), "meta"),
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.eye(2).to_sparse_csr(), "sparse_csr"),
        (threading.Lock(), "lock"),
    ],
    ids=["meta", "sparse", "csr", "lock"],
)
def test_what_can_not_be_staged_is_named(value: Any, says: str) -> None:
    with pytest.raises(gigastore.InvalidError, match=says) as caught:
        Staging().stage({"good": torch.ones(1), "inner": [{"bad": value}]})
    assert "inner.0.bad" in str(caught.value)


def test_a_cycle_is_named() -> None:
    looped: dict[str, Any] = {"w": torch.ones(1)}
    looped["inner"] = {"self": looped}
    with pytest.raises(gigastore.InvalidError, match=r"inner\.self holds itself"):
        Staging().stage(looped)


def test_async_saves_through_one_writer_keep_their_memory(url: str) -> None:
    writer = StorageWriter(url)
    kept = set()
    for step in range(1, 5):
        current = state(float(step))
        future = dcp.async_save(current, storage_writer=writer, checkpoint_id=f"demo/run@{step}")
        for tensor in tensors(current):
            tensor.zero_()
        future.result()
        kept.add(writer._staging.bytes)
    assert len(kept) == 1, "one area, taken once"
    for step in range(1, 5):
        found = state(0.0)
        dcp.load(found, storage_reader=StorageReader(url, f"demo/run@{step}"))
        assert torch.equal(found["model"]["c"], torch.full((6, 8), float(step)))
        assert torch.equal(found["list"][1][0], torch.full((3,), float(step), dtype=torch.bfloat16))


def test_a_stager_of_its_own_serves_any_writer(url: str, tmp_path: Any) -> None:
    staging = Staging()
    for step in (1, 2):
        writer = StorageWriter(url, f"demo/run@{step}")
        dcp.async_save({"w": torch.full((4,), float(step))}, storage_writer=writer, async_stager=staging).result()
    dcp.async_save({"w": torch.full((4,), 3.0)}, checkpoint_id=str(tmp_path / "dcp"), async_stager=staging).result()
    found = {"w": torch.zeros(4)}
    dcp.load(found, checkpoint_id=str(tmp_path / "dcp"))
    assert torch.equal(found["w"], torch.full((4,), 3.0))


def test_two_saves_of_one_writer_at_once_do_not_mix(url: str) -> None:
    writer = StorageWriter(url)
    futures = [
        dcp.async_save({"w": torch.full((1 << 16,), float(i))}, storage_writer=writer, checkpoint_id=f"demo/r{i}@{i}")
        for i in range(1, 4)
    ]
    for future in futures:
        future.result()
    for i in range(1, 4):
        found = {"w": torch.zeros(1 << 16)}
        dcp.load(found, storage_reader=StorageReader(url, f"demo/r{i}@{i}"))
        assert found["w"].eq(float(i)).all()


def test_a_failed_save_gives_its_memory_back(url: str) -> None:
    writer = StorageWriter(url, staging=Staging(states=1, deadline=5.0))
    dcp.async_save({"w": torch.ones(4)}, storage_writer=writer, checkpoint_id="demo/run@1").result()
    other = dcp.async_save({"w": torch.zeros(4)}, storage_writer=writer, checkpoint_id="demo/run@1")
    with pytest.raises(CheckpointException) as caught:
        other.result()
    assert isinstance(caught.value.failures[0][0], gigastore.ConflictError)
    # The future still holds the exception, that the frames of the save, and those its tensors.
    kept = writer._staging.bytes
    dcp.async_save({"w": torch.zeros(4)}, storage_writer=writer, checkpoint_id="demo/run@2").result()
    assert writer._staging.bytes == kept


SHARED = """
import torch
from gigastore.torch import Staging

def child(pipe):
    for _ in range(2):
        pipe.send(pipe.recv()["w"].sum().item())

if __name__ == "__main__":
    import torch.multiprocessing
    staging = Staging(shared=True)
    ours, theirs = torch.multiprocessing.get_context("spawn").Pipe()
    process = torch.multiprocessing.get_context("spawn").Process(target=child, args=(theirs,))
    process.start()
    addresses = set()
    for value in (1.0, 2.0):
        staged = staging.stage({"w": torch.full((1000,), value)})
        assert staged["w"].is_shared()
        addresses.add(staged["w"].data_ptr())
        ours.send(staged)
        print(ours.recv())
        del staged
    process.join()
    assert len(addresses) == 1
"""


def test_shared_memory_is_seen_by_other_processes(tmp_path: Any) -> None:
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1000.0", "2000.0"]
