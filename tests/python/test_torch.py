"""`gigastore.torch` in one process: what a state dict may hold, what is refused, what is read without a pickle."""

from __future__ import annotations

import io
import math
import pickle
import random
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys

import gigastore
from gigastore.torch import StorageReader, StorageWriter

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
warnings.filterwarnings("ignore", category=UserWarning)

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32,
    torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.float4_e2m1fn_x2,
]  # fmt: skip


def bits(tensor: torch.Tensor) -> bytes:
    """Returns the bytes of a tensor's elements."""
    flat = tensor.detach().contiguous().as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def noise(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Returns a tensor of any bits."""
    size = math.prod(shape) * dtype.itemsize
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (size,), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


def save(state: dict[str, Any], url: str, target: str = "demo/run@1", **options: Any) -> gigastore.CommitInfo:
    """Saves through DCP."""
    writer = StorageWriter(url, target, **options)
    dcp.save(state, storage_writer=writer)
    assert writer.committed is not None
    return writer.committed


def load(state: dict[str, Any], url: str, target: str = "demo/run@1", planner: Any = None, **options: Any) -> Any:
    """Loads through DCP, in place."""
    dcp.load(state, storage_reader=StorageReader(url, target, **options), planner=planner)
    return state


def fault(action: Callable[[], object]) -> BaseException:
    """Returns what the rank raised that DCP reports of."""
    with pytest.raises(CheckpointException) as caught:
        action()
    (error, _) = caught.value.failures[0]
    assert str(error) in str(caught.value), "what DCP reports names the fault"
    return error


def training() -> tuple[torch.nn.Module, torch.optim.Optimizer, Any]:
    """Returns a model that was trained for two steps."""
    model = torch.nn.Sequential(torch.nn.Embedding(50, 16), torch.nn.Linear(16, 4, dtype=torch.float32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for _ in range(2):
        model(torch.randint(0, 50, (8,))).square().sum().backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return model, optimizer, scheduler


def state_of(model: Any, optimizer: Any, scheduler: Any) -> dict[str, Any]:
    """Returns the state dict that a trainer saves."""
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "rng": {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()},
        "step": 2,
    }


def test_a_training_state_round_trips(url: str) -> None:
    model, optimizer, scheduler = training()
    saved = state_of(model, optimizer, scheduler)
    save(saved, url)
    drawn = (torch.rand(3), np.random.rand(3), random.random())
    fresh = training()
    found = load(state_of(*fresh), url)
    for part, state in zip(fresh, (found["model"], found["optimizer"], found["scheduler"]), strict=True):
        part.load_state_dict(state)
    for name, value in model.state_dict().items():
        assert torch.equal(fresh[0].state_dict()[name], value)
    for key, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            assert torch.equal(fresh[1].state_dict()["state"][key][name], value)
    assert fresh[1].state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert type(fresh[1].param_groups[0]["betas"]) is tuple
    assert fresh[2].state_dict() == scheduler.state_dict()
    torch.set_rng_state(found["rng"]["torch"])
    np.random.set_state(found["rng"]["numpy"])
    random.setstate(found["rng"]["python"])
    assert torch.equal(torch.rand(3), drawn[0])
    assert (np.random.rand(3) == drawn[1]).all() and random.random() == drawn[2]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_keeps_its_bits(url: str, store: gigastore.Store, dtype: torch.dtype) -> None:
    saved = {"whole": noise(dtype, 6, 10), "none": noise(dtype, 0, 4), "one": noise(dtype, 1)}
    if dtype != torch.float4_e2m1fn_x2:
        saved |= {"scalar": noise(dtype), "turned": noise(dtype, 4, 6).t(), "every_other": noise(dtype, 8, 6)[::2, 1:4]}
    save(saved, url)
    found = load({name: torch.empty_like(value) for name, value in saved.items()}, url)
    for name, value in saved.items():
        assert bits(found[name]) == bits(value), name
    # Into memory out of order, as a model on its way to channels_last may have.
    wide = {name: noise(dtype, *value.shape, 2)[..., 0] for name, value in saved.items()}
    load(wide, url)
    assert {name: bits(value) for name, value in wide.items()} == {name: bits(value) for name, value in saved.items()}
    assert store.verify("demo").ok


def test_values_come_back_as_they_were(url: str, store: gigastore.Store) -> None:
    values: dict[str, Any] = {
        "none": None, "yes": True, "int": -(1 << 80), "float": 0.1, "negative": -0.0, "inf": -math.inf,
        "text": "ü\n\ud800", "bytes": b"\0\xff", "list": [1, 1.0, [True, "a"]], "tuple": (1, (2.0, [3])),
        "complex": complex(1, -0.0),
        "set": {3, 1, 2}, "frozen": frozenset("ab"), "size": torch.Size([1, 2]), "dtype": torch.bfloat16,
        "device": torch.device("cuda:1"), "array": np.arange(6, dtype=np.uint16).reshape(2, 3),
        "scalar": np.float32(0.5), "keys": ({1: "a", (2, 3): "b"},),
        "dollar": ({"$tuple": [1]},), "ordered": (OrderedDict(b=1, a=2),), "name/with\\odd%2F\x07.chars": 5,
    }  # fmt: skip
    save({**values, "w": torch.ones(1)}, url)
    files = store.checkpoint("demo/run@1").files
    assert not [path for path in files if path.endswith(".pt")]
    assert store.checkpoint("demo/run@1").read_file("objects/list.json") == b'[1,1.0,[true,"a"]]'
    found = load({**dict.fromkeys(values), "w": torch.zeros(1)}, url)
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            assert (found[name] == value).all() and found[name].dtype == value.dtype and found[name].flags.writeable
            continue
        assert found[name] == value and type(found[name]) is type(value), name
        assert repr(found[name]) == repr(value) or isinstance(value, (set, frozenset)), name


def test_loading_needs_no_pickle(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer, scheduler = training()
    saved = state_of(model, optimizer, scheduler)
    save(saved, url)
    fresh = state_of(*training())

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was read")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    found = load(fresh, url)
    assert found["optimizer"]["param_groups"] == saved["optimizer"]["param_groups"]
    assert torch.equal(found["model"]["0.weight"], model.state_dict()["0.weight"])
    assert found["rng"]["python"] == saved["rng"]["python"]


class Custom:
    """A value that only pickle knows."""

    ran = False

    def __init__(self) -> None:
        self.x = 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        Custom.ran = True
        vars(self).update(state)


def test_pickles_run_only_where_they_are_trusted(url: str, store: gigastore.Store) -> None:
    nested = ([torch.arange(3)],)
    save({"w": torch.ones(1), "custom": Custom(), "nested": nested}, url)
    assert {"objects/custom.pt", "objects/nested.pt"} < set(store.checkpoint("demo/run@1").files)
    Custom.ran = False
    error = fault(lambda: load({"w": torch.zeros(1), "custom": None}, url))
    assert isinstance(error, gigastore.InvalidError) and "custom" in str(error) and "trust_pickle" in str(error)
    assert not Custom.ran
    found = load({"w": torch.zeros(1), "nested": None}, url)
    assert torch.equal(found["nested"][0][0], torch.arange(3)), "torch reads tensors within values by weights_only"
    assert load({"custom": None}, url, trust_pickle=True)["custom"].x == 1


def test_a_planner_of_ones_own_gets_bytes(url: str) -> None:
    class Planner(DefaultLoadPlanner):
        taken: dict[str, Any] = {}

        def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
            self.taken[read_item.dest_index.fqn] = torch.load(value, weights_only=True)

    save({"w": torch.ones(2), "step": 5, "betas": (0.9, 0.99)}, url)
    load({"w": torch.zeros(2), "step": 0, "betas": 0}, url, planner=Planner())
    assert Planner.taken == {"step": 5, "betas": (0.9, 0.99)}


def test_structure_is_rebuilt_without_a_template(url: str) -> None:
    saved = {"model": {"a.b": torch.arange(4.0), "list": [torch.ones(1), {"lr": 0.1}]}, "step": 3}
    save(saved, url)
    reader = StorageReader(url, "demo/run@1")
    found = _load_state_dict_from_keys(storage_reader=reader)
    assert found["step"] == 3 and found["model"]["list"][1] == {"lr": 0.1}
    assert torch.equal(found["model"]["a.b"], torch.arange(4.0))
    part = _load_state_dict_from_keys({"model.list"}, storage_reader=StorageReader(url, "demo/run@1"))
    assert list(part) == ["model"] and list(part["model"]) == ["list"]


def test_a_checkpoint_that_dcp_did_not_save_is_loaded_by_name(url: str, store: gigastore.Store) -> None:
    store.save("demo/model", 1, {"layer.weight": torch.arange(6.0).reshape(2, 3)}, files={"config.json": b"{}"})
    found = load({"layer.weight": torch.zeros(2, 3)}, url, "demo/model")
    assert torch.equal(found["layer.weight"], torch.arange(6.0).reshape(2, 3))
    assert list(_load_state_dict_from_keys(storage_reader=StorageReader(url, "demo/model"))) == ["layer.weight"]


def test_another_type_is_converted_as_dcp_does(url: str) -> None:
    save({"w": torch.tensor([1.0, 2.5])}, url)
    assert torch.equal(load({"w": torch.zeros(2, dtype=torch.bfloat16)}, url)["w"], torch.tensor([1, 2.5]).bfloat16())


def test_large_boxes_pass_through_the_host_in_pieces(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gigastore.torch.reader._STAGED_BYTES", 1000)
    saved = {"tall": torch.randn(100, 7), "wide": torch.randn(2, 600), "flat": torch.randn(999)}
    saved["plain"] = torch.randn(9)
    save(saved, url)
    into = {name: torch.zeros(*value.shape, dtype=torch.float64) for name, value in saved.items()}
    into["plain"] = torch.zeros(9)
    found = load(into, url)
    assert all(torch.equal(found[name], value.to(found[name].dtype)) for name, value in saved.items())


def test_a_model_on_the_meta_device_is_loaded_into_new_memory(url: str) -> None:
    save({"w": torch.arange(4.0)}, url)
    model = torch.nn.Linear(4, 1, bias=False, device="meta")
    model.to_empty(device="cpu")
    load({"w": model.weight.data.view(4)}, url)
    assert torch.equal(model.weight.data, torch.arange(4.0).reshape(1, 4))


def test_one_tensor_may_hold_several_boxes_of_another(url: str, store: gigastore.Store) -> None:
    def boxes(tensor: torch.Tensor) -> torch.Tensor:
        """Describes rows 0 to 2 and 4 to 6 of four columns, with a row of padding between them, to DCP."""
        vars(tensor).update(
            global_shape=(4, 4),
            global_offsets=((0, 0), (2, 0)),
            local_offsets=((0, 0), (3, 0)),
            local_sizes=((2, 4), (2, 4)),
        )
        return tensor

    held = torch.arange(20.0).reshape(5, 4)
    writer = StorageWriter(url)
    future: Any = dcp.async_save({"w": boxes(held.clone())}, storage_writer=writer, checkpoint_id="demo/run@1")
    future.result()
    assert store.checkpoint("demo/run@1").tensors["w"].slices == 2
    found = load({"w": boxes(torch.full((5, 4), -1.0))}, url)["w"]
    assert torch.equal(found[[0, 1, 3, 4]], held[[0, 1, 3, 4]]) and found[2].eq(-1).all()


def test_ranks_read_the_checkpoint_that_the_coordinator_found(url: str) -> None:
    save({"w": torch.ones(2)}, url, "demo/run@1")
    state, reader, planner = {"w": torch.zeros(2)}, StorageReader(url, "demo/run"), DefaultLoadPlanner()
    planner.set_up_planner(state, reader.read_metadata(), False)
    plan = reader.prepare_local_plan(planner.create_local_plan())
    assert plan.storage_data == "demo/run@1"
    save({"w": torch.full((2,), 5.0)}, url, "demo/run@2")
    coordinator = StorageReader(url, "demo/run")
    coordinator.read_metadata()
    (plan,) = coordinator.prepare_global_plan([plan])
    reader.read_data(plan, planner).wait()
    assert torch.equal(state["w"], torch.full((2,), 5.0))


# What is refused.


def unsaved(state: dict[str, Any], url: str) -> BaseException:
    """Saves what can't be; returns the fault, having seen that nothing is visible."""
    error = fault(lambda: save(state, url))
    with pytest.raises(gigastore.NotFoundError):
        gigastore.Store(url).checkpoint("demo/run@1")
    return error


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.empty(3, device="meta"), "meta"),
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.zeros(3, dtype=torch.complex128), "complex128"),
        (torch.zeros(3, dtype=torch.complex32), "complex32"),
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "qint8"),
        (lambda: 1, "lambda"),
        ((i for i in range(3)), "generator"),
    ],
    ids=["meta", "sparse", "complex128", "complex32", "quantized", "lambda", "generator"],
)
def test_what_can_not_be_stored_is_named(url: str, value: Any, says: str) -> None:
    error = unsaved({"good": torch.ones(2), "bad": {"value": value}}, url)
    assert isinstance(error, gigastore.InvalidError), error
    assert "bad.value" in str(error) and says in str(error)


