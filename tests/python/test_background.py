"""What goes on beside the trainer: progress, saves in the background, workers in other processes."""

from __future__ import annotations

import io
import json
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Service, command
from gigastore import AuthError, ConflictError, PendingSave, Store
from rows_of_checkpoint import Rows
from slow_proxy import SlowProxy
from torch.utils.data import ConcatDataset, DataLoader
from tqdm import tqdm

W = np.arange(4, dtype=np.float32)


def raw(size: int) -> np.ndarray[Any, Any]:
    """Returns bytes of all values."""
    return np.arange(size, dtype=np.uint64).astype(np.uint8)


def test_progress_is_told(store: Store) -> None:
    array, calls = raw(8 << 20), []
    store.save("demo/run", 1, {"w": array}, progress=lambda *numbers: calls.append(numbers))
    done, total, moved = calls[-1]
    assert done == total >= array.nbytes and moved >= array.nbytes
    assert all(before[0] <= after[0] for before, after in zip(calls, calls[1:], strict=False))
    checkpoint = store.checkpoint("demo/run")
    with tqdm(unit="B", file=io.StringIO(), mininterval=0) as bar:
        found = checkpoint.load(progress=bar)
        assert bar.total == bar.n == array.nbytes
    np.testing.assert_array_equal(found["w"], array)
    seen: list[int] = []
    store.verify("demo", progress=lambda done, total, moved: seen.append(done))
    assert seen and seen[-1] >= array.nbytes


def test_what_a_progress_callback_raises_stops_the_save(store: Store) -> None:
    def stop(*_: int) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        store.save("demo/run", 1, {"w": raw(8 << 20)}, progress=stop)
    assert "demo" not in store.projects() or not store.list("demo")
    with pytest.raises(RuntimeError, match="enough"):
        store.save("demo/run", 2, {"w": W})
        store.checkpoint("demo/run@2").load(progress=stop)


def test_a_save_in_the_background_is_of_the_moment(store: Store) -> None:
    state, pending = np.zeros(1 << 20, np.float32), []
    for step in range(3):
        state[:] = step
        pending.append(store.save("demo/run", step, {"w": state}, files={"step": b"%d" % step}, asynchronous=True))
        state[:] = -1
    assert all(isinstance(one, PendingSave) for one in pending)
    assert pending[-1].wait().target == "demo/run@2"
    assert all(one.copied > 0 and one.waited >= 0 for one in pending)
    for step in range(3):
        checkpoint = store.checkpoint(f"demo/run@{step}")
        assert (checkpoint.load()["w"] == step).all() and checkpoint.read_file("step") == b"%d" % step


def test_what_fails_in_the_background_is_told(store: Store) -> None:
    store.save("demo/run", 1, {"w": W})
    pending = store.save("demo/run", 1, {"w": W + 1}, asynchronous=True)
    with pytest.raises(ConflictError, match="demo/run@1 exists"):
        pending.wait()
    store.save("demo/run", 1, {"w": W + 2}, asynchronous=True)
    with pytest.raises(ConflictError, match="demo/run@1 exists"):
        store.save("demo/run", 2, {"w": W}, asynchronous=True)
    # It was told of, and does not stand in the way for ever.
    last = store.save("demo/run", 3, {"w": W}, asynchronous=True)
    assert last.wait().number == 3
    store.wait()


def test_a_save_is_skipped_while_another_is_under_way(service: Service) -> None:
    with SlowProxy(service.port, up=1 << 20) as proxy:
        store = Store(proxy.url)
        first = store.save("demo/run", 1, {"w": raw(4 << 20)}, asynchronous="skip")
        assert isinstance(first, PendingSave) and proxy.up.reached.wait(30)
        assert store.save("demo/run", 2, {"w": raw(4 << 20)}, asynchronous="skip") is None
        proxy.up.open()
        assert first.wait().number == 1
        third = store.save("demo/run", 3, {"w": raw(4 << 20)}, asynchronous="skip")
        assert isinstance(third, PendingSave) and third.wait().number == 3
    live = Store(service.store).list("demo")[0].live
    assert [info.number for info in live] == [1, 3]


