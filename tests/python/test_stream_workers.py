"""Streams in other processes: workers of torch's loaders, however they are started, forks, and pickled streams."""

from __future__ import annotations

import itertools
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import streams
import torch.utils.data
from gigastore import ConflictError, InvalidError
from gigastore.data import Stream
from streams import COLUMNS, Model, drawn, same
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

CONCAT = {"mode": "concat", "seq_len": 16}
FIRST_FIT = {"mode": "first_fit", "seq_len": 24, "long": "split"}
WORLD, RANK = 3, 1

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, streams.Documents]:
    """A store with a small dataset: its URL, where the files are, and what they hold."""
    folder = tmp_path_factory.mktemp("workers")
    documents = drawn(1, 4, 6, 7, 40)
    streams.push(f"file://{folder}/store", folder / "corpus", documents)
    return f"file://{folder}/store", folder / "corpus", documents


@pytest.fixture
def model(corpus: tuple[str, Path, streams.Documents]) -> Callable[..., Model]:
    """Makes models of the dataset."""
    return lambda packing, seed=3, lanes=6, **more: Model(corpus[1], corpus[2], seed, lanes, packing, **more)


def streamed(corpus: tuple[Any, ...], model: Model, **options: Any) -> Stream:
    """One rank's stream that the model is of."""
    options = {**model.options(), "batch_size": 1, "columns": COLUMNS, "rank": RANK, "world_size": WORLD, **options}
    return Stream(corpus[0], "demo/corpus", **options)


