"""`gigastore.torch` and what somebody else wrote: no code of theirs runs, no file of ours is read, faults are named."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys

import gigastore
from gigastore.torch import SavePlanner, StorageReader, StorageWriter, export_dcp, import_dcp, main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class Attack:
    """What runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.mark,))


class Own(DefaultLoadPlanner):
    """A planner that does with bytes what DCP's does, by itself."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        super().load_bytes(read_item, value)


def saved(value: Any) -> bytes:
    """Returns what torch.save makes of a value."""
    data = io.BytesIO()
    torch.save(value, data)
    return data.getvalue()


@pytest.mark.parametrize("planner", [DefaultLoadPlanner, Own])
def test_no_planner_is_given_a_pickle_that_is_not_trusted(
    url: str, store: gigastore.Store, tmp_path: Path, planner: type[DefaultLoadPlanner]
) -> None:
    files = {"objects/x.pt": saved(Attack(tmp_path / "ran")), "objects/y.pt": saved([torch.arange(3)])}
    store.save("demo/run", 1, {"w": torch.ones(1)}, files=files)
    with pytest.raises(CheckpointException, match="trust_pickle"):
        dcp.load({"x": None}, storage_reader=StorageReader(url, "demo/run@1"), planner=planner())
    assert not (tmp_path / "ran").exists()
    state: dict[str, Any] = {"y": None}
    dcp.load(state, storage_reader=StorageReader(url, "demo/run@1"), planner=planner())
    assert torch.equal(state["y"][0], torch.arange(3))
    dcp.load({"x": None}, storage_reader=StorageReader(url, "demo/run@1", trust_pickle=True), planner=planner())
    assert (tmp_path / "ran").exists()


class Config:
    """A type that torch does not know."""


def test_a_type_that_torch_does_not_trust_is_named(url: str, store: gigastore.Store) -> None:
    store.save("demo/run", 1, {"w": torch.ones(1)}, files={"objects/x.pt": saved({"config": Config()})})
    with pytest.raises(CheckpointException) as caught:
        dcp.load({"x": None}, storage_reader=StorageReader(url, "demo/run@1"))
    (error, _) = caught.value.failures[0]
    assert isinstance(error, gigastore.InvalidError) and error.object == "objects/x.pt"
    assert error.message.endswith(f"torch does not trust {Config.__module__}.Config")
    assert error.hint == "trust_pickle=True where you trust who saved it, or torch.serialization.add_safe_globals"
    assert "weights_only" not in str(error) and str(error).isprintable()


@pytest.mark.parametrize("name", ["os\nsystem", "a\x1b[1m\nb", "torch.distributed.nothing\nx"], ids=range(3))
def test_names_in_a_pickle_do_not_control_the_terminal(url: str, store: gigastore.Store, name: str) -> None:
    pickled = b"\x80\x02c" + name.encode() + b"\n."
    store.save("demo/run", 1, {"w": torch.ones(1)}, files={"objects/x.pt": pickled})
    with pytest.raises(CheckpointException) as caught:
        dcp.load({"x": None}, storage_reader=StorageReader(url, "demo/run@1"))
    (error, _) = caught.value.failures[0]
    assert isinstance(error, gigastore.InvalidError) and str(error).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "", "nothing", '{"$new":1}', '{"$device":"bogus"}', '{"$device":[]}', '{"$complex":[]}', '{"$dtype":"save"}',
        '{"$scalar":["<f4",""]}', '{"$scalar":["O","AA=="]}', '{"$array":["<f4",[2],"AAAA"]}', '{"$bytes":5}',
        '{"$dict":5}', '{"$dict":[[[],1]]}', '{"$size":["a"]}', '{"$tuple":null}', "[" * 100_000,
    ],
    ids=range(16),
)  # fmt: skip
def test_values_that_make_no_sense_are_named(url: str, store: gigastore.Store, text: str) -> None:
    store.save("demo/run", 1, {"w": torch.ones(1)}, files={"objects/x.json": text.encode()})
    with pytest.raises(CheckpointException) as caught:
        dcp.load({"x": None}, storage_reader=StorageReader(url, "demo/run@1"))
    (error, _) = caught.value.failures[0]
    assert isinstance(error, gigastore.IntegrityError) and error.object == "x"


@pytest.mark.parametrize("text", [b"", b"PK\x03\x04", b"\x80\x02.", b"\x80\x04N", bytes(100)], ids=range(5))
def test_values_that_torch_can_not_read_are_named(url: str, store: gigastore.Store, text: bytes) -> None:
    store.save("demo/run", 1, {"w": torch.ones(1)}, files={"objects/x.pt": text})
    with pytest.raises(CheckpointException) as caught:
        dcp.load({"x": None}, storage_reader=StorageReader(url, "demo/run@1"))
    (error, _) = caught.value.failures[0]
    assert isinstance(error, gigastore.InvalidError) and "x" in str(error)


@pytest.mark.parametrize(
    "structure",
    [
        [], {}, 5, {"version": 1}, {"version": 1, "paths": []}, {"version": 1, "paths": {"w": 5}},
        {"version": 1, "paths": {"w": []}}, {"version": 1, "paths": {"w": [{}]}}, {"version": 1, "paths": {"w": "ab"}},
    ],
    ids=range(9),
)  # fmt: skip
def test_structures_that_make_no_sense_are_named(url: str, store: gigastore.Store, structure: Any) -> None:
    path = "dcp/structure-0123456789abcdef.json"
    store.save("demo/run", 1, {"w": torch.ones(1)}, files={path: json.dumps(structure).encode()})
    with pytest.raises(CheckpointException) as caught:
        dcp.load({"w": torch.zeros(1)}, storage_reader=StorageReader(url, "demo/run@1"))
    (error, _) = caught.value.failures[0]
    assert isinstance(error, gigastore.IntegrityError) and error.object == path


def looped() -> dict[str, Any]:
    """Returns a state dict that holds itself."""
    inner: dict[str, Any] = {"w": torch.ones(1), "list": [1, {}]}
    inner["list"][1]["again"] = inner["list"]
    return {"step": 1, "model": inner}


def deep() -> dict[str, Any]:
    """Returns a state dict that is nested past what Python follows."""
    state: dict[str, Any] = {"w": torch.ones(1)}
    for _ in range(2000):
        state = {"in": state}
    return state


@pytest.mark.parametrize(
    ("state", "says"), [(looped(), r"model\.list\.1\.again holds itself"), (deep(), "nested too deeply")], ids=range(2)
)
@pytest.mark.parametrize("saving", ["save", "async_save"])
def test_state_dicts_that_never_end_are_named(url: str, state: dict[str, Any], says: str, saving: str) -> None:
    writer = StorageWriter(url, "demo/run@1")
    with pytest.raises((CheckpointException, gigastore.InvalidError), match=says) as caught:
        if saving == "save":
            dcp.save(state, storage_writer=writer, planner=SavePlanner())
        else:
            dcp.async_save(state, storage_writer=writer)
    error = caught.value if saving == "async_save" else caught.value.failures[0][0]  # type: ignore[union-attr]
    assert isinstance(error, gigastore.InvalidError)
    fine = {"a": {"b": [torch.ones(1), 5]}}
    dcp.save(fine, storage_writer=writer, planner=SavePlanner(enable_plan_caching=False))
    assert writer.committed is not None


# Folders of DCP's own.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that DCP saved."""
    path = tmp_path / "dcp"
    dcp.save({"w": torch.arange(1000.0), "step": 5}, checkpoint_id=str(path))
    return path


