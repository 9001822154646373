"""Cursors of data streams: where the data was when `save` was called, in the same record as the tensors."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import gigastore
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch_jobs as jobs
from conftest import Service
from gigastore import ConflictError, InvalidError, NotFoundError, Store
from gigastore.jax import save_pytree
from gigastore.torch import StorageReader, StorageWriter
from torch_ranks import Ranks, ranks

__all__ = ["ranks"]

W = np.arange(16, dtype=np.float32)


class Stream:
    """A stream that somebody else made: it counts samples, and says where it is."""

    def __init__(self, samples: int = 0) -> None:
        self.samples = samples

    def cursor(self) -> str:
        """Returns the cursor of a rank that saw all samples so far."""
        return cursor(self.samples, self.samples)


def cursor(samples: int, seen: int) -> str:
    """Returns the cursor of a stream after `samples` samples, of a rank that saw `seen` of them."""
    source = {
        "dataset": "demo/web@3",
        "order": "ab" * 32,
        "spec": {"seed": 7, "lanes": 1, "window": 4, "packing": {"mode": "documents"}},
        "weight": 1_000_000,
        "weighed": samples,
        "samples": samples,
        "counted": samples,
        "epoch": 0,
        "next": 0,
        "lanes": [[samples, 0]],
    }
    counted = {"digest": f"{seen:02x}" + "00" * 31, "samples": seen, "tokens": 8 * seen, "documents": seen, "missing": 0}
    found = {
        "format": "gigastore-cursor-1",
        "algorithm": 1,
        "samples": samples,
        "unit": "samples",
        "counted": samples,
        "sources": [source],
        "seen": counted,
    }
    return json.dumps(found)


def samples_of(store: Store, target: str, name: str = "data") -> tuple[int, int]:
    """Returns where a checkpoint says that the data was, and how many samples were seen."""
    found = json.loads(store.checkpoint(target).cursor(name))
    return found["samples"], found["seen"]["samples"]


@pytest.mark.parametrize("served", [False, True])
def test_a_cursor_comes_back_with_the_checkpoint(url: str, served: bool, serve: Callable[..., Service]) -> None:
    store = Store(url)
    if served:
        store = Store(serve(url).url)
    stream = Stream(12)
    store.save("demo/run", 1, {"w": W}, data=stream)
    checkpoint = store.checkpoint("demo/run@1")
    assert list(checkpoint.cursors) == ["data"]
    assert json.loads(checkpoint.cursor()) == json.loads(stream.cursor())
    assert checkpoint.cursor() == checkpoint.cursor("data") == checkpoint.cursors["data"]
    # What came back is taken as it is.
    store.save("demo/run", 2, {"w": W}, data=checkpoint.cursors)
    assert store.checkpoint("demo/run@2").cursors == checkpoint.cursors
    store.save("demo/run", 3, {"w": W})
    assert store.checkpoint("demo/run@3").cursors == {}
    with pytest.raises(NotFoundError, match="no cursor of a data stream 'data'"):
        store.checkpoint("demo/run@3").cursor()
    with pytest.raises(NotFoundError) as found:
        store.checkpoint("demo/run@2").cursor("eval")
    assert found.value.known == ["data"]


def test_streams_by_name(store: Store) -> None:
    store.save("demo/run", 1, {"w": W}, data={"train": Stream(12), "eval": cursor(3, 3)})
    assert samples_of(store, "demo/run@1", "train") == (12, 12)
    assert samples_of(store, "demo/run@1", "eval") == (3, 3)


def test_ranks_add_up_what_they_saw(store: Store) -> None:
    seen: list[str | None] = [cursor(12, 5), cursor(12, 7), None]
    failed: list[BaseException] = []

    def save(rank: int, step: int, data: str | None) -> None:
        mine = gigastore.Slice(W[rank * 4 : rank * 4 + 4], (12,), (rank * 4,))
        try:
            store.save("demo/run", step, {"w": mine}, rank=rank, world_size=3, attempt="one", data=data)
        except gigastore.GigastoreError as error:
            failed.append(error)

    def all_of(step: int, cursors: list[str | None]) -> None:
        ranks = [threading.Thread(target=save, args=(rank, step, one)) for rank, one in enumerate(cursors)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()

    all_of(1, seen)
    assert not failed and samples_of(store, "demo/run@1") == (12, 12)
    all_of(2, [cursor(12, 5), None, cursor(13, 7)])
    assert len(failed) == 3
    for error in failed:
        assert isinstance(error, ConflictError)
        assert "ranks 0 and 2" in str(error) and "12 samples and 13 samples" in str(error)


def test_the_same_step_elsewhere_in_the_data_is_a_conflict(store: Store) -> None:
    store.save("demo/run", 1, {"w": W}, data=Stream(12))
    assert store.save("demo/run", 1, {"w": W}, data=Stream(12)).existed
    with pytest.raises(ConflictError, match="expected 12 samples, actual 13 samples"):
        store.save("demo/run", 1, {"w": W}, data=Stream(13))
    assert samples_of(store, "demo/run@1") == (12, 12)


def test_a_diff_says_whether_the_same_data_was_seen(store: Store) -> None:
    for step, (samples, seen) in enumerate([(12, 12), (12, 12), (12, 11), (13, 13)]):
        store.save("demo/run", step, {"w": W}, data=cursor(samples, seen))
    words = [store.diff("demo/run@0", f"demo/run@{step}").streams for step in (1, 2, 3)]
    assert words == [{"data": "same"}, {"data": "differs"}, {"data": "apart"}]


def test_saves_in_the_background_keep_the_place_at_which_they_were_called(store: Store) -> None:
    stream, pending = Stream(), []
    for step in range(1, 5):
        stream.samples = 10 * step
        pending.append(store.save("demo/run", step, {"w": W}, asynchronous=True, data=stream))
        stream.samples += 5
    for save in pending:
        save.wait()
    assert [samples_of(store, f"demo/run@{step}")[0] for step in range(1, 5)] == [10, 20, 30, 40]


class Wrong:
    """What a stream must not be."""

    def cursor(self) -> Any:
        """Returns no text."""
        return 7


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (7, "'data' is an int, which can't say where it is"),
        (Wrong(), "what cursor.. of 'data' returned is 7"),
        ({3: Stream()}, "the name of a data stream is 3"),
        ({"a b": Stream()}, "the name of a data stream: \"a b\" is not a name"),
        ("{}", "data stream \"data\": not a cursor of a data stream"),
        (cursor(1, 1).replace("cursor-1", "cursor-9"), "has the format \"gigastore-cursor-9\""),
        (cursor(1, 1).replace('"algorithm": 1', '"algorithm": 9'), "order algorithm 9"),
    ],
)
def test_what_is_no_stream_is_refused(store: Store, data: Any, said: str) -> None:
    with pytest.raises(InvalidError, match=said):
        store.save("demo/run", 1, {"w": W}, data=data)
    with pytest.raises(NotFoundError):
        store.resolve("demo/run@1")


def test_pytrees(store: Store) -> None:
    save_pytree(store, "demo/tree", 1, {"w": W}, data=Stream(12))
    assert samples_of(store, "demo/tree@1") == (12, 12)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dcp(store: Store) -> None:
    stream, state = Stream(12), {"w": torch.arange(16.0), "step": 3}
    writer = StorageWriter(store, data=stream)
    dcp.save(state, storage_writer=writer, checkpoint_id="demo/dcp@1")
    assert samples_of(store, "demo/dcp@1") == (12, 12)
    loaded = {"w": torch.zeros(16), "step": 0}
    dcp.load(loaded, storage_reader=StorageReader(store, "demo/dcp@1"))
    assert torch.equal(loaded["w"], state["w"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dcp_in_the_background_keeps_the_place_at_which_it_was_called(store: Store) -> None:
    stream = Stream()
    writer = StorageWriter(store, data=stream)
    held, go = threading.Event(), threading.Event()
    save = store.save

    def slow(*arguments: Any, **options: Any) -> Any:
        held.set()
        go.wait(60)
        return save(*arguments, **options)

    writer.store.save = slow  # type: ignore[method-assign]
    stream.samples = 10
    future = dcp.async_save({"w": torch.arange(16.0)}, storage_writer=writer, checkpoint_id="demo/dcp@1")
    assert held.wait(60)
    stream.samples = 15
    go.set()
    future.result()
    stream.samples = 20
    dcp.async_save({"w": torch.arange(16.0)}, storage_writer=writer, checkpoint_id="demo/dcp@2").result()
    assert [samples_of(store, f"demo/dcp@{step}")[0] for step in (1, 2)] == [10, 20]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dcp_with_another_stager_is_refused(store: Store) -> None:
    writer, stager = StorageWriter(store, data=Stream(12)), gigastore.torch.Staging()
    future = dcp.async_save(
        {"w": torch.arange(16.0)}, storage_writer=writer, checkpoint_id="demo/dcp@1", async_stager=stager
    )
    with pytest.raises(BaseException, match="nothing tells where the data was"):
        future.result()
    with pytest.raises(NotFoundError):
        store.resolve("demo/dcp@1")


def test_ranks_of_dcp_that_have_no_tensor_to_send_count_too(ranks: Ranks, url: str, store: Store) -> None:
    ranks(3, jobs.save_with_data, url, "demo/dcp@1", [cursor(12, 3), cursor(12, 4), cursor(12, 5)])
    assert samples_of(store, "demo/dcp@1") == (12, 12)
