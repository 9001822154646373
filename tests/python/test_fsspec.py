"""`gigastore://` paths: what file systems promise, and the readers that rely on it unaware."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import gigastore
import numpy as np
import pandas
import pyarrow
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
from conftest import Service, command
from fsspec.callbacks import Callback
from gigastore import IntegrityError, InvalidError, StoreWriteError
from gigastore.fsspec import FileMissingError, FolderError, GigastoreFileSystem

ROOT = Path(__file__).parents[2]


def table(first: int, rows: int = 1000) -> pyarrow.Table:
    """Rows that tell where they came from."""
    numbers = np.arange(first, first + rows)
    return pyarrow.table({"id": numbers, "text": [f"row {number}" for number in numbers], "half": numbers / 2})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one dataset of three files and two versions, and one run of two steps."""
    folder, root = tmp_path_factory.mktemp("corpus"), tmp_path_factory.mktemp("saved") / "store"
    (folder / "en" / "more").mkdir(parents=True)
    pyarrow.parquet.write_table(table(0), folder / "part-0.parquet", row_group_size=100)
    pyarrow.parquet.write_table(table(1000), folder / "en" / "part-1.parquet")
    pyarrow.parquet.write_table(table(2000), folder / "en" / "more" / "part-2.parquet")
    command("--store", f"file://{root}", "data", "push", str(folder), "--to", "demo/corpus", "--tag", "clean")
    pyarrow.parquet.write_table(table(5000), folder / "part-0.parquet", row_group_size=100)
    command("--store", f"file://{root}", "data", "push", str(folder), "--to", "demo/corpus")
    store = gigastore.Store(f"file://{root}")
    for step in (100, 200):
        files = {"config.json": b'{"step": %d}' % step, "tokenizer/vocab.txt": bytes(range(256)) * 4096}
        store.save("demo/run", step, {"w": np.full(4, step)}, files=files, tag="best" if step == 100 else None)
    return root


@pytest.fixture
def fs(url: str, tmp_path: Path, saved: Path) -> GigastoreFileSystem:
    """That store, in a copy of the test's own."""
    shutil.copytree(saved, tmp_path / "store")
    return GigastoreFileSystem(store=url, skip_instance_cache=True)


def test_every_level_lists(fs: GigastoreFileSystem) -> None:
    assert fs.ls("", detail=False) == ["demo"]
    assert fs.ls("gigastore://", detail=False) == ["demo"]
    assert fs.ls("gigastore://demo/", detail=False) == ["demo/corpus", "demo/run"]
    assert fs.ls("demo/corpus@", detail=False) == [f"demo/corpus@{tag}" for tag in ("1", "clean", "2", "latest")]
    assert fs.ls("demo/corpus", detail=False) == ["demo/corpus/en", "demo/corpus/part-0.parquet"]
    assert fs.ls("demo/corpus@clean/en", detail=False) == [
        "demo/corpus@clean/en/more",
        "demo/corpus@clean/en/part-1.parquet",
    ]
    assert {"demo/run@100/config.json", "demo/run@100/tokenizer"} <= set(fs.ls("demo/run@100", detail=False))
    (file,) = fs.ls("demo/run/config.json")
    assert file["name"] == "demo/run/config.json" and file["size"] == 13


def test_info_tells_version_and_hash(fs: GigastoreFileSystem, url: str) -> None:
    info = fs.info("gigastore://demo/corpus@clean/part-0.parquet")
    known = gigastore.Store(url).dataset("demo/corpus@1").files["part-0.parquet"]
    assert (info["name"], info["type"]) == ("demo/corpus@clean/part-0.parquet", "file")
    assert (info["size"], info["blake3"], info["target"]) == (known.bytes, known.blake3, "demo/corpus@1")
    assert fs.info("demo/corpus")["type"] == fs.info("demo")["type"] == fs.info("")["type"] == "directory"
    assert fs.info("demo/corpus@")["type"] == "directory"
    assert fs.size("demo/run@200/config.json") == 13
    assert fs.isdir("demo/run/tokenizer") and not fs.isfile("demo/run/tokenizer")
    assert fs.ukey("demo/corpus@1/part-0.parquet") != fs.ukey("demo/corpus@2/part-0.parquet")
    assert fs.ukey("demo/corpus@1/part-0.parquet") == fs.ukey("demo/corpus@clean/part-0.parquet")
    assert fs.modified("demo/corpus@1/part-0.parquet") <= fs.modified("demo/corpus@2/part-0.parquet")


