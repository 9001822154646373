"""`gigastore.jax`: trees over eight devices, in one process and in two, restored into any sharding."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import gigastore
import gigastore.jax
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from conftest import command
from gigastore import IntegrityError, InvalidError, NotFoundError
from gigastore.jax import restore_pytree, save_pytree
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

WORKER = Path(__file__).parent / "jax_worker.py"


class State(NamedTuple):
    """A node that is none of dict, list and tuple, as optimizers have them."""

    count: Any
    moments: Any


@pytest.fixture
def mesh() -> Mesh:
    """Eight devices, four by two."""
    assert jax.device_count() == 8, "XLA_FLAGS=--xla_force_host_platform_device_count=8 came too late"
    return Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))


def put(value: Any, mesh: Mesh, *spec: Any) -> jax.Array:
    """Puts an array on a mesh."""
    return jax.device_put(value, NamedSharding(mesh, P(*spec)))


def like(tree: Any, sharding: Any) -> Any:
    """Returns what a tree is wanted as: the same shapes, another sharding."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def test_a_tree_comes_back_as_it_was(store: gigastore.Store, mesh: Mesh) -> None:
    tree = {
        "params": {
            "dense": {"kernel": put(jnp.arange(64.0).reshape(8, 8), mesh, "data", "model"), "bias": jnp.ones(3)},
            "layers": [put(jnp.arange(8), mesh, "model"), (jnp.zeros((0, 4)), jnp.float32(2.5))],
        },
        "host": np.arange(6, dtype=np.int64).reshape(2, 3),
        "host scalar": np.float64(0.1),
        "step": 7,
        "big": 1 << 80,
        "lr": 0.1,
        "odd": [float("inf"), float("-inf"), True, False, "text", 1 + 2j, None],
        "nan": float("nan"),
        "empty": {},
        "nothing": [],
        "key": jax.random.key(3),
        "old key": jax.random.PRNGKey(4),
    }
    tree["numbers"] = {1: jnp.ones(2), 2: None}
    committed = save_pytree(store, "demo/run", 100, tree, tag="best", metadata={"loss": "0.5"})
    assert isinstance(committed, gigastore.CommitInfo) and committed.target == "demo/run@100"

    found = restore_pytree(store, "demo/run@best")
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    assert np.isnan(found.pop("nan")) and np.isnan(tree.pop("nan"))
    keys = found.pop("key"), tree.pop("key")
    assert keys[0].dtype == keys[1].dtype and jax.random.uniform(keys[0]) == jax.random.uniform(keys[1])
    for (path, leaf), wanted in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(tree), strict=True):
        assert isinstance(leaf, jax.Array if isinstance(wanted, jax.Array) else type(wanted)), path
        assert leaf.dtype == wanted.dtype if hasattr(wanted, "dtype") else type(leaf) is type(wanted), path
        np.testing.assert_array_equal(leaf, wanted, err_msg=str(path))

    checkpoint = store.checkpoint("demo/run")
    assert {"params/dense/kernel", "params/layers/1/0", "host", "numbers/1"} <= set(checkpoint.tensors)
    assert checkpoint.metadata == {"loss": "0.5"}
    # What it is made of opens without JAX and without pickle.
    assert json.loads(checkpoint.read_file("pytree.json"))["format"] == 1
    np.testing.assert_array_equal(checkpoint.load(["params/dense/kernel"])["params/dense/kernel"].ravel(), range(64))


def test_each_box_is_given_once(store: gigastore.Store, mesh: Mesh) -> None:
    tree = {
        "both": put(jnp.arange(64.0).reshape(8, 8), mesh, "data", "model"),
        "rows": put(jnp.arange(32.0).reshape(8, 4), mesh, "data"),
        "replicated": put(jnp.arange(5.0), mesh),
        "over all": put(jnp.arange(16), mesh, ("data", "model")),
    }
    save_pytree(store, "demo/run", 1, tree)
    checkpoint = store.checkpoint("demo/run")
    assert {name: len(checkpoint.slices(name)) for name in tree} == {
        "both": 8,
        "rows": 4,
        "replicated": 1,
        "over all": 8,
    }
    assert sorted(offsets for offsets, _, _ in checkpoint.slices("rows")) == [(0, 0), (2, 0), (4, 0), (6, 0)]


SPECS = [P(), P("data"), P("model"), P(None, "data"), P("data", "model"), P("model", "data"), P(("data", "model"))]