def test_cycles_are_refused(url: str) -> None:
    knot: list[Any] = []
    knot.append((knot,))
    error = unsaved({"w": torch.ones(1), "knot": (knot,)}, url)
    assert isinstance(error, gigastore.InvalidError) and "knot holds itself" in str(error)
    looped: dict[str, Any] = {"w": torch.ones(1)}
    looped["self"] = looped
    assert isinstance(unsaved(looped, url), RecursionError)


@pytest.mark.parametrize("target", ["demo/run", "demo/run@best", "run@1", "demo/run@1/x", "/tmp/folder", "", None])
def test_a_target_to_save_to_names_a_step(url: str, target: str | None) -> None:
    with pytest.raises((gigastore.InvalidError, CheckpointException)) as caught:
        save({"w": torch.ones(1)}, url, target)  # type: ignore[arg-type]
    assert "project/run@step" in str(caught.value)
    assert not StorageWriter.validate_checkpoint_id(target or "")


def test_files_of_the_caller_lie_beside_the_state(url: str, store: gigastore.Store) -> None:
    save({"w": torch.ones(1)}, url, files={"config.json": b"{}"}, metadata={"host": "a"}, tag="best")
    checkpoint = store.checkpoint("demo/run@best")
    assert checkpoint.read_file("config.json") == b"{}" and checkpoint.metadata == {"host": "a"}
    with pytest.raises(gigastore.InvalidError, match="objects/"):
        StorageWriter(url, files={"objects/step.json": b"1"})


