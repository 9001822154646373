"""What must not work: each is an error that says what is wrong, and nothing half done can be seen afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gigastore
import jax
import numpy as np
import pytest
import torch
from conftest import Service, command, visible
from gigastore import AuthError, ConflictError, InvalidError, MissingRanksError, NotFoundError, Slice, Store
from slow_proxy import SlowProxy
from torch._subclasses.fake_tensor import FakeTensorMode

W = np.arange(4, dtype=np.float32)


def cycle() -> list[Any]:
    """Returns a list that holds itself."""
    found: list[Any] = []
    found.append(found)
    return found


def elsewhere() -> torch.Tensor:
    """Returns a tensor that says it is on a GPU; none is needed."""
    with FakeTensorMode():
        return torch.empty(4, device="cuda")


NO_TENSORS: dict[str, Callable[[], Any]] = {
    "not contiguous": lambda: np.arange(8.0)[::2],
    "fortran order, not contiguous": lambda: np.asfortranarray(np.ones((2, 3))),
    "torch, not contiguous": lambda: torch.ones(4, 4).t(),
    "the tensor is not contiguous (pass tensor.contiguous())": lambda: torch.ones(4, 2).t(),
    "expanded, not contiguous": lambda: torch.ones(1, 3).expand(4, 3),
    "meta device": lambda: torch.ones(2, device="meta"),
    "bad: the tensor is on cuda:0 (copy it to the host first": elsewhere,
    "layout torch.sparse_coo": lambda: torch.eye(3).to_sparse(),
    "layout torch.sparse_csr": lambda: torch.eye(3).to_sparse_csr(),
    "nested tensor": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "complex128": lambda: torch.ones(2, dtype=torch.complex128),
    "type <c16": lambda: np.ones(2, np.complex128),
    "type |O": lambda: np.array([{}]),
    "type <U1": lambda: np.array(["a"]),
    "type <M8": lambda: np.array(["2020-01-01"], "M8[D]"),
    "type >f4": lambda: np.arange(4, dtype=">f4"),
    "type |V4": lambda: np.zeros(2, [("a", "i4")]),
    "builtins.function is no tensor": lambda: lambda: None,
    "builtins.list is no tensor": cycle,
    "builtins.dict is no tensor": lambda: {"w": W},
    "builtins.NoneType is no tensor": lambda: None,
    "builtins.int is no tensor": lambda: 3,
    "builtins.str is no tensor": lambda: "text",
    "do not tell their type": lambda: b"1234",
    "do not tell their shape": lambda: Slice(b"1234", dtype="F32"),
    'type "f32"': lambda: Slice(b"1234", dtype="f32", sizes=(1,)),
    "16 bytes of data, expected 12": lambda: Slice(W, (4,), (0,), (3,)),
    "expected 32": lambda: Slice(W, dtype="F64"),
    "does not lie inside": lambda: Slice(W, (4,), (2,), (4,)),
    "bad: -1 is no whole": lambda: Slice(W, (4,), (-1,), (4,)),
    "bad: 2.0 is no whole": lambda: Slice(W, (4,), (0,), (2.0,)),  # type: ignore[arg-type]
    "as many offsets as sizes": lambda: Slice(W, (4,), (0, 0), (4,)),
    "twice": lambda: [Slice(W), Slice(W)],
}


@pytest.mark.filterwarnings("ignore:.*(Sparse CSR|nested tensors)")
@pytest.mark.parametrize("problem", NO_TENSORS)
def test_what_is_no_tensor(store: Store, problem: str) -> None:
    for asynchronous in (False, True):
        with pytest.raises(InvalidError) as caught:
            pending = store.save("demo/run", 1, {"good": W, "bad": NO_TENSORS[problem]()}, asynchronous=asynchronous)
            assert isinstance(pending, gigastore.PendingSave)
            pending.wait()
        assert problem.rpartition(", ")[2] in str(caught.value)
        assert isinstance(caught.value, ValueError) and caught.value.code == "invalid"
    assert visible(store) == []


def test_boxes_that_make_no_tensor(store: Store) -> None:
    cases: dict[str, list[Slice]] = {
        "gap": [Slice(W, (8,), (0,), (4,))],
        "overlap": [Slice(W, (6,), (0,), (4,)), Slice(W, (6,), (2,), (4,))],
        "types": [Slice(W, (8,), (0,), (4,)), Slice(W.astype(np.int32), (8,), (4,), (4,))],
        "shapes": [Slice(W, (8,), (0,), (4,)), Slice(W, (9,), (4,), (4,))],
    }
    for name, slices in cases.items():
        with pytest.raises((InvalidError, ConflictError), match=rf"do not make a checkpoint.*\b{name}\b"):
            store.save("demo/run", 1, {name: slices})
        assert visible(store) == [], name


def test_the_same_step_with_other_content(store: Store) -> None:
    committed = store.save("demo/run", 1, {"w": W})
    assert isinstance(committed, gigastore.CommitInfo)
    cases = {"size": np.arange(5, dtype=np.float32), "type": W.astype(np.int32), "bytes": W + 1}
    for name, other in cases.items():
        with pytest.raises(ConflictError, match="demo/run@1 exists with other content.*w") as caught:
            store.save("demo/run", 1, {"w": other})
        assert caught.value.code == "conflict" and "another step" in str(caught.value), name
    np.testing.assert_array_equal(store.checkpoint("demo/run@1").load()["w"], W)
    # The same content, in other shards, is what is there already.
    halves = [Slice(W[:2], (4,), (0,), (2,)), Slice(W[2:], (4,), (2,), (2,))]
    again = store.save("demo/run", 1, {"w": halves})
    assert isinstance(again, gigastore.CommitInfo)
    assert again.existed and (again.seq, again.content) == (committed.seq, committed.content)


def ranks(url: str, count: int, save: Callable[[Store, int], Any]) -> list[Any]:
    """Runs a save of several ranks at the same time; returns what each of them got, exceptions as such."""

    def one(rank: int) -> Any:
        try:
            return save(Store(url), rank)
        except gigastore.GigastoreError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_two_ranks_with_other_bytes_of_the_same_box(url: str) -> None:
    def save(store: Store, rank: int) -> Any:
        tensors = {"w": Slice(W + rank, (4,), (0,), (4,)), f"own{rank}": W}
        return store.save("demo/run", 1, tensors, rank=rank, world_size=2, attempt="a", deadline=20)

    found = ranks(url, 2, save)
    assert all(isinstance(one, ConflictError) for one in found), found
    for error in found:
        assert "w[0:4]" in str(error) and "ranks 0 and 1" in str(error)
    assert visible(Store(url)) == []


def test_a_rank_that_does_not_come(url: str) -> None:
    store, begun = Store(url), time.monotonic()
    with pytest.raises(MissingRanksError, match="1") as caught:
        store.save("demo/run", 1, {"w": W}, rank=0, world_size=3, attempt="a", deadline=1)
    assert 0.9 < time.monotonic() - begun < 8
    assert isinstance(caught.value, TimeoutError) and caught.value.code == "missing_ranks"
    assert "2" in str(caught.value)
    assert visible(store) == []
    # They come late, and the save goes on from what is there.
    found = ranks(
        url,
        3,
        lambda one, rank: one.save(
            "demo/run", 1, {f"w{rank}" if rank else "w": W}, rank=rank, world_size=3, attempt="a", deadline=20
        ),
    )
    assert {one.target for one in found} == {"demo/run@1"}
    assert set(store.checkpoint("demo/run").tensors) == {"w", "w1", "w2"}


def test_ranks_that_do_not_agree_how_many_they_are(url: str) -> None:
    def save(store: Store, rank: int) -> Any:
        return store.save("demo/run", 1, {f"w{rank}": W}, rank=rank, world_size=2 + rank, attempt="a", deadline=2)

    found = ranks(url, 2, save)
    assert any(isinstance(one, (ConflictError, InvalidError)) for one in found), found
    assert all(isinstance(one, gigastore.GigastoreError) for one in found), found
    assert visible(Store(url)) == []


def test_what_is_not_there(store: Store) -> None:
    store.save("demo/run", 1, {"w": W}, files={"a.json": b"{}"})
    checkpoint = store.checkpoint("demo/run")
    calls = [lambda: checkpoint.load(["w", "v"]), lambda: checkpoint.slice("v", ...), lambda: checkpoint.slices("v")]
    for call in calls:
        with pytest.raises(NotFoundError, match="no tensor") as caught:
            call()
        assert "v" in str(caught.value) and isinstance(caught.value, LookupError)
    with pytest.raises(NotFoundError) as caught:
        checkpoint.read_file("b.json")
    assert "b.json" in str(caught.value)
    for target, known in {"demo/ruin": "run", "dem/run": "demo", "demo/run@2": "1"}.items():
        with pytest.raises(NotFoundError) as caught:
            store.checkpoint(target)
        assert known in caught.value.known, target
        near = f"did you mean {known}?" if known != "1" else None
        assert caught.value.hint == near, target
    with pytest.raises(InvalidError, match="dataset"):
        store.dataset("demo/run")
    with pytest.raises(InvalidError, match="is not a URL.*did you mean file://"):
        Store("/tmp/store")
    with pytest.raises(gigastore.GigastoreError):
        Store(f"{store.url}-that-is-not-there", create=False)


def test_names_near_to_what_is_not_there_are_told(store: Store) -> None:
    layers = {f"layer.{number}.weight": W for number in range(150)}
    store.save("demo/run", 100, {**layers, "other": W}, files={"config.json": b"{}"}, tag="best")
    checkpoint = store.checkpoint("demo/run")
    calls: dict[str, Callable[[], Any]] = {
        "layer.77.weight or": lambda: checkpoint.load(["layer.77.weigth"]),
        "layer.149.weight or": lambda: checkpoint.slice("Layer.149.weight", ...),
        "other": lambda: checkpoint.slices("othr"),
        "config.json": lambda: checkpoint.read_file("confg.json"),
        "run": lambda: store.list("demo") and store.resolve("demo/rum"),
        "100": lambda: store.checkpoint("demo/run@101"),
        "best": lambda: store.checkpoint("demo/run@bset"),
        "demo": lambda: store.list("demmo"),
    }
    for near, call in calls.items():
        with pytest.raises(NotFoundError) as caught:
            call()
        assert f"(did you mean {near}" in str(caught.value), near
        assert str(caught.value).endswith("?)") and str(caught.value).count(" or layer") <= 2
        assert 0 < len(caught.value.known) <= 100
    with pytest.raises(NotFoundError) as caught:
        checkpoint.load(["entirely different"])
    assert caught.value.hint is None and "did you mean" not in str(caught.value)


def read_only() -> np.ndarray[Any, Any]:
    """Returns memory that can't be written."""
    return np.frombuffer(bytes(16), dtype=np.float32)