def described(description: Any, on: type, attributes: dict[str, Any]) -> bytes:
    """Returns the pickle of a description which sets attributes on a class first."""
    setting = pickle.dumps(on, 2)[2:-1] + pickle.dumps((None, attributes), 2)[2:-1] + pickle.BUILD
    return b"\x80\x02" + setting + pickle.POP + pickle.dumps(description, 2)[2:]


@pytest.mark.parametrize("attributes", [{"is_absolute": OrderedDict, "parts": ()}, {"__str__": OrderedDict}])
def test_a_description_changes_no_class(folder: Path, url: str, tmp_path: Path, attributes: dict[str, Any]) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret of this machine")
    description = pickle.loads((folder / ".metadata").read_bytes())
    for index, place in description.storage_data.items():
        if index.fqn == "step":
            place.relative_path, place.offset, place.length = str(secret), 0, len(secret.read_text())
    (folder / ".metadata").write_bytes(described(description, PurePosixPath, attributes))
    before = dict(vars(PurePosixPath))
    with pytest.raises(gigastore.InvalidError, match="sets attributes"):
        import_dcp(folder, url, "demo/run@1")
    assert dict(vars(PurePosixPath)) == before
    with pytest.raises(gigastore.NotFoundError):
        gigastore.Store(url).checkpoint("demo/run@1")