def test_another_state_at_the_same_step_is_a_conflict(url: str, store: gigastore.Store) -> None:
    first = save({"w": torch.ones(4)}, url)
    again = save({"w": torch.ones(4)}, url)
    assert again.existed and again.content == first.content
    for other in ({"w": torch.zeros(4)}, {"w": torch.ones(5)}, {"v": torch.ones(4)}):
        assert isinstance(fault(lambda state=other: save(state, url)), gigastore.ConflictError)  # type: ignore[misc]
    assert store.resolve("demo/run").content == first.content


def test_missing_keys_and_other_shapes_are_named(url: str) -> None:
    save({"w": torch.ones(2, 3), "step": 1}, url)
    assert "Missing key" in str(fault(lambda: load({"w": torch.zeros(2, 3), "v": torch.zeros(1)}, url)))
    partly = DefaultLoadPlanner(allow_partial_load=True)
    found = load({"w": torch.zeros(2, 3), "v": torch.zeros(1)}, url, planner=partly)
    assert torch.equal(found["w"], torch.ones(2, 3)) and torch.equal(found["v"], torch.zeros(1))
    for shape in ((3, 2), (6,), (2, 3, 1), (2, 4)):
        error = fault(lambda shape=shape: load({"w": torch.zeros(shape)}, url))  # type: ignore[misc]
        assert "Size mismatch" in str(error) and "w" in str(error)