DESTINATIONS: dict[str, Callable[[], Any]] = {
    "F32 in the checkpoint, and F64": lambda: np.zeros(4),
    "F32 in the checkpoint, and I32": lambda: torch.zeros(4, dtype=torch.int32),
    "has shape [4], and [5]": lambda: np.zeros(5, np.float32),
    "has shape [4], and [2, 2]": lambda: torch.zeros(2, 2),
    "w: the memory to be filled is read-only": read_only,
    "w: the memory to be filled is read-only (pass memory that can": lambda: bytes(16),
    "not contiguous (load into a contiguous array, then copy it": lambda: np.zeros(8, np.float32)[::2],
    "not contiguous (load into a contiguous tensor, then copy_ it into this one)": lambda: torch.zeros(8)[::2],
    "meta device": lambda: torch.zeros(4, device="meta"),
    "w: the tensor is on cuda:0 (load into": elsewhere,
    "no tensor": lambda: [0.0] * 4,
    "16": lambda: bytearray(15),
}


class Copying:
    """An array of some framework that tells numpy its values by a copy."""

    def __array__(self, *_: Any, **__: Any) -> np.ndarray[Any, Any]:
        return np.zeros(4, np.float32)


def test_what_only_tells_its_values_is_not_filled(store: Store) -> None:
    store.save("demo/run", 1, {"scalar": np.float32(7), "w": W})
    checkpoint = store.checkpoint("demo/run")
    cases: list[tuple[str, Any, Any]] = [
        ("scalar", ([], []), np.float32(0)),
        ("w", ([0], [4]), Copying()),
        ("w", ([0], [4]), jax.numpy.zeros(4, np.float32)),
    ]
    for name, box, into in cases:
        with pytest.raises(InvalidError, match="filled|read-only"):
            checkpoint.load(into={name: into})
        with pytest.raises(InvalidError, match="filled|read-only"):
            checkpoint.slice(name, box, into=into)


