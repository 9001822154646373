"""Memory that Python and the native part share: what is saved of it, what is read into it, and what is left of both."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import gigastore
from gigastore import ConflictError, IntegrityError, InvalidError, Memory, Store

MIB = 1 << 20


def damage(folder: Path) -> None:
    """Flips a bit in the middle of the largest file below a folder."""
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(largest.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def test_memory_that_changes_while_it_is_saved_is_found(store: Store) -> None:
    tensors = {f"w{i}": np.zeros(16 * MIB, np.uint8) for i in range(12)}
    store.save("demo/run", 0, {"w": np.ones(3)})
    training = True

    def train() -> None:
        step = 0
        while training:
            step += 1
            for tensor in tensors.values():
                tensor[step % 4096 :: 4096] = step % 251

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        for _ in range(3):
            with pytest.raises(ConflictError, match="memory of w.* changed while it was read"):
                store.save("demo/run", 1, tensors)
    finally:
        training = False
        trainer.join()
    assert [one.number for one in store.list("demo")[0].live] == [0], "nothing is visible of it"
    # And what was sent before that is nothing that a later save takes for its own.
    store.save("demo/run", 1, tensors)
    loaded = store.checkpoint("demo/run@1").load()
    assert all((loaded[name] == tensor).all() for name, tensor in tensors.items())
    assert store.verify("demo").ok


def test_a_change_at_the_end_of_a_long_tensor_is_found_or_came_too_early_to_matter(url: str) -> None:
    # Longer than what is held in memory.
    tensor, store = np.zeros(300 * MIB, np.uint8), Store(url)

    def change(*_: int) -> None:
        tensor[-1] += 1

    try:
        store.save("demo/run", 1, {"w": tensor}, progress=change)
    except ConflictError as error:
        assert "memory of w" in str(error) and error.code == "conflict"
        store.save("demo/run", 1, {"w": tensor})
    assert store.verify("demo").ok
    assert store.checkpoint("demo/run@1").slice("w", (slice(0, 10),)).tolist() == [0] * 10


def test_memory_is_the_callers_again_when_a_load_has_failed(store: Store, tmp_path: Path) -> None:
    tensors = {f"w{i}": np.random.default_rng(i).integers(0, 255, 16 * MIB, np.uint8) for i in range(8)}
    store.save("demo/run", 1, tensors)
    checkpoint = store.checkpoint("demo/run@1")
    damage(tmp_path / "store/projects/demo/packs")
    into = {name: np.zeros_like(tensor) for name, tensor in tensors.items()}
    for _ in range(5):
        with pytest.raises(IntegrityError) as caught:
            checkpoint.load(into=into)
        for tensor in into.values():
            tensor.fill(7)
        time.sleep(0.05)
        assert all((tensor == 7).all() for tensor in into.values()), "something wrote to it after the error"
    assert caught.value.code == "integrity" and caught.value.object is not None


def test_memory_is_the_callers_again_when_a_callback_has_stopped_a_load(store: Store) -> None:
    tensors = {f"w{i}": np.ones(32 * MIB, np.uint8) for i in range(4)}
    store.save("demo/run", 1, tensors)
    into = {name: np.zeros_like(tensor) for name, tensor in tensors.items()}
    with pytest.raises(ZeroDivisionError):
        store.checkpoint("demo/run@1").load(into=into, progress=lambda *_: 1 / 0)
    for tensor in into.values():
        tensor.fill(7)
    time.sleep(0.1)
    assert all((tensor == 7).all() for tensor in into.values())


def test_memory_that_overlaps_is_refused(store: Store) -> None:
    store.save("demo/run", 1, {"a": np.ones(100, np.uint8), "b": np.zeros(100, np.uint8)})
    checkpoint = store.checkpoint("demo/run@1")
    memory = np.zeros(150, np.uint8)
    with pytest.raises(InvalidError, match="overlap"):
        checkpoint.load(into={"a": memory[:100], "b": memory[50:]})
    assert not memory.any()
    memory = np.zeros(200, np.uint8)
    checkpoint.load(into={"a": memory[:100], "b": memory[100:]})
    assert memory[:100].all() and not memory[100:].any()


def test_elements_of_any_type_are_bytes(store: Store) -> None:
    saved = np.arange(6, dtype=">i4").reshape(2, 3)
    store.save("demo/run", 1, {"w": gigastore.Slice(saved.view(np.uint8), dtype="I32", sizes=(2, 3))})
    into = np.zeros((2, 3), np.float32)
    store.checkpoint("demo/run@1").read_into([("w", None, into)])
    assert into.tobytes() == saved.tobytes()


def test_gather_refuses_what_overlaps_and_what_does_not_fit() -> None:
    from gigastore._native import gather

    memory = bytearray(b"abcdefgh")
    with pytest.raises(InvalidError, match="overlaps"):
        gather([memoryview(memory)[:4]], memoryview(memory)[2:6])
    with pytest.raises(InvalidError, match="the sources have 3 bytes, the destination 8"):
        gather([b"abc"], memory)
    gather([b"1234", b"", b"5678"], memory)
    assert memory == b"12345678"


def test_memory_of_a_shape_that_is_too_long_or_not_there() -> None:
    for shape, length in (([2, 3], 7), ([1 << 40, 1 << 40], 16)):
        with pytest.raises(InvalidError):
            Memory(length, "U8", shape)
    empty = Memory(0, "F32", [0, 1 << 20, 1 << 20])
    assert np.from_dlpack(empty).shape == (0, 1 << 20, 1 << 20)
    with pytest.raises(MemoryError):
        Memory(1 << 50, "U8", [1 << 50])