def test_find_glob_walk(fs: GigastoreFileSystem) -> None:
    files = ["en/more/part-2.parquet", "en/part-1.parquet", "part-0.parquet"]
    assert fs.find("demo/corpus") == [f"demo/corpus/{file}" for file in files]
    assert fs.find("demo/corpus@1/en", maxdepth=1) == ["demo/corpus@1/en/part-1.parquet"]
    assert "demo/corpus/en/more" in fs.find("demo/corpus", withdirs=True)
    assert fs.find("demo/corpus/part-0.parquet") == ["demo/corpus/part-0.parquet"]
    assert fs.find("demo/nope") == []
    assert set(fs.find("demo")) >= {f"demo/corpus/{file}" for file in files} | {"demo/run/config.json"}
    assert fs.glob("gigastore://demo/corpus/**/*.parquet") == [f"demo/corpus/{file}" for file in files]
    assert fs.glob("demo/corpus@1/*.parquet") == ["demo/corpus@1/part-0.parquet"]
    assert fs.glob("demo/*/config.json") == ["demo/run/config.json"]
    assert fs.glob("demo/run@*/config.json") == [
        f"demo/run@{one}/config.json" for one in ("100", "200", "best", "latest")
    ]
    assert fs.glob("demo/run@[0-9]*") == ["demo/run@100", "demo/run@200"]
    assert fs.glob("demo/corpus/nope-*") == []
    assert [place for place, _, _ in fs.walk("demo/corpus@2")] == [
        "demo/corpus@2",
        "demo/corpus@2/en",
        "demo/corpus@2/en/more",
    ]


def test_files_are_read_by_ranges(fs: GigastoreFileSystem) -> None:
    vocabulary, path = bytes(range(256)) * 4096, "demo/run@200/tokenizer/vocab.txt"
    assert fs.cat_file(path) == fs.cat(path) == vocabulary
    for start, end in [(0, 10), (300, 700), (-10, None), (5, -5), (None, 7), (1 << 20, None), (9, 3), (0, 1 << 30)]:
        assert fs.cat_file(path, start, end) == vocabulary[start:end], (start, end)
    with fs.open(path) as file:
        file.seek(256 * 1000 + 7)
        assert file.read(3) == bytes([7, 8, 9])
        assert file.seek(-2, io.SEEK_END) == (1 << 20) - 2
        assert file.read() == bytes([254, 255]) and file.read(1) == b""
    with fs.open(path, block_size=1000, cache_type="blockcache") as file:
        assert file.read() == vocabulary
    with fs.open("demo/run/config.json", "r") as text:
        assert text.read() == '{"step": 200}'
    assert fs.head(path, 4) == bytes(range(4)) and fs.tail(path, 1) == b"\xff"


def test_ranges_are_read_together(fs: GigastoreFileSystem) -> None:
    vocabulary, path = bytes(range(256)) * 4096, "demo/run/tokenizer/vocab.txt"
    starts = list(range(0, 1 << 20, 10_000))
    ends = [start + 100 for start in starts]
    assert fs.cat_ranges([path] * len(starts), starts, ends) == [
        vocabulary[start:end] for start, end in zip(starts, ends, strict=True)
    ]
    found, missing = fs.cat_ranges([path, "demo/run/nope"], 0, 5)
    assert found == vocabulary[:5] and isinstance(missing, FileMissingError)
    with pytest.raises(FileMissingError):
        fs.cat_ranges([path, "demo/run/nope"], 0, 5, on_error="raise")
    with pytest.raises(InvalidError):
        fs.cat_ranges([path], [0, 1], [1, 2])


def test_files_are_copied_whole_or_not_at_all(fs: GigastoreFileSystem, tmp_path: Path) -> None:
    sizes: list[int] = []
    callback = Callback(hooks={"seen": lambda size, value, **_: sizes.append(value)})
    fs.get_file("demo/run/tokenizer/vocab.txt", tmp_path / "deep" / "vocab.txt", callback=callback)
    assert (tmp_path / "deep" / "vocab.txt").read_bytes() == bytes(range(256)) * 4096
    assert sizes[-1] == callback.size == 1 << 20
    fs.get("demo/corpus@1/", str(tmp_path / "out"), recursive=True)
    copied = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.parquet"))
    assert copied == ["en/more/part-2.parquet", "en/part-1.parquet", "part-0.parquet"]
    (blob,) = [path for path in (tmp_path / "store").rglob("blobs/**/*") if path.is_file() and _holds(path, 5000)]
    _flip(blob, 1000)
    with pytest.raises(IntegrityError):
        fs.get_file("demo/corpus/part-0.parquet", tmp_path / "bad.parquet")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("bad.parquet")]