@pytest.mark.parametrize("view", [lambda one: one.conj(), lambda one: one.conj().imag], ids=["conjugate", "negative"])
def test_views_of_other_values_are_not_filled(store: Store, view: Callable[[Any], Any]) -> None:
    memory = torch.zeros(1, dtype=torch.complex64)
    store.save("demo/run", 1, {"w": view(torch.ones(1, dtype=torch.complex64) * 1j)})
    checkpoint, into = store.checkpoint("demo/run"), view(memory)
    with pytest.raises(InvalidError, match="conjugate, or negative.*copy_ it"):
        checkpoint.load(into={"w": into})
    with pytest.raises(InvalidError, match="conjugate, or negative.*copy_ it"):
        checkpoint.slice("w", ([0], [1]), into=into)
    assert memory == 0


@pytest.mark.parametrize("problem", DESTINATIONS)
def test_destinations_that_do_not_fit(store: Store, problem: str) -> None:
    store.save("demo/run", 1, {"w": W})
    checkpoint, into = store.checkpoint("demo/run"), DESTINATIONS[problem]()
    before = bytes(into) if isinstance(into, bytearray) else None
    with pytest.raises(InvalidError) as caught:
        checkpoint.load(into={"w": into})
    assert problem in str(caught.value)
    with pytest.raises(InvalidError):
        checkpoint.slice("w", ([0], [4]), into=into)
    if before is not None:
        assert bytes(into) == before