def loader(stream: Stream, workers: int, start: str | None = None, **options: Any) -> Any:
    """A loader of a stream's batches."""
    return DataLoader(stream, batch_size=None, num_workers=workers, multiprocessing_context=start, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("packing", [CONCAT, FIRST_FIT, {"mode": "documents"}], ids=lambda one: one["mode"])
@pytest.mark.parametrize("workers", range(5))
def test_workers_make_the_same_batches_in_the_same_order(
    corpus: Any, model: Any, packing: dict[str, Any], workers: int
) -> None:
    expected = model(packing)
    stream, alone = streamed(corpus, expected), streamed(corpus, expected)
    assert isinstance(stream, torch.utils.data.IterableDataset)
    places = []
    for batch, other in zip(map(stream.observe, loader(stream, workers)), alone, strict=True):
        same([batch], [other])
        # Whatever the workers have read ahead: the trainer's stream is where its loop is.
        assert stream.cursor() == alone.cursor() and stream.seen == alone.seen
        places.append(stream.cursor())
    assert len(places) == len(list(expected.batches(1, RANK, WORLD)))


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_workers_that_are_sent_the_stream(corpus: Any, model: Any, start: str) -> None:
    expected = model(FIRST_FIT)
    stream = streamed(corpus, expected)
    batches = list(expected.batches(1, RANK, WORLD))
    same([next(stream)], batches[:1])
    same(map(stream.observe, loader(stream, 2, start)), batches[1:])


def test_loops_go_on_with_other_workers(corpus: Any, model: Any) -> None:
    expected = model(CONCAT)
    batches, stream = list(expected.batches(1, RANK, WORLD)), streamed(corpus, expected)
    taken: list[Any] = []
    for workers, steps in itertools.cycle([(2, 3), (0, 2), (3, 4), (1, 1), (4, 5)]):
        observed = map(stream.observe, loader(stream, workers))
        more = list(itertools.islice(observed, steps))
        if not more:
            break
        taken += more
        same(itertools.islice(streamed(corpus, expected, cursor=stream.state_dict()), 2), batches[len(taken) :][:2])
    same(taken, batches)
    whole = streamed(corpus, expected)
    assert list(whole) and stream.seen == whole.seen and stream.cursor() == whole.cursor()


def test_batches_are_observed_once_and_in_order(corpus: Any, model: Any) -> None:
    stream = streamed(corpus, model(CONCAT))
    first, second, third = itertools.islice(loader(stream, 2), 3)
    with pytest.raises(ConflictError, match=r"batch 1 comes where batch 0 is expected .*in order"):
        stream.observe(second)
    assert stream.observe(first) is first
    with pytest.raises(ConflictError, match="batch 0 comes where batch 1"):
        stream.observe(first)
    stream.observe(second)
    other = streamed(corpus, model(CONCAT, seed=4))
    other.load_state_dict({"cursor": other.cursor(), "step": 2})
    with pytest.raises(ConflictError, match="another stream"):
        stream.observe({**third, "cursor": other.cursor()})
    stream.observe(third)
    # One that this process made is noted already.
    assert stream.observe(next(stream))["step"] == 3


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_a_stateful_loader_goes_on_from_every_batch(corpus: Any, model: Any, workers: int) -> None:
    expected = model(FIRST_FIT)
    batches = list(expected.batches(1, RANK, WORLD))
    stream = streamed(corpus, expected)
    running: Any = StatefulDataLoader(stream, batch_size=None, num_workers=workers)  # type: ignore[arg-type]
    taken = iter(running)
    for step in range(0, 9, 2):
        same([next(taken)], batches[step : step + 1])
        state, place = pickle.loads(pickle.dumps(running.state_dict())), stream.state_dict()
        again = streamed(corpus, expected)
        resumed: Any = StatefulDataLoader(again, batch_size=None, num_workers=workers)  # type: ignore[arg-type]
        resumed.load_state_dict(state)
        same(resumed, batches[step + 1 :])
        assert workers or place["step"] == step + 1
        same([next(taken)], batches[step + 1 : step + 2])


def test_persistent_workers_do_not_lose_what_they_had_read_ahead(corpus: Any, model: Any) -> None:
    several = loader(streamed(corpus, model(CONCAT)), 2, persistent_workers=True)
    next(iter(several))
    with pytest.raises(InvalidError, match="can't begin again"):
        next(iter(several))


def test_numbers_of_the_trainer_are_those_of_the_loader(corpus: Any, model: Any) -> None:
    stream = streamed(corpus, model(CONCAT))
    several = loader(stream, 2)
    assert len(several) == len(stream) == len(list(several))


def test_a_forked_process_goes_on_where_it_was_forked(corpus: Any, model: Any) -> None:
    expected = model(CONCAT)
    batches, stream = list(expected.batches(1, RANK, WORLD)), streamed(corpus, expected)
    next(stream)
    child = os.fork()
    if child == 0:
        found = 1
        try:
            same(stream, batches[1:])
            found = 0
        finally:
            os._exit(found)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    same(stream, batches[1:])


def test_a_pickled_stream_goes_on_with_the_version_that_it_had(corpus: Any, model: Any, tmp_path: Path) -> None:
    url, documents = f"file://{tmp_path}/store", drawn(7, 1, 3, 4, 9)
    streams.push(url, tmp_path / "one", documents)
    stream = Stream(url, "demo/corpus", seq_len=8, batch_size=1)
    assert repr(stream) == "<gigastore.data.Stream of demo/corpus@1 at step 0>"
    sent = pickle.dumps(stream)
    streams.push(url, tmp_path / "two", drawn(8, 2, 3, 4, 9))
    again = pickle.loads(sent)
    same(again, stream)
    assert again.info[0].target == "demo/corpus@1"
    assert Stream(url, "demo/corpus").info[0].target == "demo/corpus@2"


def test_torch_is_not_loaded_for_arrays_of_numpy(corpus: Any) -> None:
    script = (
        "import sys; from gigastore.data import Stream; "
        f"batch = next(Stream({corpus[0]!r}, 'demo/corpus', format='numpy')); "
        "assert batch['tokens'].shape == (8, 2048) and 'torch' not in sys.modules"
    )
    assert os.spawnlp(os.P_WAIT, sys.executable, sys.executable, "-c", script) == 0