def _holds(blob: Path, first: int) -> bool:
    return bool(pyarrow.parquet.read_table(blob)["id"][0].as_py() == first)


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def test_what_is_not_there(fs: GigastoreFileSystem) -> None:
    paths = ["nope", "nope/run", "demo/nope", "demo/run@300", "demo/run@nope/x", "demo/run/nope", "demo/UPPER/x"]
    for path in [*paths, "demo/run/tokenizer/nope", "demo/run/config.json/x", "nope/x@"]:
        assert not fs.exists(path) and not fs.isdir(path) and not fs.isfile(path), path
        for call in (fs.info, fs.ls, fs.open, fs.cat_file):
            with pytest.raises(FileMissingError, match=path.partition("/")[0]) as caught:
                call(path)
            assert isinstance(caught.value, FileNotFoundError), path
    for path, near in {"demo/run/confg.json": "config.json", "demo/runn": "run", "dem/run": "demo"}.items():
        with pytest.raises(FileMissingError, match=rf"did you mean {near}( or .*)?\?") as caught:
            fs.open(path)
        assert near in caught.value.known
    for folder in ("", "demo", "demo/run", "demo/run@", "demo/run/tokenizer"):
        with pytest.raises(FolderError) as is_folder:
            fs.open(folder)
        assert isinstance(is_folder.value, IsADirectoryError)


def test_it_takes_no_writes(fs: GigastoreFileSystem, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"x")
    calls: list[Callable[[], Any]] = [
        lambda: fs.open("demo/run/new.txt", "wb"),
        lambda: fs.open("demo/run/config.json", "ab"),
        lambda: fs.pipe("demo/run/new.txt", b"x"),
        lambda: fs.put(str(tmp_path / "local"), "demo/run/new.txt"),
        lambda: fs.rm("demo/run/config.json"),
        lambda: fs.rm("demo/run", recursive=True),
        lambda: fs.mkdir("demo/new"),
        lambda: fs.makedirs("demo/new/deep", exist_ok=True),
        lambda: fs.cp("demo/run/config.json", "demo/run/new.txt"),
        lambda: fs.mv("demo/run/config.json", "demo/run/new.txt"),
        lambda: fs.touch("demo/run/new.txt"),
    ]
    before = fs.find("demo")
    for call in calls:
        with pytest.raises(StoreWriteError, match="not written one by one") as caught:
            call()
        assert caught.value.code == "read_only" and isinstance(caught.value, OSError)
    assert fs.find("demo") == before


def test_an_open_file_stays_with_its_version(fs: GigastoreFileSystem, url: str) -> None:
    path = "demo/run/config.json"
    with fs.open(path, block_size=4) as file:
        assert file.read(4) == b'{"st'
        gigastore.Store(url).save("demo/run", 300, {"w": np.ones(4)}, files={"config.json": b'{"else": 300}'})
        copy = pickle.loads(pickle.dumps(file))
        assert file.read() == copy.read() == b'ep": 200}'
        assert copy.info()["target"] == file.info()["target"] == "demo/run@200"
    assert fs.cat_file(path) == b'{"else": 300}'


def test_where_the_store_is_named(fs: GigastoreFileSystem, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidError, match="GIGASTORE_STORE"):
        fsspec.filesystem("gigastore").ls("")
    monkeypatch.setenv("GIGASTORE_STORE", url)
    with fsspec.open("gigastore://demo/run@100/config.json") as file:
        assert file.read() == b'{"step": 100}'
    # The same instance, as fsspec keeps it: it reads from where the environment points now.
    kept = fsspec.filesystem("gigastore")
    other = gigastore.Store(f"{url}-other")
    other.save("demo/run", 100, {"w": np.zeros(4)}, files={"config.json": b'{"other": 1}'})
    monkeypatch.setenv("GIGASTORE_STORE", other.url)
    assert fsspec.filesystem("gigastore") is kept
    assert kept.cat_file("demo/run@100/config.json") == b'{"other": 1}'
    monkeypatch.setenv("GIGASTORE_STORE", url)
    assert kept.cat_file("demo/run@100/config.json") == b'{"step": 100}'
    monkeypatch.setenv("GIGASTORE_STORE", f"{url}-that-is-not-there")
    with pytest.raises(gigastore.GigastoreError):
        fsspec.filesystem("gigastore").ls("")
    assert GigastoreFileSystem(store=gigastore.Store(url)).ls("", detail=False) == ["demo"]


def test_it_is_registered_as_the_package_says() -> None:
    packaged = tomllib.loads((ROOT / "client/python/pyproject.toml").read_text())
    module, _, name = packaged["project"]["entry-points"]["fsspec.specs"]["gigastore"].partition(":")
    assert getattr(import_module(module), name) is GigastoreFileSystem
    assert fsspec.get_filesystem_class("gigastore") is GigastoreFileSystem


