"""Streams of batches: what is in them, on however many ranks and from wherever they go on."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gigastore
import numpy as np
import pytest
import streams
import torch
from gigastore import ConflictError, InvalidError
from gigastore.data import Stream
from streams import COLUMNS, Model, drawn, same

CONCAT = {"mode": "concat", "seq_len": 16}
FIRST_FIT = {"mode": "first_fit", "seq_len": 24, "long": "split"}
PACKINGS = [CONCAT, FIRST_FIT, {"mode": "first_fit", "seq_len": 16, "long": "truncate"}, {"mode": "documents"}]
named = pytest.mark.parametrize("packing", PACKINGS, ids=lambda one: one["mode"] + one.get("long", ""))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, streams.Documents]:
    """A store with two small datasets: its URL, where the files of the first are, and what they hold."""
    folder = tmp_path_factory.mktemp("streams")
    url = f"file://{folder}/store"
    documents = drawn(1, 4, 6, 7, 40)
    streams.push(url, folder / "corpus", documents)
    streams.push(url, folder / "other", drawn(2, 2, 5, 9, 30, 1 << 20), "demo/other", "uint32")
    return url, folder / "corpus", documents


@pytest.fixture
def model(corpus: tuple[str, Path, streams.Documents]) -> Callable[..., Model]:
    """Makes models of the first dataset."""
    return lambda packing, seed=3, lanes=4, **more: Model(corpus[1], corpus[2], seed, lanes, packing, **more)


def streamed(corpus: tuple[Any, ...], model: Model, **options: Any) -> Stream:
    """A stream that the model is of."""
    options = {**model.options(), "batch_size": 3, "columns": COLUMNS, "format": "numpy", **options}
    return Stream(corpus[0], "demo/corpus", **options)


@named
@pytest.mark.parametrize(("seed", "lanes"), [(None, 1), (3, 1), (9, 4), (9, 33)])
def test_batches_are_those_of_the_specification(
    corpus: Any, model: Any, packing: dict[str, Any], seed: int | None, lanes: int
) -> None:
    expected = model(packing, seed, lanes, pad=7)
    with streamed(corpus, expected, epochs=2) as stream:
        same(stream, expected.batches(3, epochs=2))
        assert stream.seen.digest == expected.digest(2)
        assert stream.seen.samples == len(expected.samples(0)) + len(expected.samples(1))
        assert stream.seen.missing == 0
        documents = sum(len(group) for group in expected.groups)
        empty = sum(not one for group in expected.groups for one in group)
        assert stream.seen.documents == 2 * (documents if packing["mode"] == "documents" else documents - empty)


def test_wider_tokens_come_as_they_are(corpus: Any, tmp_path: Path) -> None:
    documents = drawn(2, 2, 5, 9, 30, 1 << 20)
    streams.write(tmp_path, documents, "uint32")
    expected = Model(tmp_path, documents, 5, 2, CONCAT)
    stream = Stream(corpus[0], "demo/other@1", **expected.options(), batch_size=3, columns=COLUMNS, format="numpy")
    same(stream, expected.batches(3))
    assert stream.seen.digest == expected.digest()


@named
def test_any_number_of_ranks_shares_the_same_batches(corpus: Any, model: Any, packing: dict[str, Any]) -> None:
    expected = model(packing)
    for world in range(1, 18):
        digests = []
        for rank in range(world):
            stream = streamed(corpus, expected, batch_size=2, rank=rank, world_size=world)
            same(stream, expected.batches(2, rank, world))
            digests.append(int.from_bytes(bytes.fromhex(stream.seen.digest), "little"))
        joined = sum(digests) % (1 << 256)
        assert joined.to_bytes(32, "little").hex() == expected.digest()


@named
def test_a_stream_goes_on_from_every_position(corpus: Any, model: Any, packing: dict[str, Any]) -> None:
    expected = model(packing)
    whole = list(streamed(corpus, expected, batch_size=1, epochs=2))
    stream = streamed(corpus, expected, batch_size=1, epochs=2)
    for step in range(len(whole) + 1):
        again = streamed(corpus, expected, batch_size=1, epochs=2)
        again.load_state_dict(stream.state_dict())
        taken = list(again if step % 5 == 0 else itertools.islice(again, 3))
        same(taken, whole[step : step + len(taken)])
        assert step % 5 or len(taken) == len(whole) - step
        if step % 5 == 0:
            assert again.seen.digest == expected.digest(2)
        next(stream, None)


def test_a_mixture_goes_on_from_every_position_with_other_weights(corpus: Any) -> None:
    options: dict[str, Any] = {"seq_len": 8, "lanes": 3, "batch_size": 2, "columns": COLUMNS, "format": "numpy"}
    source = {"demo/corpus": 3, "demo/other": 1.0}
    whole = Stream(corpus[0], source, **options)
    batches, cursors, steps = [], [whole.cursor()], 0
    for batch in whole:
        batches.append(batch)
        steps += 1
        if steps == 9:
            whole.set_weights({"demo/other": 1, "demo/corpus": 0.5})
        cursors.append(whole.cursor())
    first = np.concatenate([batch["sources"] for batch in batches[:9]])
    later = np.concatenate([batch["sources"] for batch in batches[9:15]])
    assert abs(first.mean() - 0.25) < 0.1 and abs(later.mean() - 2 / 3) < 0.1
    assert [one.target for one in whole.info] == ["demo/corpus@1", "demo/other@1"]
    for step in range(9, len(cursors)):
        again = Stream(corpus[0], source, **options, cursor=cursors[step])
        same([{**batch, "step": batch["step"] + step} for batch in again], batches[step:])
        assert again.seen == whole.seen
    with pytest.raises(InvalidError, match="weights of"):
        whole.set_weights({"demo/corpus": 1})
    with pytest.raises(InvalidError, match="weight"):
        whole.set_weights({"demo/corpus": -1, "demo/other": 1})


@named
def test_ranks_come_and_go(corpus: Any, model: Any, packing: dict[str, Any]) -> None:
    expected = model(packing, lanes=6)
    cursor, positions = None, list[int]()
    for world, steps in ((6, 3), (5, 2), (8, None)):
        cursors = []
        for rank in range(world):
            stream = streamed(corpus, expected, batch_size=1, rank=rank, world_size=world, cursor=cursor)
            positions += [int(batch["positions"][0]) for batch in itertools.islice(stream, steps)]
            cursors.append(stream.cursor())
        cursor = joined(cursors)
    assert sorted(position for position in positions if position >= 0) == list(range(len(expected.samples())))
    seen = json.loads(cursor or "")["seen"]
    assert (seen["digest"], seen["samples"]) == (expected.digest(), len(expected.samples()))


def joined(cursors: list[str]) -> str:
    """Joins the cursors of all ranks, as a commit does."""
    ranks = [json.loads(cursor) for cursor in cursors]
    seen = [rank.pop("seen") for rank in ranks]
    assert all(rank == ranks[0] for rank in ranks), "all ranks are at the same place"
    total = {name: sum(one[name] for one in seen) for name in seen[0] if name != "digest"}
    digest = sum(int.from_bytes(bytes.fromhex(one["digest"]), "little") for one in seen) % (1 << 256)
    return json.dumps({**ranks[0], "seen": {"digest": digest.to_bytes(32, "little").hex(), **total}})


def test_what_was_seen_counts_once(corpus: Any, model: Any) -> None:
    expected = model(CONCAT)
    streams = [streamed(corpus, expected, rank=rank, world_size=2) for rank in range(2)]
    for stream in streams:
        next(stream)
    whole = joined([stream.cursor() for stream in streams])
    again = [streamed(corpus, expected, rank=rank, world_size=2, cursor=whole) for rank in range(2)]
    assert [stream.seen.samples for stream in again] == [6, 0]
    for stream, other in zip(again, streams, strict=True):
        stream.load_state_dict(other.state_dict())
        assert stream.seen == other.seen and stream.seen.samples == 3
    again[1].load_state_dict(whole)
    assert again[1].seen.samples == 0


def test_the_end_of_a_stream(corpus: Any, model: Any) -> None:
    expected = model(CONCAT)
    samples = len(expected.samples())
    stream = streamed(corpus, expected, batch_size=4, last="drop")
    assert len(stream) == samples // 4 == len(list(stream)) and list(stream) == []
    stream = streamed(corpus, expected, batch_size=4)
    assert len(stream) == -(-samples // 4)
    next(stream)
    rest = streamed(corpus, expected, batch_size=4, cursor=stream.cursor())
    assert len(rest) == len(stream) - 1 == len(list(rest))
    stream = streamed(corpus, expected, batch_size=1, budget=5, unit="samples")
    assert len(stream) == 5 == len(list(stream))
    stream = streamed(corpus, expected, batch_size=1, budget=100)
    assert stream.seen.tokens == 0 and len(list(stream)) > 6 and 100 <= stream.seen.tokens < 116
    with pytest.raises(TypeError, match="how many"):
        len(stream)
    endless = streamed(corpus, expected, batch_size=samples, epochs=None)
    assert [next(endless)["step"] for _ in range(5)] == list(range(5))
    with pytest.raises(TypeError, match="how many"):
        len(endless)
    endless.close()
    with pytest.raises(InvalidError, match="closed"):
        next(endless)
    assert json.loads(endless.cursor())["samples"] == 5 * samples
    assert stream.memory_bound >= 256 << 20
    assert streamed(corpus, expected, prefetch="1 MiB").memory_bound < 3 << 20


def test_arrays_are_the_memory_that_was_decoded_into(corpus: Any, model: Any) -> None:
    expected = model(CONCAT)
    theirs = list(streamed(corpus, expected, format="torch"))
    types = {"tokens": torch.int64, "cu_seqlens": torch.int32, "position_ids": torch.int64, "loss_mask": torch.bool}
    for batch in theirs:
        assert all(batch[name].dtype == kind for name, kind in types.items())
        assert batch["tokens"].shape == (3, 16) == batch["loss_mask"].shape
    same(theirs, expected.batches(3))
    memories = []
    stream = streamed(corpus, expected, format="torch")
    of = stream._arrays.of

    def noted(step: int, given: Any) -> dict[str, Any]:
        memories.extend(given)
        return of(step, given)

    stream._arrays.of = noted  # type: ignore[method-assign]
    batch = next(stream)
    for name, memory in zip(COLUMNS, memories, strict=True):
        address = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
        assert batch[name].data_ptr() == address, name
    batch["tokens"][0, 0] = -5
    assert np.frombuffer(memories[0], np.int64)[0] == -5
    kept = batch["tokens"]
    del batch, stream, memories
    assert kept[0, 0] == -5 and kept.sum() > 0
    ours = next(streamed(corpus, expected))
    assert ours["tokens"].flags.writeable and not ours["tokens"].flags.owndata


def test_threads_get_each_batch_once(corpus: Any, model: Any) -> None:
    expected = model(CONCAT)
    stream = streamed(corpus, expected, batch_size=1, epochs=20)
    taken: list[list[int]] = [[] for _ in range(6)]

    def take(into: list[int]) -> None:
        into.extend(batch["step"] for batch in stream)

    threads = [threading.Thread(target=take, args=(into,)) for into in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sum(taken, [])) == list(range(len(sum(taken, []))))
    assert all(one == sorted(one) for one in taken)
    assert stream.seen.digest == expected.digest(20)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"seed": 4}, ConflictError, "seed 4"),
        ({"seq_len": 17}, ConflictError, "cut at 17"),
        ({"lanes": 5}, ConflictError, "5 lanes"),
        ({"source": "demo/other"}, ConflictError, "files, their rows or tokens"),
        ({"source": {"demo/corpus": 1, "demo/other": 1}}, ConflictError, "of 1 datasets, the stream has 2"),
        ({"unit": "documents"}, ConflictError, "counts"),
        ({"cursor": "{}"}, InvalidError, "not a cursor"),
        ({"cursor": {"cursor": 7}}, InvalidError, "a state is"),
        ({"cursor": {"cursor": "{}", "worker": [0, 1]}}, InvalidError, "loader's workers"),
        ({"cursor": json.dumps({"format": "other"})}, InvalidError, "cursor"),
    ],
)
def test_a_foreign_cursor_is_refused(
    corpus: Any, model: Any, change: dict[str, Any], error: type[Exception], says: str
) -> None:
    expected = model(CONCAT)
    stream = streamed(corpus, expected)
    next(stream)
    options = {**expected.options(), "cursor": stream.cursor(), "source": "demo/corpus", **change}
    source = options.pop("source")
    with pytest.raises(error, match=says):
        Stream(corpus[0], source, **options)
    if "cursor" in change and "worker" not in change["cursor"]:
        with pytest.raises(error, match=says):
            stream.load_state_dict(change["cursor"])
    assert next(stream)["step"] == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seed": None, "lanes": 2}, "without a seed"),
        ({"seed": -1}, "seed"),
        ({"lanes": 0}, "lanes is 0"),
        ({"seq_len": 0}, "seq_len is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 1 << 31}, "batch would have"),
        ({"packing": "best_fit"}, "first_fit"),
        ({"long": "drop"}, "truncate"),
        ({"last": "keep"}, "pad, drop"),
        ({"on_damage": "ignore"}, "fail, skip"),
        ({"columns": ["labels"]}, "loss_mask"),
        ({"columns": "tokens"}, "several"),
        ({"columns": ["tokens", "tokens"]}, "twice"),
        ({"unit": "bytes"}, "documents"),
        ({"format": "jax"}, "torch"),
        ({"prefetch": "much"}, "MiB"),
        ({"rank": 1}, "both or neither"),
        ({"rank": 2, "world_size": 2}, "rank is 2"),
        ({"pad": 1 << 32}, "pad"),
        ({"source": "demo"}, "demo"),
        ({"source": {}}, "expected 'project"),
        ({"source": {"demo/corpus": "much"}}, "number"),
        ({"source": {"demo/corpus": 0}}, "weights are 0"),
    ],
)
def test_what_makes_no_sense_is_refused(corpus: Any, options: dict[str, Any], says: str) -> None:
    source = options.pop("source", "demo/corpus")
    with pytest.raises(InvalidError, match=says):
        Stream(corpus[0], source, **options)


def test_what_is_not_there(corpus: Any, tmp_path: Path) -> None:
    with pytest.raises(gigastore.NotFoundError, match="nope"):
        Stream(corpus[0], "demo/nope")
    with pytest.raises(gigastore.GigastoreError):
        Stream(f"file://{tmp_path}/nothing", "demo/corpus")
    assert not (tmp_path / "nothing").exists()


def test_ranks_are_those_of_the_launcher(corpus: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = model(CONCAT)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    same(streamed(corpus, expected), expected.batches(3, 1, 2))
    same(streamed(corpus, expected, rank=0, world_size=1), expected.batches(3))
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(InvalidError, match="no numbers"):
        streamed(corpus, expected)
    monkeypatch.delenv("RANK")
    same(streamed(corpus, expected), expected.batches(3))