@pytest.mark.parametrize("saved", SPECS, ids=str)
def test_any_sharding_becomes_any_other(store: gigastore.Store, mesh: Mesh, saved: P) -> None:
    values = np.arange(8 * 16, dtype=np.float32).reshape(8, 16)
    save_pytree(store, "demo/run", 1, {"w": jax.device_put(values, NamedSharding(mesh, saved))})
    flat = Mesh(np.array(jax.devices()[::-1]), ("all",))
    shardings = [NamedSharding(mesh, spec) for spec in SPECS]
    shardings += [NamedSharding(flat, P(None, "all")), SingleDeviceSharding(jax.devices()[5])]
    for sharding in shardings:
        found = restore_pytree(store, "demo/run", like({"w": jnp.zeros((8, 16))}, sharding))["w"]
        assert found.sharding == sharding
        np.testing.assert_array_equal(found, values)


def test_a_restore_is_one_read_of_each_box(store: gigastore.Store, mesh: Mesh, monkeypatch: Any) -> None:
    tree = {"a": put(jnp.arange(64.0).reshape(8, 8), mesh, "data"), "b": put(jnp.arange(8.0), mesh)}
    save_pytree(store, "demo/run", 1, tree)
    reads: list[list[Any]] = []
    original = gigastore.Checkpoint.read_into
    monkeypatch.setattr(
        gigastore.Checkpoint,
        "read_into",
        lambda self, wanted, **options: (reads.append(list(wanted)), original(self, wanted, **options))[1],
    )
    wanted = like(tree, NamedSharding(mesh, P("model")))
    found = restore_pytree(store, "demo/run", wanted)
    ((*boxes,),) = reads
    # Two halves of each on eight devices: four boxes, not sixteen.
    assert sorted((name, area) for name, area, _ in boxes) == [
        ("a", ((0, 0), (4, 8))),
        ("a", ((4, 0), (4, 8))),
        ("b", ((0,), (4,))),
        ("b", ((4,), (4,))),
    ]
    np.testing.assert_array_equal(found["a"], tree["a"])


TYPES = "bool int8 int16 int32 uint8 uint16 uint32 float16 bfloat16 float32 complex64 float8_e4m3fn float8_e5m2"


