"""Folders of DCP's own: imported bit for bit, exported so that DCP loads them, and never trusted."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch_jobs as jobs
from torch_ranks import Ranks, ranks

import gigastore
from gigastore.torch import StorageReader, export_dcp, import_dcp, main

__all__ = ["ranks"]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

STATE: dict[str, Any] = {
    "model": {
        "embed.weight": torch.arange(24.0).reshape(6, 4),
        "half": torch.linspace(-1, 1, 9).bfloat16(),
        "fp4": torch.arange(6, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        "turned": torch.arange(12.0).reshape(3, 4).t(),
        "none": torch.empty(0, 3),
        "scalar": torch.tensor(7),
    },
    "optimizer": {"param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0, 1]}], "moment": [torch.ones(2)]},
    "step": 5,
    "odd": (torch.ones(2), "inside a tuple"),
}


def blank(state: Any) -> Any:
    """Returns a state of the same structure, without its values."""
    if isinstance(state, torch.Tensor):
        return torch.empty_like(state)
    if isinstance(state, dict):
        return {key: blank(value) for key, value in state.items()}
    return [blank(value) for value in state] if isinstance(state, list) else None


def check(found: dict[str, Any]) -> None:
    """Compares a loaded state with the one that was saved."""
    for name, tensor in STATE["model"].items():
        loaded = found["model"][name]
        assert loaded.dtype == tensor.dtype and loaded.shape == tensor.shape, name
        flat = [one.contiguous().reshape(-1).view(torch.uint8).tolist() for one in (loaded, tensor)]
        assert flat[0] == flat[1], name
    assert found["optimizer"]["param_groups"] == STATE["optimizer"]["param_groups"]
    assert torch.equal(found["optimizer"]["moment"][0], torch.ones(2))
    assert found["step"] == 5 and found["odd"][1] == "inside a tuple" and torch.equal(found["odd"][0], torch.ones(2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that DCP saved the state into."""
    path = tmp_path / "dcp"
    dcp.save(STATE, checkpoint_id=str(path))
    return path


def test_a_folder_goes_in_and_out_bit_for_bit(folder: Path, url: str, store: gigastore.Store, tmp_path: Path) -> None:
    info = import_dcp(folder, url, "demo/run@5", tag="best", metadata={"from": "dcp"})
    assert info.target == "demo/run@5" and store.checkpoint("demo/run@best").metadata == {"from": "dcp"}
    found = blank(STATE)
    dcp.load(found, storage_reader=StorageReader(url, "demo/run@5"))
    check(found)
    files = export_dcp(url, "demo/run@best", tmp_path / "out")
    assert str(tmp_path / "out" / ".metadata") in files
    found = blank(STATE)
    dcp.load(found, checkpoint_id=str(tmp_path / "out"))
    check(found)
    again = import_dcp(tmp_path / "out", url, "demo/run@5")
    assert again.existed and again.content == info.content