@pytest.mark.parametrize("box", [([0], [5]), ([3], [2]), ([0, 0], [1, 1]), (4,), (-5,), (0, 0), (slice(0, 4, 2),)])
def test_boxes_that_are_not_there(store: Store, box: Any) -> None:
    store.save("demo/run", 1, {"w": W})
    with pytest.raises(InvalidError, match="w"):
        store.checkpoint("demo/run").slice("w", box)


def interrupt(action: str, url: str, wait: threading.Event) -> tuple[str, float]:
    """Interrupts a process in the middle of its transfer; returns what it said, and how long it took to end."""
    script = Path(__file__).parent / "interrupted.py"
    child = subprocess.Popen(
        [sys.executable, str(script), action, url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == "begun\n"
        assert wait.wait(30), "the transfer did not begin"
        time.sleep(0.3)
        assert child.poll() is None
        sent = time.time()
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=30)[0]
        ended = time.time()
    finally:
        child.kill()
        child.wait()
    assert "KeyboardInterrupt" in said, said
    assert child.returncode in (1, 130, -signal.SIGINT), said
    told = float(said.partition("interrupted at ")[2].split()[0])
    assert told - sent < 1, f"KeyboardInterrupt came {told - sent:.1f} s after SIGINT"
    return said, ended - sent


def test_ctrl_c_in_the_middle_of_a_load(service: Service) -> None:
    Store(service.store).save("demo/run", 1, {"w": np.arange(2 << 20, dtype=np.float64)})
    with SlowProxy(service.port, down=4 << 20) as proxy:
        said, seconds = interrupt("load", proxy.url, proxy.down.reached)
    assert "loaded" not in said
    assert seconds < 3


def test_ctrl_c_in_the_middle_of_a_save(service: Service) -> None:
    store = Store(service.store)
    store.save("demo/run", 1, {"w": W})
    with SlowProxy(service.port, up=4 << 20) as proxy:
        said, seconds = interrupt("save", proxy.url, proxy.up.reached)
        assert "saved" not in said
        assert seconds < 3
        assert visible(store) == ["demo/run@1"]
    time.sleep(0.5)
    assert visible(store) == ["demo/run@1"]
    assert store.verify("demo").ok


@pytest.mark.parametrize("ends", ["not known", "has expired"])
def test_a_token_that_ends_in_the_middle_of_a_save(url: str, tmp_path: Path, serve: Any, ends: str) -> None:
    tokens, local = ["--tokens", str(tmp_path / "tokens.json")], Store(url)
    # Long enough for a service and a save to begin on a busy machine.
    expires = ["--expires", "5s"] if ends == "has expired" else []
    made = command("token", "create", *tokens, "--name", "trainer", "--scope", "demo:write", *expires)
    token = made.stdout.strip().split()[-1]
    entry = command("--format", "json", "token", "ls", *tokens).stdout
    identity = entry.partition('"id": "')[2].partition('"')[0]
    assert identity, entry
    service: Service = serve(url, *tokens)
    tensors = {"w": np.arange(2 << 20, dtype=np.float64)}
    with SlowProxy(service.port, up=4 << 20) as proxy, ThreadPoolExecutor(1) as pool:
        saving = pool.submit(Store(proxy.url, token).save, "demo/run", 1, tensors)
        assert proxy.up.reached.wait(30)
        if not expires:
            command("token", "revoke", *tokens, identity)
        _until_refused(service.url, token)
        proxy.up.open()
        with pytest.raises(AuthError, match=ends) as caught:
            saving.result(timeout=60)
    assert isinstance(caught.value, PermissionError) and caught.value.code == "denied"
    assert visible(local) == []


def _until_refused(url: str, token: str) -> None:
    request = urllib.request.Request(f"{url}/v1/projects", headers={"Authorization": f"Bearer {token}"})
    for _ in range(100):
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except urllib.error.HTTPError as error:
            assert error.code == 401
            return
        time.sleep(0.1)
    raise AssertionError("the token is still let in after 10 s")