@pytest.mark.parametrize("dtype", [*TYPES.split(), "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"])
def test_types_keep_their_bits(store: gigastore.Store, mesh: Mesh, dtype: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    raw = (np.arange(32 * kind.itemsize, dtype=np.uint8) % (2 if dtype == "bool" else 250)).view(kind).reshape(8, 4)
    save_pytree(store, "demo/run", 1, {"w": put(raw, mesh, "data", "model")})
    found = restore_pytree(store, "demo/run", {"w": put(np.zeros_like(raw), mesh, "model")})["w"]
    assert found.dtype == kind
    assert np.asarray(found).tobytes() == raw.tobytes()
    assert np.asarray(restore_pytree(store, "demo/run")["w"]).tobytes() == raw.tobytes()


@pytest.mark.parametrize("dtype", ["int4", "uint4", "float4_e2m1fn", "float8_e3m4"])
def test_types_that_are_not_stored(store: gigastore.Store, dtype: str) -> None:
    with pytest.raises(InvalidError, match=f"w: elements of {dtype} can't be stored.*convert"):
        save_pytree(store, "demo/run", 1, {"w": jnp.ones(4, dtype=getattr(jnp, dtype))})
    assert store.projects() == []


def test_wide_types_are_not_narrowed(store: gigastore.Store) -> None:
    save_pytree(store, "demo/run", 1, {"w": np.arange(3), "x": np.arange(3.0)})
    with pytest.raises(InvalidError, match="w is I64.*I32"):
        restore_pytree(store, "demo/run", {"w": jnp.arange(3)})
    gigastore.Store(store.url).save("demo/plain", 1, {"w": np.arange(3)})
    with pytest.raises(InvalidError, match="jax_enable_x64"):
        restore_pytree(store, "demo/plain")
    with jax.enable_x64(True):
        wide = {"w": jax.ShapeDtypeStruct((3,), np.int64), "x": jax.ShapeDtypeStruct((3,), np.float64)}
        assert restore_pytree(store, "demo/run", wide)["x"].dtype == np.float64


def test_custom_nodes(store: gigastore.Store) -> None:
    tree = State(jnp.int32(3), OrderedDict(mu={"w": jnp.ones(2)}, nu=None))
    save_pytree(store, "demo/run", 1, tree)
    found = restore_pytree(store, "demo/run", jax.tree.map(jnp.zeros_like, tree))
    assert isinstance(found, State) and isinstance(found.moments, OrderedDict) and found.moments["nu"] is None
    np.testing.assert_array_equal(found.moments["mu"]["w"], [1, 1])
    plain = restore_pytree(store, "demo/run")
    assert plain["count"] == 3 and plain["moments"]["nu"] is None
    np.testing.assert_array_equal(plain["moments"]["mu"]["w"], [1, 1])
    save_pytree(store, "demo/leaf", 1, jnp.arange(3))
    assert restore_pytree(store, "demo/leaf").tolist() == [0, 1, 2]


def test_random_keys_keep_their_kind_and_sharding(store: gigastore.Store, mesh: Mesh) -> None:
    keys = put(jax.random.split(jax.random.key(1), 8), mesh, "data")
    save_pytree(store, "demo/run", 1, {"rng": keys})
    for wanted in (keys, jax.ShapeDtypeStruct((8,), keys.dtype, sharding=NamedSharding(mesh, P("model")))):
        found = restore_pytree(store, "demo/run", {"rng": wanted})["rng"]
        assert found.sharding.is_equivalent_to(wanted.sharding, 1)
        np.testing.assert_array_equal(jax.random.key_data(found), jax.random.key_data(keys))
    with pytest.raises(InvalidError, match="rng"):
        restore_pytree(store, "demo/run", {"rng": jax.random.split(jax.random.key(1, impl="rbg"), 8)})
    with pytest.raises(InvalidError, match="rng was saved as keys"):
        restore_pytree(store, "demo/run", {"rng": jnp.zeros((8, 2), dtype=jnp.uint32)})


def test_a_part_of_a_tree(store: gigastore.Store) -> None:
    save_pytree(store, "demo/run", 1, {"params": {"w": jnp.ones(4)}, "opt": {"m": jnp.zeros(4)}, "step": 3})
    assert restore_pytree(store, "demo/run", {"step": 0}) == {"step": 3}
    found = restore_pytree(store, "demo/run", {"params": {"w": np.zeros(4, np.float32)}})
    assert found["params"]["w"].tolist() == [1, 1, 1, 1]


def test_arrays_that_were_put_nowhere_stay_free(store: gigastore.Store, mesh: Mesh) -> None:
    """A counter that belongs to no device works together with arrays of a mesh, before and after."""
    tree = {"count": jnp.zeros(()), "w": put(jnp.ones(8), mesh, "data")}
    save_pytree(store, "demo/run", 1, tree)
    found = restore_pytree(store, "demo/run", tree)
    assert not found["count"].committed
    assert jax.jit(lambda one: one["w"].sum() + one["count"])(found) == 8


def test_what_is_restored_may_be_donated(store: gigastore.Store, mesh: Mesh) -> None:
    """Replicas share memory of the host while they can; a computation in place on one must not reach the others."""
    save_pytree(store, "demo/run", 1, {"w": jnp.zeros(1 << 16)})
    state = restore_pytree(store, "demo/run", like({"w": jnp.zeros(1 << 16)}, NamedSharding(mesh, P())))["w"]
    again = restore_pytree(store, "demo/run", {"w": np.zeros(1 << 16, np.float32)})["w"]
    step = jax.jit(lambda w: w + 1, donate_argnums=0)
    for number in range(1, 4):
        state = step(state)
        assert all((np.asarray(shard.data) == number).all() for shard in state.addressable_shards)
    assert (again == 0).all()


def test_what_does_not_fit(store: gigastore.Store) -> None:
    save_pytree(store, "demo/run", 1, {"w": jnp.ones((2, 3)), "step": 3})
    cases = {
        r"w is F32 \[2, 3\].*F32 \[3, 2\]": {"w": jnp.ones((3, 2))},
        r"w is F32 \[2, 3\].*BF16": {"w": jnp.ones((2, 3), jnp.bfloat16)},
        "w was saved as an array, and an int": {"w": 1},
        "step was saved as an int, and an ArrayImpl": {"step": jnp.int32(0)},
        "step was saved as an int, and a float": {"step": 1.0},
        "step was saved as an int, and a bool": {"step": True},
        "step was saved as an int, and a str": {"step": "3"},
        "w: a builtins.object does not tell": {"w": object()},
    }
    for match, wanted in cases.items():
        with pytest.raises(InvalidError, match=match):
            restore_pytree(store, "demo/run", wanted)
    with pytest.raises(NotFoundError, match="no leaf 'v'") as caught:
        restore_pytree(store, "demo/run", {"v": jnp.ones(1)})
    assert caught.value.known == ["w", "step"] or set(caught.value.known) == {"w", "step"}
    assert caught.value.hint is None
    with pytest.raises(NotFoundError, match=r"no leaf 'stp' \(did you mean step\?\)"):
        restore_pytree(store, "demo/run", {"stp": jnp.ones(1)})


def test_what_is_no_leaf(store: gigastore.Store) -> None:
    gone = jnp.ones(3)
    gone.delete()
    cases: dict[str, Any] = {
        "f: a leaf of type builtins.function": {"f": lambda: None},
        "b: a leaf of type builtins.bytes": {"b": b"bytes"},
        "w was deleted": {"w": gone},
        "two leaves of the tree are named 'a/b'": {"a": {"b": 1}, "a/b": 2},
        r"key \(1, 2\), of type tuple": {(1, 2): jnp.ones(1)},
    }
    for match, tree in cases.items():
        with pytest.raises(InvalidError, match=match):
            save_pytree(store, "demo/run", 1, tree)
    with pytest.raises(InvalidError, match="w is being traced"):
        jax.jit(lambda w: save_pytree(store, "demo/run", 1, {"w": w}))(jnp.ones(1))
    assert store.projects() == []


def test_in_the_background(store: gigastore.Store, mesh: Mesh) -> None:
    """The state may be donated to the next step as soon as the call returns."""
    step = jax.jit(lambda w: w + 1, donate_argnums=0)
    state, pending = put(jnp.zeros(1 << 18), mesh, "data"), []
    for number in range(3):
        found = save_pytree(store, "demo/run", number, {"w": state, "step": number}, asynchronous=True)
        assert isinstance(found, gigastore.PendingSave)
        pending.append(found)
        state = step(state)
    store.wait()
    assert pending[-1].wait().target == "demo/run@2"
    for number in range(3):
        restored = restore_pytree(store, f"demo/run@{number}", {"w": state, "step": 0})
        assert restored["step"] == number and (np.asarray(restored["w"]) == number).all()


def test_damage_is_never_data(tmp_path: Path, store: gigastore.Store, mesh: Mesh) -> None:
    save_pytree(store, "demo/run", 1, {"w": put(jnp.full(1 << 16, 7.0), mesh, "data")})
    (pack,) = (tmp_path / "store").rglob("packs/**/*.safetensors")
    with pack.open("r+b") as file:
        at = file.read().index(np.full(1 << 13, 7.0, np.float32).tobytes())
        file.seek(at + (3 << 15))
        file.write(b"\xff")
    with pytest.raises(IntegrityError, match="tensor w"):
        restore_pytree(store, "demo/run", like({"w": jnp.zeros(1 << 16)}, NamedSharding(mesh, P("model"))))


def test_checkpoints_that_jax_did_not_save(url: str, model: Path, mesh: Mesh) -> None:
    command("--store", url, "ckpt", "save", str(model), "--to", "demo/minilm@1", "--ranks", "4")
    name = "embeddings.word_embeddings.weight"
    checkpoint = gigastore.Store(url).checkpoint("demo/minilm")
    shape, sharding = checkpoint.tensors[name].shape, NamedSharding(mesh, P(None, "data"))
    wanted = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
    found = restore_pytree(url, "demo/minilm", {name: wanted})[name]
    np.testing.assert_array_equal(found, checkpoint.load([name])[name])
    with jax.enable_x64(True):
        assert set(restore_pytree(url, "demo/minilm")) == set(checkpoint.tensors)


def run_workers(count: int, *arguments: str) -> None:
    """Runs a job of several processes, each with its share of eight devices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(count), str(port), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    timer = threading.Timer(100, lambda: [process.kill() for process in processes])
    timer.start()
    try:
        outputs = [process.communicate()[0] for process in processes]
    finally:
        timer.cancel()
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output


def test_two_processes_and_one(url: str, mesh: Mesh) -> None:
    """Saved by two processes of four devices, restored by one of eight, and by two in another sharding; and back."""
    gigastore.Store(url)
    run_workers(2, url, "save", "demo/two")
    values = np.arange(16 * 8, dtype=np.float32).reshape(16, 8)
    checkpoint = gigastore.Store(url).checkpoint("demo/two@1")
    assert {name: len(checkpoint.slices(name)) for name in ("sharded", "replicated", "host")} == {
        "sharded": 8,
        "replicated": 1,
        "host": 1,
    }
    wanted = like({"sharded": values, "replicated": values}, NamedSharding(mesh, P("data")))
    found = restore_pytree(url, "demo/two", wanted)
    np.testing.assert_array_equal(found["sharded"], values)
    np.testing.assert_array_equal(found["replicated"], values)
    assert restore_pytree(url, "demo/two", {"step": 0, "rank": 0}) == {"step": 5, "rank": 0}
    tree = {"sharded": put(values, mesh, "model", "data"), "replicated": put(values, mesh), "host": values, "step": 5}
    save_pytree(url, "demo/one", 1, tree)
    for run in ("demo/two", "demo/one"):
        run_workers(2, url, "restore", run)


def test_processes_restore_the_same_step(url: str) -> None:
    for where in (url, f"{url}-later"):
        gigastore.Store(where).save("demo/run", 1, {"w": np.ones(4, np.float32)})
    gigastore.Store(f"{url}-later").save("demo/run", 2, {"w": np.full(4, 2, np.float32)}, tag="only-later")
    run_workers(2, url, "latest", "demo/run")
