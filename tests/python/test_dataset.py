"""Datasets: files and their ranges, and rows as Arrow batches, never of bytes that were not checked."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import gigastore
import numpy as np
import polars
import pyarrow
import pyarrow.parquet
import pytest
from conftest import command
from gigastore import InvalidError, Store


def test_rows_of_a_dataset(url: str, tmp_path: Path) -> None:
    table = pyarrow.table({"id": np.arange(10_000), "text": [f"row {n}" for n in range(10_000)]})
    pyarrow.parquet.write_table(table, tmp_path / "part-0.parquet", row_group_size=1000)
    command("--store", url, "data", "push", str(tmp_path / "part-0.parquet"), "--to", "demo/corpus")
    dataset = Store(url).dataset("demo/corpus")
    assert dataset.target == "demo/corpus@1" and dataset.files["part-0.parquet"].rows == 10_000
    content = (tmp_path / "part-0.parquet").read_bytes()
    assert dataset.read_file("part-0.parquet") == content
    assert dataset.read_file("part-0.parquet", 100, 200) == content[100:200]
    reader = pyarrow.RecordBatchReader.from_stream(dataset.batches("part-0.parquet", batch_size=512))
    assert reader.schema.names == ["id", "text"]
    batches = list(reader)
    assert max(batch.num_rows for batch in batches) <= 512
    assert pyarrow.Table.from_batches(batches).equals(table.cast(reader.schema))
    rows = pyarrow.RecordBatchReader.from_stream(dataset.batches("part-0.parquet", columns=["id"]))
    assert rows.schema.names == ["id"]
    connection = duckdb.connect()
    assert connection.execute("select sum(id) from rows").fetchall() == [(sum(range(10_000)),)]
    for call in (lambda: dataset.read_file("nope"), lambda: dataset.batches("nope")):
        with pytest.raises(gigastore.NotFoundError, match="nope"):
            call()
    with pytest.raises(InvalidError, match="no column"):
        pyarrow.RecordBatchReader.from_stream(dataset.batches("part-0.parquet", columns=["nope"]))
    again = pickle.loads(pickle.dumps(dataset))
    assert again.read_file("part-0.parquet", 0, 4) == b"PAR1"


def test_a_damaged_dataset_yields_no_row_of_it(url: str, tmp_path: Path) -> None:
    table = pyarrow.table({"id": np.arange(200_000)})
    pyarrow.parquet.write_table(table, tmp_path / "part-0.parquet", row_group_size=100_000, compression="none")
    command("--store", url, "data", "push", str(tmp_path / "part-0.parquet"), "--to", "demo/corpus")
    (blob,) = [path for path in (tmp_path / "store").rglob("blobs/**/*") if path.is_file()]
    with blob.open("r+b") as file:
        file.seek(blob.stat().st_size - 400_000)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    dataset = Store(url).dataset("demo/corpus")
    with pytest.raises(Exception, match="BLAKE3"):
        pyarrow.RecordBatchReader.from_stream(dataset.batches("part-0.parquet")).read_all()


def test_others_read_files_over_plain_http(url: str, tmp_path: Path, serve: Any) -> None:
    table = pyarrow.table({"id": np.arange(300_000), "text": [f"row {n}" for n in range(300_000)]})
    pyarrow.parquet.write_table(table, tmp_path / "part-0.parquet", row_group_size=10_000)
    command("--store", url, "data", "push", str(tmp_path / "part-0.parquet"), "--to", "demo/corpus")
    file = f"{serve(url).url}/v1/projects/demo/datasets/corpus/latest/files/part-0.parquet"
    http = fsspec.filesystem("http")
    assert pyarrow.parquet.read_table(file, filesystem=http).equals(table)
    # DuckDB asks when a file was changed, which fsspec's files of HTTP do not tell.
    http.modified = lambda path: datetime.fromtimestamp(0, UTC)
    connection = duckdb.connect()
    connection.register_filesystem(http)
    found = connection.execute("select sum(id), max(text) from read_parquet($1) where id >= 295000", [file]).fetchall()
    assert found == [(sum(range(295_000, 300_000)), "row 299999")]
    wanted = polars.scan_parquet(file).filter(polars.col("id") == 123_456).collect()
    assert wanted.rows() == [(123_456, "row 123456")]
    with fsspec.open(file) as opened:
        opened.seek(-4, 2)
        assert opened.read() == b"PAR1"