def test_runs_do_not_wait_for_each_other(service: Service) -> None:
    """A run that is stuck holds up neither another run of the rank, nor another store."""
    with SlowProxy(service.port, up=1 << 20) as proxy:
        slow, fast = Store(proxy.url), Store(service.store)
        stuck = slow.save("demo/slow", 1, {"w": raw(4 << 20)}, asynchronous=True)
        assert proxy.up.reached.wait(30)
        # It outgrew its memory, so it has to wait, and others do not wait with it.
        larger = threading.Thread(
            target=lambda: slow.save("demo/slow", 2, {"w": raw(5 << 20)}, asynchronous=True), daemon=True
        )
        larger.start()
        time.sleep(0.2)
        assert fast.save("demo/fast", 1, {"w": W}, asynchronous=True).wait().number == 1
        # A save that may be skipped is, while another waits.
        assert slow.save("demo/slow", 3, {"w": W}, asynchronous="skip") is None
        assert slow.save("demo/other", 1, {}, files={"f": b"1"}, asynchronous=True).copied >= 0
        assert larger.is_alive()
        proxy.up.open()
        assert stuck.wait().number == 1
        larger.join(30)
        slow.wait()
    assert fast.resolve("demo/slow@2").number == 2 and fast.resolve("demo/other@1").number == 1


def test_a_new_token_saves_what_a_revoked_one_could_not(url: str, tmp_path: Path, serve: Any) -> None:
    tokens, made = str(tmp_path / "tokens.json"), []
    for name in ("before", "after"):
        said = command("token", "create", "--tokens", tokens, "--name", name, "--scope", "demo:write").stdout
        made.append(said.strip().split()[-1])
    Store(url)
    service: Service = serve(url, "--tokens", tokens)
    assert Store(service.url, made[0]).save("demo/run", 1, {"w": W}, asynchronous=True).wait().number == 1
    listed = json.loads(command("--format", "json", "token", "ls", "--tokens", tokens).stdout)
    command("token", "revoke", "--tokens", tokens, next(one["id"] for one in listed if one["name"] == "before"))
    for _ in range(100):
        try:
            Store(service.url, made[0]).projects()
        except AuthError:
            break
        time.sleep(0.1)
    assert Store(service.url, made[1]).save("demo/run", 2, {"w": W + 1}, asynchronous=True).wait().number == 2


def test_stores_and_checkpoints_travel_as_pickles(store: Store) -> None:
    store.save("demo/run", 1, {"w": W})
    checkpoint = store.checkpoint("demo/run")
    store.save("demo/run", 2, {"w": W + 1})
    again = pickle.loads(pickle.dumps({"store": store, "checkpoint": checkpoint}))
    assert again["store"].url == store.url
    assert again["checkpoint"].target == "demo/run@1"
    np.testing.assert_array_equal(again["checkpoint"].load()["w"], W)


@pytest.mark.filterwarnings("ignore:os.fork")
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_of_a_data_loader(url: str, serve: Any, method: str) -> None:
    """The store was used before the workers begin: they have connections of their own, and the parent keeps its."""
    whole = torch.arange(8 * 1000, dtype=torch.float32).reshape(8, 1000)
    Store(url).save("demo/run", 1, {"w": whole})
    stores = [Store(url), Store(serve(url).url)]
    checkpoints = [store.checkpoint("demo/run") for store in stores]
    assert all(torch.equal(one.slice("w", 0, device="cpu"), whole[0]) for one in checkpoints)
    rows = ConcatDataset([Rows(*both) for both in zip(stores, checkpoints, strict=True)])
    loader = DataLoader(rows, batch_size=2, num_workers=2, multiprocessing_context=method)
    assert torch.equal(torch.cat(list(loader)), torch.cat([whole, whole]))
    assert all(torch.equal(one.slice("w", 7, device="cpu"), whole[7]) for one in checkpoints)
