"""`gigastore.safetensors` beside the package `safetensors`: the same calls, the same answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gigastore
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from conftest import command
from gigastore import InvalidError, IntegrityError, NotFoundError
from gigastore.safetensors import OutOfRangeError, load_file, safe_open, save_file

TORCH_TYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.uint16,
    torch.int16,
    torch.float16,
    torch.bfloat16,
    torch.uint32,
    torch.int32,
    torch.float32,
    torch.uint64,
    torch.int64,
    torch.float64,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


def tensors() -> dict[str, torch.Tensor]:
    """Tensors of many shapes and of every type that both sides know."""
    found = {
        "cube": torch.arange(3 * 4 * 5, dtype=torch.float32).reshape(3, 4, 5),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "vector": torch.arange(7),
    }
    for dtype in TORCH_TYPES:
        size = torch.empty(0, dtype=dtype).element_size()
        raw = torch.arange(24 * size, dtype=torch.uint8) % (2 if dtype == torch.bool else 251)
        found[f"of {dtype}"] = raw.view(dtype).reshape(6, 4)
    return found


@pytest.fixture
def both(tmp_path: Path, store: gigastore.Store) -> tuple[gigastore.Store, Path]:
    """The same tensors in a store and in a file."""
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(tensors(), path, metadata={"format": "pt", "by": "test"})
    save_file(tensors(), store, "demo/run@1", metadata={"format": "pt", "by": "test"})
    return store, path


def same(ours: Any, theirs: Any) -> bool:
    """Tells whether two tensors of torch are the same, to the bit."""
    return (
        ours.dtype == theirs.dtype
        and ours.shape == theirs.shape
        and ours.contiguous().reshape(-1).view(torch.uint8).equal(theirs.contiguous().reshape(-1).view(torch.uint8))
    )


def test_a_file_and_a_checkpoint_answer_the_same(both: tuple[gigastore.Store, Path]) -> None:
    store, path = both
    with safe_open(store, "demo/run@1", framework="pt") as ours, safetensors.safe_open(path, "pt") as theirs:
        assert ours.keys() == theirs.keys()
        assert sorted(ours.offset_keys()) == sorted(theirs.offset_keys())
        assert ours.metadata() == theirs.metadata() == {"format": "pt", "by": "test"}
        for name in theirs.keys():
            assert same(ours.get_tensor(name), theirs.get_tensor(name)), name
            assert ours.get_slice(name).get_shape() == theirs.get_slice(name).get_shape()
            assert ours.get_slice(name).get_dtype() == theirs.get_slice(name).get_dtype()
        every = ours.get_tensors()
        assert every.keys() == set(theirs.keys())
        assert all(same(every[name], theirs.get_tensor(name)) for name in every)


INDICES: list[Any] = [
    0,
    -1,
    np.int64(1),
    ...,
    (),
    slice(None),
    slice(1, 2),
    slice(0, 100),
    slice(5, 2),
    slice(-2, None),
    slice(-100, 2),
    slice(2, 2),
    slice(0, 3, 2),
    slice(2, None, 5),
    (0, 1),
    (0, -1),
    (0, 1, 2),
    (0, ...),
    (..., 0),
    (..., slice(1, 3)),
    (0, ..., 1),
    (slice(None), 0, slice(None)),
    (slice(None), slice(None, None, 2)),
    (slice(None), slice(1, None), slice(None, None, 3)),
    None,
    (None, 0, ..., None),
    ([0, 2],),
    ([-1],),
    ([2, 0, 2],),
    ([],),
    (slice(None), [1, 3]),
    ([0, 1], [0, 2]),
    (0, slice(None), [0, 2]),
    np.array([0, 2]),
    torch.tensor([0, 1]),
    torch.tensor([1]),
    ([True, False, True],),
    (slice(1, 3), torch.tensor([True, False, True, True])),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_a_slice_is_what_indexing_gives(both: tuple[gigastore.Store, Path], index: Any) -> None:
    store, path = both
    with safe_open(store, "demo/run@1") as ours, safetensors.safe_open(path, "pt") as theirs:
        assert same(ours.get_slice("cube")[index], theirs.get_slice("cube")[index])
    with safe_open(store, "demo/run@1", "np") as ours:
        found = ours.get_slice("cube")[index]
        assert isinstance(found, np.ndarray)
        parts = index if isinstance(index, tuple) else (index,)
        plain = tuple(part.numpy() if isinstance(part, torch.Tensor) else part for part in parts)
        np.testing.assert_array_equal(found, tensors()["cube"].numpy()[plain])
        assert found.dtype == np.float32


@pytest.mark.parametrize("index", [3, -4, (0, 0, 0, 0), (..., ...), ([0, 3],), (0, 4)], ids=str)
def test_what_lies_outside_is_an_error_of_ours(both: tuple[gigastore.Store, Path], index: Any) -> None:
    with safe_open(both[0], "demo/run@1") as opened, pytest.raises(OutOfRangeError, match="cube") as caught:
        opened.get_slice("cube")[index]
    assert isinstance(caught.value, IndexError)


@pytest.mark.parametrize("index", ["a", 1.0, True, slice(None, None, -1), slice(None, None, 0), ([0.5],), ([True],)])
def test_what_is_no_index_is_refused(both: tuple[gigastore.Store, Path], index: Any) -> None:
    with safe_open(both[0], "demo/run@1") as opened, pytest.raises((InvalidError, ValueError)):
        opened.get_slice("cube")[index]


def test_the_rows_of_a_slice_can_be_walked_through(both: tuple[gigastore.Store, Path]) -> None:
    with safe_open(both[0], "demo/run@1") as opened:
        assert torch.equal(torch.stack(list(opened.get_slice("cube"))), tensors()["cube"])


def test_scalars_and_empty_tensors(both: tuple[gigastore.Store, Path]) -> None:
    with safe_open(both[0], "demo/run@1") as opened:
        assert opened.get_slice("scalar")[...].item() == 3.5
        assert opened.get_slice("empty")[:].shape == (0, 3)
        with pytest.raises(OutOfRangeError):
            opened.get_slice("scalar")[:]


def test_only_the_groups_of_a_slice_are_read(tmp_path: Path, store: gigastore.Store) -> None:
    """The bytes of every other group are damaged, and the slice is read all the same."""
    rows = np.arange(8 << 20, dtype=np.uint8).reshape(8, 1 << 20)
    save_file({"w": rows}, store, "demo/run@1")
    (pack,) = (tmp_path / "store").rglob("packs/**/*.safetensors")
    with pack.open("r+b") as file:
        content = file.read()
        at = content.index(rows[:4].tobytes())
        file.seek(at)
        file.write(bytes(3 << 20))
        file.seek(at + (4 << 20))
        file.write(bytes(4 << 20))
    with safe_open(store, "demo/run@1", "np") as opened:
        np.testing.assert_array_equal(opened.get_slice("w")[3, 10:20], rows[3, 10:20])
        with pytest.raises(IntegrityError, match="w"):
            opened.get_slice("w")[4]


def test_types_that_numpy_does_not_have(store: gigastore.Store) -> None:
    eight = torch.arange(16, dtype=torch.uint8).view(torch.float8_e4m3fn)
    save_file({"half": torch.ones(2, 3, dtype=torch.bfloat16), "eight": eight}, store, "demo/run@1")
    found = load_file(store, "demo/run", framework="np")
    assert found["half"].dtype == ml_dtypes.bfloat16
    assert found["eight"].dtype == ml_dtypes.float8_e4m3fn
    assert found["eight"].view(np.uint8).tolist() == list(range(16))


def test_jax_gets_arrays_of_the_same_type_or_an_error(store: gigastore.Store) -> None:
    save_file({"w": np.arange(6.0, dtype=np.float32).reshape(2, 3), "wide": np.arange(3)}, store, "demo/run@1")
    with safe_open(store, "demo/run@1", framework="jax") as opened:
        assert isinstance(opened.get_tensor("w"), jax.Array)
        np.testing.assert_array_equal(opened.get_slice("w")[:, 1], [1.0, 4.0])
        with pytest.raises(InvalidError, match="int64.*jax_enable_x64"):
            opened.get_tensor("wide")


def test_a_device_is_where_tensors_go(store: gigastore.Store) -> None:
    save_file({"w": torch.ones(4)}, store, "demo/run@1")
    assert load_file(store, "demo/run@1", device="meta")["w"].device.type == "meta"
    with safe_open(store, "demo/run@1", device=torch.device("cpu")) as opened:
        assert opened.get_tensor("w").device.type == "cpu"
    with pytest.raises(InvalidError, match="device"):
        safe_open(store, "demo/run@1", "np", device="cuda:0")


def test_metadata_is_that_of_files_on_both_ways(tmp_path: Path, url: str) -> None:
    path = tmp_path / "in.safetensors"
    safetensors.torch.save_file({"w": torch.ones(4)}, path, metadata={"format": "pt"})
    command("--store", url, "ckpt", "save", str(path), "--to", "demo/run@1", "--meta", "loss=0.5")
    with safe_open(url, "demo/run") as opened:
        assert opened.metadata() == {"format": "pt"}
    save_file({"w": torch.ones(4)}, url, "demo/ours@1", metadata={"format": "np"}, tag="best")
    command("--store", url, "ckpt", "restore", "demo/ours@best", "--out", str(tmp_path / "out"))
    with safetensors.safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "np"}
    save_file({"w": torch.ones(4)}, url, "demo/none@1")
    with safe_open(url, "demo/none") as opened:
        assert opened.metadata() is None


def test_a_device_that_is_not_here(both: tuple[gigastore.Store, Path]) -> None:
    for device in ("bogus", "cuda", torch.device("xpu:7")):
        with pytest.raises(InvalidError, match="torch has no such device here"):
            load_file(both[0], "demo/run@1", device)


def test_names_that_are_not_there(both: tuple[gigastore.Store, Path]) -> None:
    with safe_open(both[0], "demo/run@1") as opened:
        for ask in (opened.get_tensor, opened.get_slice):
            with pytest.raises(NotFoundError, match="no tensor 'nope'") as caught:
                ask("nope")
            assert "cube" in caught.value.known
    with pytest.raises(NotFoundError, match="no live step"):
        safe_open(both[0], "demo/run@2")
    with pytest.raises(InvalidError, match="closed"):
        opened.keys()


def test_what_can_not_be_saved(tmp_path: Path, store: gigastore.Store) -> None:
    for name, tensor in {"strided": torch.ones(4, 6)[:, ::2], "meta": torch.ones(4, device="meta")}.items():
        with pytest.raises(InvalidError, match=name):
            save_file({name: tensor}, store, "demo/run@1")
    with pytest.raises(InvalidError, match="names no step"):
        save_file({"w": torch.ones(1)}, store, "demo/run")
    with pytest.raises(InvalidError, match="metadata .* is not text by text"):
        save_file({"w": torch.ones(1)}, store, "demo/run@1", metadata={"epoch": 3})  # type: ignore[dict-item]
    with pytest.raises(InvalidError, match="framework"):
        safe_open(store, "demo/run@1", framework="tf")
    assert store.projects() == []


def test_a_real_model_is_the_same_tensor_by_tensor(url: str, model: Path) -> None:
    command("--store", url, "ckpt", "save", str(model), "--to", "demo/minilm@100", "--ranks", "4")
    name = "embeddings.word_embeddings.weight"
    with safe_open(url, "demo/minilm", "pt") as ours, safetensors.safe_open(model / "model.safetensors", "pt") as file:
        assert ours.keys() == file.keys()
        assert ours.metadata() == file.metadata()
        assert same(ours.get_slice(name)[1000:1003, ::7], file.get_slice(name)[1000:1003, ::7])
        every = ours.get_tensors()
        assert all(same(every[key], file.get_tensor(key)) for key in file.keys())


def test_it_imports_without_the_frameworks(url: str) -> None:
    """numpy alone is needed: a `safe_open` of "np" loads neither torch nor jax."""
    gigastore.Store(url).save("demo/run", 1, {"w": np.arange(4)})
    code = (
        "import sys\nfrom gigastore.safetensors import safe_open\n"
        f"opened = safe_open({url!r}, 'demo/run', 'np')\n"
        "assert opened.get_slice('w')[1:3].tolist() == [1, 2]\n"
        "assert not {'torch', 'jax', 'safetensors', 'fsspec'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
