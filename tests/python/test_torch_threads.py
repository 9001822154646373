"""`gigastore.torch` where one writer or reader serves several saves and loads, one after another and at once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

import gigastore
from gigastore.torch import StorageReader, StorageWriter

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def filled(value: float) -> dict[str, Any]:
    """Returns a state that is loaded partly in place, partly through memory of the reader."""
    return {"plain": torch.full((1000,), value), "turned": torch.full((40, 50), value).t(), "step": int(value)}


def test_one_reader_serves_many_threads(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small batches: many of them in each load.
    monkeypatch.setattr("gigastore.torch.reader._STAGED_BYTES", 1000)
    for step in range(1, 5):
        dcp.save(filled(float(step)), storage_writer=StorageWriter(url, f"demo/r{step}@{step}"))
    reader = StorageReader(url)
    wrong: list[Any] = []
    together = threading.Barrier(4)

    def load(step: int) -> None:
        together.wait(30)
        try:
            for _ in range(5):
                found = filled(0.0)
                dcp.load(found, storage_reader=reader, checkpoint_id=f"demo/r{step}@{step}")
                same = all(found[name].eq(float(step)).all() for name in ("plain", "turned"))
                if not same or found["step"] != step:
                    wrong.append(step)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=load, args=(step,)) for step in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_name_holds_for_one_save_and_one_load(url: str, store: gigastore.Store) -> None:
    writer, reader = StorageWriter(url, "demo/own@1"), StorageReader(url, "demo/own@1")
    assert writer.checkpoint_id == reader.checkpoint_id == "demo/own@1"
    dcp.save(filled(7.0), storage_writer=writer, checkpoint_id="demo/other@7")
    dcp.save(filled(1.0), storage_writer=writer)
    assert [name.name for name in store.list("demo")] == ["other", "own"]
    for given, value in (("demo/other@7", 7.0), (None, 1.0)):
        found = filled(0.0)
        dcp.load(found, storage_reader=reader, **({"checkpoint_id": given} if given else {}))
        assert found["plain"].eq(value).all()
    for one in (writer, reader):
        one.reset("demo/third@3")
        assert one.checkpoint_id == "demo/third@3"
        one.reset()
        assert one.checkpoint_id == "demo/own@1"


def test_a_name_holds_for_one_save_that_failed(url: str, tmp_path: Path) -> None:
    writer, reader = StorageWriter(url, "demo/own@1"), StorageReader(url, "demo/own@1")
    with pytest.raises(CheckpointException):
        dcp.save({"a.b": 1, "a": {"b": 2}}, storage_writer=writer, checkpoint_id="demo/other@7")
    dcp.save(filled(1.0), storage_writer=writer)
    assert writer.committed is not None and writer.committed.target == "demo/own@1"
    with pytest.raises(CheckpointException):
        dcp.load(filled(0.0), storage_reader=reader, checkpoint_id="demo/other@7")
    found = filled(0.0)
    dcp.load(found, storage_reader=reader)
    assert found["plain"].eq(1.0).all()


def test_tied_tensors_are_loaded_in_place(url: str) -> None:
    tied, fused = torch.arange(12.0).reshape(3, 4), torch.arange(20.0)
    state = {"a": tied, "b": tied, "rows": tied[1:], "first": fused[:10], "second": fused[10:], "none": tied[3:]}
    dcp.save(state, storage_writer=StorageWriter(url, "demo/tied@1"))
    into, flat = torch.zeros(3, 4), torch.zeros(20)
    found = {"a": into, "b": into, "rows": into[1:], "first": flat[:10], "second": flat[10:], "none": into[3:]}
    dcp.load(found, storage_reader=StorageReader(url, "demo/tied@1"))
    assert torch.equal(into, tied) and torch.equal(flat, fused)
    assert found["b"].data_ptr() == into.data_ptr()
