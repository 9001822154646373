"""A service as a model hub: real weights that four ranks saved, opened by tools that have never heard of Gigastore."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors
import safetensors.torch
import torch
from conftest import command, running

CHECKPOINT = "v1/projects/demo/checkpoints/minilm"


@dataclass(frozen=True)
class Hub:
    """A service with a model, what the command line restores of it, and what it was saved from."""

    url: str
    model: Path
    restored: Path
    corpus: Path

    def get(self, path: str, span: str | None = None) -> tuple[int, bytes, dict[str, str]]:
        """Sends a plain request."""
        request = urllib.request.Request(f"{self.url}/{path}")
        if span is not None:
            request.add_header("Range", span)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), {key.lower(): value for key, value in answer.headers.items()}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Hub]:
    """MiniLM saved from four ranks, and a dataset of two files."""
    folder = tmp_path_factory.mktemp("hub")
    store, restored, corpus = f"file://{folder / 'store'}", folder / "restored", folder / "corpus"
    command("--store", store, "ckpt", "save", str(model), "--to", "demo/minilm@100", "--ranks", "4", "--tag", "best")
    command("--store", store, "ckpt", "restore", "demo/minilm@100", "--out", str(restored))
    (corpus / "en").mkdir(parents=True)
    for number, path in enumerate(("part-0.parquet", "en/part-1.parquet")):
        rows = pyarrow.table({"id": np.arange(number * 5000, (number + 1) * 5000)})
        pyarrow.parquet.write_table(rows, corpus / path)
    command("--store", store, "data", "push", str(corpus), "--to", "demo/corpus")
    with running(store, folder / "service.log") as service:
        yield Hub(service.url, model, restored, corpus)


def same_model(path: Path, model: Path) -> None:
    """Checks every tensor of a file against the model that was saved."""
    with safetensors.safe_open(path, "pt") as found, safetensors.safe_open(model / "model.safetensors", "pt") as wanted:
        assert found.keys() == wanted.keys()
        assert found.metadata() == wanted.metadata()
        for name in wanted.keys():
            assert torch.equal(found.get_tensor(name), wanted.get_tensor(name)), name


def test_a_download_opens_as_safetensors(hub: Hub, tmp_path: Path) -> None:
    status, content, headers = hub.get(f"{CHECKPOINT}/100/files/model.safetensors")
    assert status == 200
    assert int(headers["content-length"]) == len(content)
    assert headers["accept-ranges"] == "bytes"
    assert content == (hub.restored / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content)
    same_model(tmp_path / "model.safetensors", hub.model)
    assert hub.get(f"{CHECKPOINT}/latest/files/model.safetensors")[1] == content
    assert hub.get(f"{CHECKPOINT}/best/files/config.json")[1] == (hub.model / "config.json").read_bytes()


def test_ranges_are_the_bytes_of_the_whole(hub: Hub) -> None:
    whole = (hub.restored / "model.safetensors").read_bytes()
    path, length = f"{CHECKPOINT}/100/files/model.safetensors", len(whole)
    spans = [(0, 8), (5, 6), (4000, 5000), (length // 2 - 3, length // 2 + (3 << 20)), (length - 100, length)]
    # Both ends of the header, and of some tensors, in either direction.
    header = 8 + int.from_bytes(whole[:8], "little")
    offsets = [one["data_offsets"] for name, one in json.loads(whole[8:header]).items() if name != "__metadata__"]
    for begin, end in sorted(offsets)[::25]:
        spans += [(header + begin - 5, header + begin + 5), (header + end - 1, min(header + end + 1, length))]
    for start, stop in spans:
        status, content, headers = hub.get(path, f"bytes={start}-{stop - 1}")
        assert (status, headers["content-range"]) == (206, f"bytes {start}-{stop - 1}/{length}")
        assert content == whole[start:stop], (start, stop)
    assert hub.get(path, "bytes=-16")[1] == whole[-16:]
    assert hub.get(path, f"bytes={length - 7}-")[1] == whole[-7:]
    with pytest.raises(urllib.error.HTTPError) as caught:
        hub.get(path, f"bytes={length}-")
    assert caught.value.code == 416


def test_a_tensor_is_read_by_its_range_alone(hub: Hub) -> None:
    """What safetensors readers over HTTP do: the length, the header, then the bytes of one tensor."""
    path = f"{CHECKPOINT}/100/files/model.safetensors"
    length = int.from_bytes(hub.get(path, "bytes=0-7")[1], "little")
    header = json.loads(hub.get(path, f"bytes=8-{7 + length}")[1])
    name = "encoder.layer.3.attention.self.query.weight"
    begin, end = header[name]["data_offsets"]
    content = hub.get(path, f"bytes={8 + length + begin}-{7 + length + end}")[1]
    wanted = safetensors.torch.load_file(hub.model / "model.safetensors")[name]
    assert content == wanted.numpy().tobytes() and header[name]["shape"] == list(wanted.shape)


def test_a_file_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    for revision in ("main", "100", "best", "latest"):
        path = huggingface_hub.hf_hub_download(
            "demo/minilm", "config.json", revision=revision, endpoint=hub.url, cache_dir=tmp_path / "cache", token=False
        )
        assert Path(path).read_bytes() == (hub.model / "config.json").read_bytes()
    path = huggingface_hub.hf_hub_download(
        "demo/minilm", "model.safetensors", endpoint=hub.url, cache_dir=tmp_path / "cache", token=False
    )
    assert Path(path).read_bytes() == (hub.restored / "model.safetensors").read_bytes()


def test_a_snapshot_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    """In a process of its own, led there as any job is: by HF_ENDPOINT."""
    code = "import huggingface_hub; print(huggingface_hub.snapshot_download('demo/minilm', token=False))"
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    snapshot = Path(done.stdout.strip().splitlines()[-1])
    found = {str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()}
    restored = {str(path.relative_to(hub.restored)) for path in hub.restored.rglob("*") if path.is_file()}
    assert restored <= found
    for path in restored:
        assert (snapshot / path).read_bytes() == (hub.restored / path).read_bytes(), path
    same_model(snapshot / "model.safetensors", hub.model)


def test_the_hub_as_a_file_system(hub: Hub) -> None:
    fs = huggingface_hub.HfFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
    whole = (hub.restored / "model.safetensors").read_bytes()
    assert {"demo/minilm/config.json", "demo/minilm/model.safetensors"} <= set(fs.ls("demo/minilm", detail=False))
    assert fs.info("demo/minilm/model.safetensors")["size"] == len(whole)
    with fs.open("demo/minilm/model.safetensors", "rb", block_size=1 << 20) as file:
        file.seek(50_000_000)
        assert file.read(1000) == whole[50_000_000:50_001_000]
    assert fs.cat_file("demo/minilm@100/model.safetensors", start=8, end=1000) == whole[8:1000]
    found = pyarrow.parquet.read_table("datasets/demo/corpus/part-0.parquet", filesystem=fs)
    assert found["id"].to_pylist() == list(range(5000))


def test_a_dataset_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    snapshot = Path(
        huggingface_hub.snapshot_download(
            "demo/corpus", repo_type="dataset", endpoint=hub.url, cache_dir=tmp_path / "cache", token=False
        )
    )
    for path in ("part-0.parquet", "en/part-1.parquet"):
        assert (snapshot / path).read_bytes() == (hub.corpus / path).read_bytes()
    one = huggingface_hub.hf_hub_download(
        "demo/corpus",
        "en/part-1.parquet",
        repo_type="dataset",
        revision="1",
        endpoint=hub.url,
        cache_dir=tmp_path / "cache",
        token=False,
    )
    assert Path(one).read_bytes() == (hub.corpus / "en" / "part-1.parquet").read_bytes()


def test_what_the_hub_does_not_have(hub: Hub, tmp_path: Path) -> None:
    def download(repo: str, file: str, revision: str | None = None) -> str:
        return huggingface_hub.hf_hub_download(
            repo, file, revision=revision, endpoint=hub.url, cache_dir=tmp_path / "cache", token=False
        )

    with pytest.raises(huggingface_hub.errors.RepositoryNotFoundError):
        download("demo/nope", "config.json")
    with pytest.raises(huggingface_hub.errors.RevisionNotFoundError):
        download("demo/minilm", "config.json", "nope")
    with pytest.raises(huggingface_hub.errors.EntryNotFoundError):
        download("demo/minilm", "nope.json")
    # A dataset is no model, nor the other way round.
    with pytest.raises(huggingface_hub.errors.RepositoryNotFoundError):
        download("demo/corpus", "part-0.parquet")


def test_a_hub_of_tokens(hub: Hub, tmp_path: Path, model: Path) -> None:
    store, tokens = f"file://{hub.restored.parent / 'store'}", tmp_path / "tokens.json"
    made = command("token", "create", "--tokens", str(tokens), "--name", "reader", "--scope", "demo:read")
    token = made.stdout.strip().split()[-1]
    with running(store, tmp_path / "service.log", "--tokens", str(tokens)) as service:
        api = huggingface_hub.HfApi(endpoint=service.url, token=token)
        path = api.hf_hub_download("demo/minilm", "config.json", cache_dir=tmp_path / "cache")
        assert Path(path).read_bytes() == (model / "config.json").read_bytes()
        assert "model.safetensors" in api.list_repo_files("demo/minilm")
        with pytest.raises(huggingface_hub.errors.HfHubHTTPError):
            huggingface_hub.hf_hub_download(
                "demo/minilm", "config.json", endpoint=service.url, cache_dir=tmp_path / "other", token=False
            )
