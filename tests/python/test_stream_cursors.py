"""Streams and checkpoints: the cursor of all ranks lies in the record of the tensors, and any ranks go on from it."""

from __future__ import annotations

import itertools
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gigastore
import numpy as np
import pytest
import streams
from gigastore import ConflictError, Slice, Store
from gigastore.data import Stream
from streams import Model, drawn

CONCAT = {"mode": "concat", "seq_len": 16}
FIRST_FIT = {"mode": "first_fit", "seq_len": 24, "long": "split"}


def save(store: Store, step: int, data: list[Stream]) -> None:
    """Saves a checkpoint of as many ranks as there are streams."""
    attempt, tensor = uuid.uuid4().hex, np.full(8, step, np.float32)

    def one(rank: int) -> None:
        tensors = {"w": Slice(tensor, replicas=range(len(data)))}
        store.save(
            "demo/run", step, tensors, rank=rank, world_size=len(data), attempt=attempt, deadline=20, data=data[rank]
        )

    with ThreadPoolExecutor(len(data)) as pool:
        list(pool.map(one, range(len(data))))


@pytest.mark.parametrize("packing", [CONCAT, FIRST_FIT, {"mode": "documents"}], ids=lambda one: one["mode"])
def test_a_checkpoint_gives_tensors_and_data_back(url: str, tmp_path: Path, packing: dict[str, Any]) -> None:
    documents = drawn(4, 4, 6, 7, 40)
    streams.push(url, tmp_path / "corpus", documents)
    expected = Model(tmp_path / "corpus", documents, 3, 6, packing)
    store, cursor, positions, step = Store(url), None, list[int](), 0
    for world, steps in ((6, 2), (5, 1), (8, 1), (1, 7), (3, None)):
        ranks = [
            Stream(
                url,
                "demo/corpus",
                **expected.options(),
                columns=["positions"],
                format="numpy",
                batch_size=1,
                rank=rank,
                world_size=world,
                cursor=cursor,
            )
            for rank in range(world)
        ]
        for stream in ranks:
            positions += [int(batch["positions"][0]) for batch in itertools.islice(stream, steps)]
        step += 1
        save(store, step, ranks)
        checkpoint = store.checkpoint("demo/run")
        assert checkpoint.load()["w"].tolist() == [step] * 8
        cursor = checkpoint.cursor()
    assert sorted(position for position in positions if position >= 0) == list(range(len(expected.samples())))
    seen = json.loads(cursor or "")["seen"]
    assert (seen["digest"], seen["samples"]) == (expected.digest(), len(expected.samples()))
    alone = Stream(url, "demo/corpus", **expected.options())
    assert list(alone) and alone.seen == gigastore.data.Seen(**seen)


def test_ranks_that_are_apart_make_no_checkpoint(url: str, tmp_path: Path) -> None:
    streams.push(url, tmp_path / "corpus", drawn(4, 2, 3, 7, 40))
    ranks = [Stream(url, "demo/corpus", seq_len=8, batch_size=1, rank=rank, world_size=2) for rank in range(2)]
    next(ranks[1])
    store = Store(url)
    with pytest.raises(ConflictError, match="disagree on the position"):
        save(store, 1, ranks)
    with pytest.raises(gigastore.NotFoundError):
        store.checkpoint("demo/run")
    next(ranks[0])
    save(store, 2, ranks)
    assert json.loads(store.checkpoint("demo/run").cursor())["seen"]["samples"] == 2
