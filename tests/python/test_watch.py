"""A watch yields what is committed to one run or dataset, once, and ends when it is told to."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy as np
import pytest
from gigastore import Store

W = np.arange(4, dtype=np.float32)


def test_a_watch_yields_what_is_committed(store: Store) -> None:
    store.save("demo/run", 1, {"w": W})
    first = store.resolve("demo/run@1").seq

    def save() -> None:
        time.sleep(0.2)
        Store(store.url).save("demo/other", 1, {"w": W})
        Store(store.url).save("demo/run", 2, {"w": W + 1})
        Store(store.url).save("demo/run", 3, {"w": W + 2})

    thread = threading.Thread(target=save)
    thread.start()
    begun = time.monotonic()
    assert [info.number for info in store.watch("demo/run", timeout=1.5)] == [2, 3]
    assert time.monotonic() - begun < 20
    thread.join()
    assert [info.number for info in store.watch("demo/run", after=first - 1, timeout=0.1)] == [1, 2, 3]


def test_a_watch_ends_while_others_commit(store: Store) -> None:
    """What other runs do is not what was asked for; and a step is told of once, whatever tried to be it."""
    store.save("demo/run", 1, {"w": W})
    done = threading.Event()

    def save() -> None:
        other, step = Store(store.url), 0
        while not done.wait(0.1):
            step += 1
            other.save("demo/other", step, {"w": W})

    thread = threading.Thread(target=save)
    thread.start()
    try:
        begun = time.monotonic()
        assert [info.number for info in store.watch("demo/run", after=0, timeout=1.0)] == [1]
        assert 0.9 < time.monotonic() - begun < 10
    finally:
        done.set()
        thread.join()
    assert list(store.watch("demo/run", timeout=0)) == []


def test_a_step_that_several_tried_to_commit_is_told_of_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    record = store.save("demo/run", 1, {"w": W}).seq
    native = store._native

    class Doubling:
        """What a log looks like in which another record of the same step lost."""

        def __getattr__(self, name: str) -> Any:
            return getattr(native, name)

        def records(self, project: str, after: int, wait: float) -> str:
            found = json.loads(native.records(project, after, wait))
            return json.dumps([{**one, "seq": seq} for one in found for seq in (one["seq"], one["seq"] + 1)])

    monkeypatch.setattr(store, "_native", Doubling())
    assert [info.seq for info in store.watch("demo/run", after=record - 1, timeout=0.1)] == [record]
