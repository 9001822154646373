"""The plain API: what is saved comes back bit for bit, and everything else that a `Store` promises."""

from __future__ import annotations

import pickle
import re
import threading
import time
from pathlib import Path
from typing import Any

import gigastore
import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from conftest import Service
from gigastore import ConflictError, IntegrityError, InvalidError, Memory, Slice, Store
from gigastore.errors import _BY_CODE, of_fault

ROOT = Path(__file__).parents[2]
W = np.arange(4, dtype=np.float32)

NUMPY = "bool uint8 int8 uint16 int16 float16 uint32 int32 float32 complex64 uint64 int64 float64".split()
ML_DTYPES = [
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e8m0fnu",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
]
# What only safetensors has a name for: bits of an element, and bytes of a tensor of shape [4, 8].
PACKED = {"F4": 16, "F6_E2M3": 24, "F6_E3M2": 24}


def raw(size: int, boolean: bool = False) -> np.ndarray[Any, Any]:
    """Returns bytes of all values, or of 0 and 1."""
    return np.arange(size, dtype=np.uint64).astype(np.uint8) % (2 if boolean else 251)


@pytest.mark.parametrize("name", NUMPY + ML_DTYPES)
def test_types_of_numpy(store: Store, name: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    arrays = {
        "matrix": raw(24 * dtype.itemsize, name == "bool").view(dtype).reshape(6, 4),
        "scalar": raw(dtype.itemsize, name == "bool").view(dtype).reshape(()),
        "empty": np.zeros((0, 3), dtype),
    }
    store.save("demo/run", 1, arrays)
    found = store.checkpoint("demo/run").load()
    for key, array in arrays.items():
        assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape), key
        assert found[key].tobytes() == array.tobytes(), key