def test_a_link_in_a_folder_leads_nowhere_else(folder: Path, url: str, tmp_path: Path) -> None:
    (data,) = folder.glob("*.distcp")
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(gigastore.InvalidError, match="outside"):
        import_dcp(folder, url, "demo/run@1")
    linked = tmp_path / "linked"
    data.unlink()
    (tmp_path / "elsewhere").rename(data)
    linked.symlink_to(folder)
    assert import_dcp(linked, url, "demo/run@1").target == "demo/run@1", "the folder itself may be a link"


def test_damaged_folders_are_named(folder: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (data,) = folder.glob("*.distcp")
    whole, arguments = data.read_bytes(), ["import", str(folder), "--store", url, "--to", "demo/run@1"]
    for damaged, code in ((whole[:-1], 7), (b"", 7), (bytes(len(whole)), 7), (None, 4)):
        data.unlink()
        if damaged is not None:
            data.write_bytes(damaged)
        with pytest.raises((gigastore.IntegrityError, gigastore.NotFoundError), match=data.name):
            import_dcp(folder, url, "demo/run@1")
        assert main(arguments) == code
        said = capsys.readouterr().err
        assert said.startswith("error: ") and data.name in said and "Traceback" not in said
        data.touch()
    data.write_bytes(whole)
    assert main(arguments) == 0


@pytest.mark.parametrize("field", ["offset", "length"])
@pytest.mark.parametrize("number", [-1, 1 << 70, 1.5, "5"])
def test_places_that_make_no_sense_are_named(folder: Path, url: str, field: str, number: Any) -> None:
    description = pickle.loads((folder / ".metadata").read_bytes())
    setattr(next(iter(description.storage_data.values())), field, number)
    (folder / ".metadata").write_bytes(pickle.dumps(description))
    with pytest.raises(gigastore.IntegrityError, match="distcp is not whole"):
        import_dcp(folder, url, "demo/run@1")


@pytest.mark.parametrize("field", ["size", "chunks", "properties"])
@pytest.mark.parametrize("value", [None, 5, [5], torch.Size([1 << 50])])
def test_descriptions_that_make_no_sense_are_named(folder: Path, url: str, field: str, value: Any) -> None:
    description = pickle.loads((folder / ".metadata").read_bytes())
    setattr(description.state_dict_metadata["w"], field, value)
    (folder / ".metadata").write_bytes(pickle.dumps(description))
    with pytest.raises(gigastore.GigastoreError) as caught:
        import_dcp(folder, url, "demo/run@1")
    assert caught.value.code in ("invalid", "integrity", "conflict"), caught.value
    with pytest.raises(gigastore.NotFoundError):
        gigastore.Store(url).checkpoint("demo/run@1")


def test_an_export_needs_a_folder(folder: Path, url: str, tmp_path: Path) -> None:
    import_dcp(folder, url, "demo/run@1")
    (tmp_path / "file").write_text("")
    with pytest.raises(gigastore.ConflictError, match="no folder"):
        export_dcp(url, "demo/run@1", tmp_path / "file")
    with pytest.raises(gigastore.StoreWriteError, match="file"):
        export_dcp(url, "demo/run@1", tmp_path / "file" / "below")


def test_tensors_that_torch_has_no_type_for_are_not_lost_unsaid(
    url: str, store: gigastore.Store, tmp_path: Path
) -> None:
    odd = gigastore.Slice(bytes(3), dtype="F6_E2M3", sizes=(4,))
    store.save("demo/run", 1, {"odd": odd, "w": torch.ones(2)})
    with pytest.raises(gigastore.InvalidError, match=r"odd \(F6_E2M3\)"):
        export_dcp(url, "demo/run@1", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.warns(UserWarning, match=r"odd \(F6_E2M3\)"):
        found = _load_state_dict_from_keys(storage_reader=StorageReader(url, "demo/run@1"))
    assert list(found) == ["w"]
