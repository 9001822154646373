"""A process that ends while a save is under way. Arguments: how it ends, URL of the store."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys

# What was registered before the package was imported is called after it, and may not be left out.
atexit.register(lambda: print("the last hook", flush=True))

import numpy as np  # noqa: E402
from gigastore import Store, background  # noqa: E402

how, url = sys.argv[1:]
W = np.arange(1 << 20, dtype=np.float64)


def save(step: int, values: float, **options: object) -> None:
    """Begins a save, and does not wait for it."""
    Store(url).save("demo/run", step, {"w": W + values}, asynchronous=True, **options)  # type: ignore[call-overload]


def child(step: int, values: float) -> None:
    """What a process of multiprocessing does."""
    save(step, values)


if __name__ == "__main__":
    if how in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(how)
        # One that succeeds, and one whose step is there already with other content.
        Store(url).save("demo/run", 2, {"w": W})
        # The parent has saved in the background too: hooks of its own are not those of its children.
        save(3, 0)
        children = [context.Process(target=child, args=one) for one in ((1, 0.0), (2, 1.0))]
        for one in children:
            one.start()
        for one in children:
            one.join()
        print("exit codes", [one.exitcode for one in children], flush=True)
    elif how == "good":
        save(1, 0)
    elif how == "told":
        Store(url).save("demo/run", 1, {"w": W})
        pending = Store(url).save("demo/run", 1, {"w": W + 1}, asynchronous=True)
        try:
            pending.wait()
        except Exception as error:
            print(f"told: {error}")
    elif how == "conflict":
        Store(url).save("demo/run", 1, {"w": W})
        save(1, 1)
        print("buffered", end="")
    elif how == "crash":
        background._AFTER_FAILURE = 2.0
        save(1, 0, rank=0, world_size=2, attempt="a")
        raise RuntimeError("it crashed")
    elif how == "crash alone":
        background._AFTER_FAILURE = 0.0
        save(1, 0)
        raise RuntimeError("it crashed")
    else:
        os._exit(99)