@pytest.mark.parametrize("name", [*NUMPY, *ML_DTYPES, "float4_e2m1fn_x2"])
def test_types_of_torch(store: Store, name: str) -> None:
    dtype = getattr(torch, name)
    size = torch.empty(0, dtype=dtype).element_size()
    tensor = torch.from_numpy(raw(24 * size, name == "bool")).view(dtype).reshape(6, 4)
    store.save("demo/run", 1, {"w": tensor, "empty": torch.empty(0, 2, dtype=dtype)})
    found = store.checkpoint("demo/run").load(device="cpu")
    assert (found["w"].dtype, found["w"].shape) == (dtype, tensor.shape)
    assert torch.equal(found["w"].view(torch.uint8), tensor.view(torch.uint8))
    assert (found["empty"].dtype, found["empty"].shape) == (dtype, (0, 2))
    into = torch.empty_like(tensor)
    assert store.checkpoint("demo/run").load(into={"w": into})["w"] is into
    assert torch.equal(into.view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.parametrize("name", PACKED)
def test_types_that_are_bytes_in_python(store: Store, name: str) -> None:
    content = raw(PACKED[name]).tobytes()
    store.save("demo/run", 1, {"w": Slice(content, dtype=name, sizes=(4, 8))})
    checkpoint, into = store.checkpoint("demo/run"), bytearray(len(content))
    assert (checkpoint.tensors["w"].dtype, checkpoint.tensors["w"].shape) == (name, (4, 8))
    checkpoint.load(into={"w": into})
    assert bytes(into) == content
    row = bytearray(len(content) // 4)
    checkpoint.slice("w", ([2, 0], [1, 8]), into=row)
    assert bytes(row) == content[2 * len(row) : 3 * len(row)]
    with pytest.raises(InvalidError, match=f"numpy has no type for {name}"):
        checkpoint.load()


def test_tensors_of_torch_as_they_come(store: Store) -> None:
    """Parameters, views with an offset, conjugates: what the values are is what is stored."""
    base = torch.arange(12, dtype=torch.float32)
    complex_ = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    tensors = {
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "offset": base[4:8],
        "conjugate": complex_.conj(),
        "negative": complex_.conj().imag.contiguous(),
    }
    store.save("demo/run", 1, tensors)
    found = store.checkpoint("demo/run").load(device="cpu")
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor.detach().resolve_conj().resolve_neg()), name


def test_boxes_of_ranks_make_one_tensor(store: Store) -> None:
    whole = np.arange(48, dtype=np.int32).reshape(6, 8)
    threads, found = [], {}

    def save(rank: int) -> None:
        rows, shared = np.ascontiguousarray(whole[rank * 2 : rank * 2 + 2]), W
        tensors = {
            "rows": Slice(rows, whole.shape, (rank * 2, 0)),
            "columns": [
                Slice(np.ascontiguousarray(whole[:, at : at + 1]), whole.shape, (0, at)) for at in range(rank, 8, 3)
            ],
            "shared": Slice(shared, replicas=(0, 1, 2)),
        }
        found[rank] = store.save("demo/run", 1, tensors, rank=rank, world_size=3, attempt="a", deadline=30)

    for rank in range(3):
        threads.append(threading.Thread(target=save, args=(rank,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert {one.content for one in found.values()} == {store.resolve("demo/run@1").content}
    checkpoint = store.checkpoint("demo/run")
    np.testing.assert_array_equal(checkpoint.load()["rows"], whole)
    np.testing.assert_array_equal(checkpoint.load()["columns"], whole)
    np.testing.assert_array_equal(checkpoint.load()["shared"], W)
    assert [len(checkpoint.slices(name)) for name in ("rows", "columns", "shared")] == [3, 8, 1]
    assert checkpoint.tensors["rows"] == gigastore.TensorInfo("I32", (6, 8), 192, 3)


def test_a_commit_of_its_own(store: Store) -> None:
    for rank in range(2):
        options: dict[str, Any] = {"rank": rank, "world_size": 2, "attempt": "a"}
        assert store.save("demo/run", 1, {f"w{rank}": W}, commit=False, **options) is None
    committed = store.commit("demo/run", 1, world_size=2, attempt="a", tag="best", deadline=20)
    assert committed.target == "demo/run@1" and set(committed.tags) == {"best", "latest"}
    assert set(store.checkpoint("demo/run@best").tensors) == {"w0", "w1"}


BOXES: list[Any] = [
    0,
    -1,
    ...,
    (1, 2),
    (slice(1, 3), slice(None), 2),
    (..., slice(-2, None)),
    (0, ..., slice(1, 2)),
    slice(2, 100),
    slice(3, 1),
    (slice(None), 1),
    (np.int64(3), slice(0, 2)),
]


@pytest.mark.parametrize("box", BOXES, ids=str)
def test_boxes_are_as_numpy_has_them(store: Store, box: Any) -> None:
    whole = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    halves = [Slice(np.ascontiguousarray(whole[:, at : at + 3]), whole.shape, (0, at, 0)) for at in (0, 3)]
    store.save("demo/run", 1, {"w": halves})
    checkpoint, wanted = store.checkpoint("demo/run"), whole[box]
    found = checkpoint.slice("w", box)
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
    into = torch.zeros(wanted.shape)
    assert checkpoint.slice("w", box, into=into) is into
    np.testing.assert_array_equal(into.numpy(), wanted)
    offsets, sizes = [1, 1, 1], [2, 3, 4]
    np.testing.assert_array_equal(checkpoint.slice("w", (offsets, sizes), device="cpu"), whole[1:3, 1:4, 1:5])


def test_many_boxes_in_one_read(store: Store) -> None:
    whole = np.arange(64, dtype=np.uint8).reshape(8, 8)
    store.save("demo/run", 1, {"a": whole, "b": whole + 100})
    first, second, third = np.zeros((2, 8), np.uint8), bytearray(16), torch.zeros(8, 8, dtype=torch.uint8)
    wanted = [("a", ([3, 0], [2, 8]), first), ("b", ([0, 6], [8, 2]), second), ("b", None, third.numpy())]
    store.checkpoint("demo/run").read_into(wanted)
    np.testing.assert_array_equal(first, whole[3:5])
    assert bytes(second) == np.ascontiguousarray((whole + 100)[:, 6:]).tobytes()
    np.testing.assert_array_equal(third.numpy(), whole + 100)


def test_files_metadata_tags_and_lists(store: Store) -> None:
    content = raw(3 << 20).tobytes()
    for step in (1, 2, 10):
        files = {"config.json": b'{"a": 1}', "deep/er/blob.bin": memoryview(content), "empty": b""}
        store.save("demo/run", step, {"w": W + step}, metadata={"loss": f"{step}"}, files=files)
    store.save("demo/other", 1, {"w": W}, tag="best")
    checkpoint = store.checkpoint("demo/run@2")
    assert checkpoint.metadata == {"loss": "2"}
    assert {name: checkpoint.files[name] for name in files} == {name: len(data) for name, data in files.items()}
    for start, end in [(0, None), (5, 9), (1 << 20, (1 << 20) + 1), (3 << 20, None), ((3 << 20) - 1, 1 << 40)]:
        assert checkpoint.read_file("deep/er/blob.bin", start, end) == content[start:end], (start, end)
    assert checkpoint.read_file("empty") == b""
    assert store.tag("demo/run@2", "chosen").target == "demo/run@2"
    assert store.resolve("demo/run@chosen").number == 2
    store.tag("demo/run@10", "chosen")
    assert store.resolve("demo/run@chosen").number == 10
    # A checkpoint that was opened stays what it is.
    assert checkpoint.target == "demo/run@2" and checkpoint.info.number == 2
    assert store.projects() == ["demo"]
    other, run = store.list("demo")
    assert (other.name, run.name, run.kind) == ("other", "run", "checkpoint")
    assert [info.number for info in run.live] == [1, 2, 10]
    assert set(run.live[-1].tags) == {"latest", "chosen"} and set(other.live[0].tags) == {"latest", "best"}
    assert abs(run.live[0].time / 1000 - time.time()) < 300
    assert repr(store) == f"gigastore.Store({store.url!r})"


def test_differences_are_told_without_reading(store: Store) -> None:
    store.save("demo/run", 1, {"same": W, "other": W, "gone": W}, files={"f": b"1"})
    store.save("demo/run", 2, {"same": W, "other": W + 1, "new": W}, files={"f": b"2"})
    found = store.diff("demo/run@1", "demo/run@2")
    assert (found.added, found.removed, found.unchanged) == (("new",), ("gone",), 1)
    assert set(found.changed) == {"f", "other"}


def flip(root: Path, content: bytes) -> Path:
    """Flips a bit of some stored content."""
    (pack,) = [path for path in root.rglob("packs/**/*.safetensors") if content in path.read_bytes()]
    data = bytearray(pack.read_bytes())
    data[data.index(content) + 5] ^= 4
    pack.write_bytes(data)
    return pack


def test_a_flipped_bit_is_found_and_never_loaded(store: Store, tmp_path: Path) -> None:
    array = raw(3 << 20)
    store.save("demo/run", 1, {"w": array, "other": W})
    assert store.verify("demo").ok
    pack = flip(tmp_path / "store", array[:4096].tobytes())
    report = store.checkpoint("demo/run").verify()
    assert not report.ok and report.commits == 1 and report.bytes_read > array.nbytes
    (finding,) = report.findings
    assert pack.name in finding.object and any("w" in one for one in finding.affects)
    assert finding.range is not None and "BLAKE3" in finding.problem
    assert store.verify("demo/run@1", depth="quick").ok
    assert store.refetched == 0
    with pytest.raises(IntegrityError) as caught:
        store.checkpoint("demo/run").load()
    assert store.refetched >= 1
    error = caught.value
    assert error.code == "integrity" and pack.name in str(error.object)
    assert error.expected and error.actual and error.expected != error.actual
    assert error.expected in str(error) and "tensor w" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (IntegrityError, str(error))
    assert (again.object, again.expected, again.actual, again.code) == (
        error.object,
        error.expected,
        error.actual,
        "integrity",
    )
    # What is not damaged is there, the rest of the same tensor too.
    np.testing.assert_array_equal(store.checkpoint("demo/run").load(["other"])["other"], W)
    np.testing.assert_array_equal(store.checkpoint("demo/run").slice("w", slice(2 << 20, None)), array[2 << 20 :])
    with pytest.raises(InvalidError, match="depth"):
        store.verify("demo", depth="deep")


def test_memory_goes_to_frameworks_without_a_copy(store: Store) -> None:
    memory = Memory(32, "F32", [2, 4])
    view = np.frombuffer(memory, dtype=np.float32)
    view[:] = np.arange(8)
    assert len(memory) == 32 and view.ctypes.data % 64 == 0
    tensor = torch.from_dlpack(memory)
    assert tensor.dtype == torch.float32 and tensor.shape == (2, 4)
    assert tensor.data_ptr() == view.ctypes.data and tensor[1, 3] == 7
    array = np.from_dlpack(memory)
    assert array.shape == (2, 4) and array.ctypes.data == view.ctypes.data
    found = jax.dlpack.from_dlpack(memory)
    assert found.shape == (2, 4) and float(found[1, 2]) == 6.0
    # What is loaded into it from a store is there for them as well.
    saved = np.arange(8, dtype=np.float32).reshape(2, 4) * 3
    store.save("demo/run", 1, {"w": saved})
    filled = Memory(32, "F32", [2, 4])
    store.checkpoint("demo/run").load(into={"w": filled})
    loaded = jax.dlpack.from_dlpack(filled)
    assert loaded.dtype == np.float32 and np.array_equal(loaded, saved)
    half = Memory(8, "BF16", [4])
    assert torch.from_dlpack(half).dtype == torch.bfloat16
    # It is there as long as anybody looks at it.
    del memory, view, array
    filler = [Memory(32) for _ in range(100)]
    assert tensor[1, 3] == 7 and len(filler) == 100


def test_loads_go_where_they_are_told(store: Store) -> None:
    store.save("demo/run", 1, {"a": W, "b": W + 1})
    checkpoint = store.checkpoint("demo/run")
    into = {"a": np.zeros(4, np.float32)}
    found = checkpoint.load(into=into)
    assert found.keys() == {"a"} and found["a"] is into["a"] and (into["a"] == W).all()
    assert list(found) == list(into) and checkpoint.load(into={}) == {}
    both = checkpoint.load(["a", "b"], into=into, device="cpu")
    assert both["a"] is into["a"] and isinstance(both["b"], torch.Tensor)
    assert checkpoint.load(["b"], device="meta")["b"].device.type == "meta"


def test_files_that_are_exported(store: Store, tmp_path: Path) -> None:
    store.save("demo/run", 1, {"a": W, "b": W + 1}, files={"config.json": b"{}"}, metadata={"safetensors:format": "pt"})
    paths = store.checkpoint("demo/run").export(str(tmp_path / "out"))
    assert all(type(path) is str for path in paths)
    assert {Path(path).name for path in paths} == {"model.safetensors", "config.json"}
    from safetensors.numpy import load_file

    assert {name: list(array) for name, array in load_file(tmp_path / "out" / "model.safetensors").items()} == {
        "a": list(W),
        "b": list(W + 1),
    }
    with pytest.raises(ConflictError):
        store.checkpoint("demo/run").export(str(tmp_path / "out"))
    store.checkpoint("demo/run").export(str(tmp_path / "out"), names=["a"], overwrite=True)
    assert list(load_file(tmp_path / "out" / "model.safetensors")) == ["a"]


def test_the_same_through_a_service(service: Service) -> None:
    store = Store(service.url)
    array = raw(5 << 20).view(np.float16).reshape(-1, 64)
    info = store.save("demo/run", 1, {"w": array}, files={"config.json": b"{}"}, tag="best", compress=True)
    direct = Store(service.store).save("demo/run", 1, {"w": array}, files={"config.json": b"{}"})
    assert (direct.existed, direct.content, direct.seq) == (True, info.content, info.seq)
    checkpoint = store.checkpoint("demo/run@best")
    np.testing.assert_array_equal(checkpoint.load()["w"], array)
    np.testing.assert_array_equal(checkpoint.slice("w", (slice(100, 200), 3)), array[100:200, 3])
    assert checkpoint.read_file("config.json") == b"{}"
    assert store.verify("demo").ok and store.projects() == ["demo"]


@pytest.mark.parametrize(
    ("code", "kind", "builtin"),
    [
        ("invalid", gigastore.InvalidError, ValueError),
        ("not_found", gigastore.NotFoundError, LookupError),
        ("gone", gigastore.GoneError, gigastore.NotFoundError),
        ("conflict", gigastore.ConflictError, Exception),
        ("missing_ranks", gigastore.MissingRanksError, TimeoutError),
        ("in_progress", gigastore.UnavailableError, ConnectionError),
        ("integrity", gigastore.IntegrityError, Exception),
        ("lost", gigastore.IntegrityError, Exception),
        ("bad_upload", gigastore.IntegrityError, Exception),
        ("denied", gigastore.AuthError, PermissionError),
        ("unavailable", gigastore.UnavailableError, ConnectionError),
        ("commit_state_unknown", gigastore.CommitStateUnknownError, gigastore.UnavailableError),
        ("store_full", gigastore.StoreWriteError, OSError),
        ("read_only", gigastore.StoreWriteError, OSError),
        ("newer_format", gigastore.InvalidError, ValueError),
    ],
)
def test_what_a_fault_becomes(code: str, kind: type[gigastore.GigastoreError], builtin: type[Exception]) -> None:
    error = of_fault(code, "it failed", "object", "expected", "actual", "do that", ["known"], "request")
    assert type(error) is kind and isinstance(error, builtin) and isinstance(error, gigastore.GigastoreError)
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert (one.code, one.object, one.expected, one.actual) == (code, "object", "expected", "actual")
        assert (one.hint, one.known, one.request_id) == ("do that", ["known"], "request")
        assert str(one) == "it failed (do that)"


def test_each_fault_of_the_service_is_known() -> None:
    variants = (ROOT / "formats/src/wire.rs").read_text().partition("pub enum FaultCode {")[2].partition("\n}")[0]
    named = re.findall(r"^    ([A-Z]\w*),$", variants, re.MULTILINE)
    assert len(named) >= 15
    assert {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in named} == _BY_CODE.keys()