def test_shares_bound_memory_and_change_nothing(
    folder: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = import_dcp(folder, url, "demo/whole@1")
    monkeypatch.setattr("gigastore.torch.convert._SHARE_BYTES", 40)
    parts = import_dcp(folder, url, "demo/parts@1")
    assert parts.content == whole.content
    export_dcp(url, "demo/parts@1", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.distcp"))) > 3
    found = blank(STATE)
    dcp.load(found, checkpoint_id=str(tmp_path / "out"))
    check(found)


@pytest.mark.parametrize("collectives", [True, False])
def test_shards_stay_shards(ranks: Ranks, url: str, store: gigastore.Store, tmp_path: Path, collectives: bool) -> None:
    ranks(4, jobs.save_folder, str(tmp_path / "dcp"), collectives)
    import_dcp(tmp_path / "dcp", url, "demo/run@1")
    checkpoint = store.checkpoint("demo/run@1")
    assert checkpoint.tensors["rows"].slices == 4 and checkpoint.tensors["grid"].slices == 4
    assert checkpoint.tensors["both"].slices == 1
    names = ["rows", "columns", "both", "few", "plain", "step"]
    ranks(3, jobs.load, url, "demo/run@1", names)
    export_dcp(url, "demo/run@1", tmp_path / "out")
    ranks(2, jobs.load_folder, str(tmp_path / "out"), names)


def test_descriptions_of_older_versions_are_read(folder: Path, url: str) -> None:
    from torch.distributed._shard.sharded_tensor.metadata import TensorProperties

    metadata = pickle.loads((folder / ".metadata").read_bytes())
    for entry in metadata.state_dict_metadata.values():
        if hasattr(entry, "properties"):
            entry.properties = TensorProperties(dtype=entry.properties.dtype)
    del metadata.storage_meta, metadata.version
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    import_dcp(folder, url, "demo/run@1")
    found = blank(STATE)
    dcp.load(found, storage_reader=StorageReader(url, "demo/run@1"))
    check(found)


class Attack:
    """What runs when it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.mark,))


def test_a_hostile_description_runs_nothing(folder: Path, url: str, tmp_path: Path) -> None:
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.planner_data = Attack(str(tmp_path / "ran"))
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(gigastore.InvalidError, match="mkdir") as caught:
        import_dcp(folder, url, "demo/run@1")
    assert "nothing was run" in str(caught.value)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(gigastore.NotFoundError):
        gigastore.Store(url).checkpoint("demo/run@1")


@pytest.mark.parametrize(
    "payload",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n.",
        b"ctorch\nload\n.",
        b"ctorch._utils\n_rebuild_tensor_v2\n.",
        b"ctorch.distributed.checkpoint.metadata\nos.system\n.",
        b"ctorch.distributed.checkpoint.metadata\nMetadata.__init__.__globals__\n.",
        b"\x80\x04N.",
        b"no pickle",
        b"",
    ],
)
def test_other_pickles_are_no_descriptions(folder: Path, url: str, payload: bytes) -> None:
    (folder / ".metadata").write_bytes(payload)
    with pytest.raises(gigastore.InvalidError):
        import_dcp(folder, url, "demo/run@1")


def test_a_description_can_not_point_outside(folder: Path, url: str, tmp_path: Path) -> None:
    for place in ("../secret", "/etc/passwd"):
        metadata = pickle.loads((folder / ".metadata").read_bytes())
        next(iter(metadata.storage_data.values())).relative_path = place
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / ".metadata").write_bytes(pickle.dumps(metadata))
        with pytest.raises(gigastore.InvalidError, match="outside"):
            import_dcp(tmp_path / "bad", url, "demo/run@1")


def test_what_is_no_checkpoint_is_not_found(tmp_path: Path, folder: Path, url: str) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(gigastore.NotFoundError, match="no .metadata"):
        import_dcp(tmp_path / "none", url, "demo/run@1")
    with pytest.raises(gigastore.InvalidError, match="project/run@step"):
        import_dcp(folder, url, "demo/run")
    import_dcp(folder, url, "demo/run@1")
    with pytest.raises(gigastore.ConflictError, match="not empty"):
        export_dcp(url, "demo/run@1", folder)
    with pytest.raises(gigastore.NotFoundError):
        export_dcp(url, "demo/run@2", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_pack_is_not_exported(folder: Path, url: str, tmp_path: Path) -> None:
    import_dcp(folder, url, "demo/run@1")
    for pack in (tmp_path / "store").rglob("*.safetensors"):
        data = bytearray(pack.read_bytes())
        data[-1] ^= 1
        pack.write_bytes(data)
    with pytest.raises(gigastore.IntegrityError):
        export_dcp(url, "demo/run@1", tmp_path / "out")
    assert not (tmp_path / "out" / ".metadata").exists()


def test_the_command_line(folder: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(folder), "--store", url, "--to", "demo/run@5", "--tag", "best"]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == "demo/run@5"
    assert main(["export", "demo/none", "--store", url, "--out", str(tmp_path / "out")]) == 4
    assert "none" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["import", str(folder)])
    assert caught.value.code == 2
    arguments = [sys.executable, "-m", "gigastore.torch", "export", "demo/run@best", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "GIGASTORE_STORE": url}
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    found = blank(STATE)
    dcp.load(found, checkpoint_id=str(tmp_path / "out"))
    check(found)