def test_what_is_not_there_is_not_found(url: str, tmp_path: Path) -> None:
    save({"w": torch.ones(1)}, url)
    for target in ("demo/run@2", "demo/other", "none/run"):
        error = fault(lambda target=target: load({}, url, target))  # type: ignore[misc]
        assert isinstance(error, gigastore.NotFoundError)
    assert isinstance(fault(lambda: load({}, url, None)), gigastore.InvalidError)  # type: ignore[arg-type]
    with pytest.raises(gigastore.GigastoreError):
        StorageReader(f"file://{tmp_path / 'nowhere'}")
    assert not (tmp_path / "nowhere").exists(), "who reads makes no store"


@pytest.mark.parametrize("in_place", [True, False])
def test_a_flipped_byte_never_reaches_a_tensor(url: str, tmp_path: Path, in_place: bool) -> None:
    save({"w": torch.full((1 << 20,), 0.5), "v": torch.full((1 << 20,), 0.25)}, url)
    (pack,) = (tmp_path / "store" / "projects" / "demo" / "packs").rglob("*.safetensors")
    data = bytearray(pack.read_bytes())
    at = len(data) - (3 << 20)
    data[at] ^= 1
    pack.write_bytes(data)
    dtype = torch.float32 if in_place else torch.float64
    into = {name: torch.full((1 << 20,), -7.0, dtype=dtype) for name in "wv"}
    error = fault(lambda: load(into, url))
    assert isinstance(error, gigastore.IntegrityError)
    for name, value in (("w", 0.5), ("v", 0.25)):
        found = set(into[name].unique().tolist())
        assert found <= {value, -7.0, 0.0}, "what was there, what is verified, or cleared memory"
    assert in_place or set(into["w"].unique().tolist()) == {-7.0}


def test_writers_and_readers_travel(url: str) -> None:
    writer = pickle.loads(pickle.dumps(StorageWriter(url, "demo/run@1", tag="best")))
    dcp.save({"w": torch.ones(1)}, storage_writer=writer)
    reader = pickle.loads(pickle.dumps(StorageReader(url, "demo/run@best")))
    state = {"w": torch.zeros(1)}
    dcp.load(state, storage_reader=reader)
    assert state["w"].item() == 1