@pytest.mark.filterwarnings("ignore:os.fork")
def test_copies_in_other_processes(fs: GigastoreFileSystem) -> None:
    again = pickle.loads(pickle.dumps(fs))
    assert again.cat_file("demo/run@100/config.json") == b'{"step": 100}'
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            paths = ["demo/run@100/config.json", "demo/run@200/config.json"]
            assert pool.map(fs.cat_file, paths) == [b'{"step": 100}', b'{"step": 200}']


def test_a_service_asks_for_a_token(fs: GigastoreFileSystem, url: str, tmp_path: Path, serve: Any) -> None:
    tokens = tmp_path / "tokens.json"
    made = command("token", "create", "--tokens", str(tokens), "--name", "reader", "--scope", "demo:read")
    service: Service = serve(url, "--tokens", str(tokens))
    remote = GigastoreFileSystem(store=service.url, token=made.stdout.strip().split()[-1])
    assert remote.cat_file("demo/run@100/config.json") == b'{"step": 100}'
    assert remote.cat_file("demo/corpus/part-0.parquet", 0, 4) == b"PAR1"
    tensors = "demo/run@100/model.safetensors"
    assert remote.cat_file(tensors) == fs.cat_file(tensors)
    assert remote.cat_file(tensors, -8) == np.int64(100).tobytes()
    with pytest.raises(gigastore.AuthError):
        GigastoreFileSystem(store=service.url, token="gst_wrong").exists("demo/run")
    # Nor does fsspec, which keeps instances, hand what one token opens to whoever has another.
    let_in = gigastore.Store(service.url, made.stdout.strip().split()[-1])
    assert fsspec.filesystem("gigastore", store=let_in).exists("demo/run")
    again = pickle.loads(pickle.dumps(let_in))
    assert fsspec.filesystem("gigastore", store=let_in) is fsspec.filesystem("gigastore", store=again)
    shut_out = gigastore.Store(service.url, "gst_wrong")
    assert fsspec.filesystem("gigastore", store=shut_out) != fsspec.filesystem("gigastore", store=let_in)
    with pytest.raises(gigastore.AuthError):
        fsspec.filesystem("gigastore", store=shut_out).exists("demo/run")
    assert "gst_" not in repr(let_in) + repr(shut_out)


def test_pandas_reads_unaware(fs: GigastoreFileSystem, url: str) -> None:
    found = pandas.read_parquet("gigastore://demo/corpus@1/part-0.parquet", storage_options={"store": url})
    assert found["id"].tolist() == list(range(1000))
    whole = pandas.read_parquet("gigastore://demo/corpus@2", storage_options={"store": url}, columns=["id"])
    assert sorted(whole["id"]) == [*range(1000, 3000), *range(5000, 6000)]
    assert pandas.read_json(fs.open("demo/run@100/config.json"), typ="series")["step"] == 100


def test_pyarrow_reads_unaware(fs: GigastoreFileSystem) -> None:
    """As a data set that it opens itself, and as files of a file system of its own; Ray Data has a test of its own."""
    dataset = pyarrow.dataset.dataset("demo/corpus@1", filesystem=fs, format="parquet")
    assert sorted(dataset.to_table(columns=["id"])["id"].to_pylist()) == list(range(3000))
    field = pyarrow.dataset.field("id")
    filtered = dataset.to_table(filter=(field >= 995) & (field < 1005))
    assert sorted(filtered["id"].to_pylist()) == list(range(995, 1005))
    wrapped = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))
    info = wrapped.get_file_info("demo/corpus/part-0.parquet")
    assert info.is_file and info.size == fs.size("demo/corpus/part-0.parquet")
    assert pyarrow.parquet.read_table("demo/corpus/part-0.parquet", filesystem=wrapped)["id"][0].as_py() == 5000
    file = pyarrow.parquet.ParquetFile(wrapped.open_input_file("demo/corpus@1/part-0.parquet"))
    assert file.read_row_group(9, columns=["id"])["id"].to_pylist() == list(range(900, 1000))


def test_duckdb_reads_unaware(fs: GigastoreFileSystem) -> None:
    connection = duckdb.connect()
    connection.register_filesystem(fs)
    query = "select count(*), sum(id) from read_parquet('gigastore://demo/corpus@1/**/*.parquet')"
    assert connection.sql(query).fetchall() == [(3000, sum(range(3000)))]
    query = "select text from 'gigastore://demo/corpus/part-0.parquet' where id = 5321"
    assert connection.sql(query).fetchall() == [("row 5321",)]


def test_safetensors_reads_unaware(fs: GigastoreFileSystem, url: str, tmp_path: Path) -> None:
    tensors = {"w": torch.arange(12.0).reshape(3, 4)}
    data = safetensors.torch.save(tensors)
    gigastore.Store(url).save("demo/adapter", 1, {}, files={"adapter.safetensors": data})
    assert torch.equal(safetensors.torch.load(fs.cat_file("demo/adapter/adapter.safetensors"))["w"], tensors["w"])
    local = fsspec.open_local(
        "simplecache::gigastore://demo/adapter@1/adapter.safetensors",
        gigastore={"store": url},
        simplecache={"cache_storage": str(tmp_path / "cache")},
    )
    assert torch.equal(safetensors.torch.load_file(local)["w"], tensors["w"])


def test_tensors_are_files_too(url: str, model: Path, tmp_path: Path) -> None:
    """What four ranks saved is one safetensors file here, with no copy of it anywhere."""
    command("--store", url, "ckpt", "save", str(model), "--to", "demo/minilm@1", "--ranks", "4")
    command("--store", url, "ckpt", "restore", "demo/minilm", "--out", str(tmp_path / "restored"))
    fs, path = GigastoreFileSystem(store=url), "demo/minilm/model.safetensors"
    whole = (tmp_path / "restored" / "model.safetensors").read_bytes()
    assert path in fs.ls("demo/minilm", detail=False) and fs.size(path) == len(whole)
    assert fs.cat_file(path, 50_000_000, 50_001_000) == whole[50_000_000:50_001_000]
    with fs.open(path) as file:
        header = json.loads(file.read(8 + int.from_bytes(whole[:8], "little"))[8:])
        assert len(header) == len(gigastore.Store(url).checkpoint("demo/minilm").tensors) + 1
        file.seek(-100, io.SEEK_END)
        assert file.read() == whole[-100:]
    fs.get("demo/minilm", str(tmp_path / "copied"), recursive=True)
    for copied in (tmp_path / "restored").rglob("*"):
        if copied.is_file():
            there = tmp_path / "copied" / copied.relative_to(tmp_path / "restored")
            assert there.read_bytes() == copied.read_bytes(), copied
    found = safetensors.torch.load_file(tmp_path / "copied" / "model.safetensors")
    wanted = safetensors.torch.load_file(model / "model.safetensors")
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_damage_is_never_data(fs: GigastoreFileSystem, tmp_path: Path) -> None:
    blobs = [path for path in (tmp_path / "store").rglob("blobs/**/*") if path.is_file()]
    (blob,) = [path for path in blobs if _holds(path, 0)]
    _flip(blob, 2000)
    with pytest.raises(IntegrityError, match="part-0.parquet"), fs.open("demo/corpus@1/part-0.parquet") as file:
        file.read()
    with pytest.raises(Exception, match="BLAKE3") as caught:
        pyarrow.parquet.read_table("demo/corpus@1/part-0.parquet", filesystem=fs)
    assert isinstance(caught.value, IntegrityError)


def test_a_damaged_tensor_is_no_part_of_a_file(fs: GigastoreFileSystem, url: str, tmp_path: Path) -> None:
    array = np.arange(4 << 20, dtype=np.uint8)
    gigastore.Store(url).save("demo/large", 1, {"w": array})
    (pack,) = [path for path in (tmp_path / "store").rglob("packs/**/*") if path.is_file() and _size(path) > 4 << 20]
    _flip(pack, _size(pack) - (1 << 20) - 5)
    path, size = "demo/large/model.safetensors", fs.size("demo/large/model.safetensors")
    assert fs.cat_file(path, size - 1000) == array[-1000:].tobytes()
    # The group of 256 KiB that the byte is in, and not the one before.
    group = size - (5 << 18)
    assert fs.cat_file(path, group - 1000, group) == array[-(5 << 18) - 1000 : -(5 << 18)].tobytes()
    with pytest.raises(IntegrityError, match="tensor w"):
        fs.cat_file(path, group, group + 1)
    with pytest.raises(IntegrityError, match="tensor w"):
        fs.get_file(path, tmp_path / "copy")
    assert not list(tmp_path.glob("copy*"))


def _size(path: Path) -> int:
    return path.stat().st_size


def test_it_imports_without_torch(url: str) -> None:
    gigastore.Store(url)
    code = (
        "import sys, gigastore.fsspec, fsspec\n"
        f"assert fsspec.filesystem('gigastore', store={url!r}).ls('') == []\n"
        "assert not {'torch', 'jax', 'pandas', 'pyarrow'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
