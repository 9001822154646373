"""Datasets: files and their ranges, and rows as Arrow batches, never of bytes that were not checked."""

from __future__ import annotations

import pickle
from pathlib import Path

import duckdb
import gigastore
import numpy as np
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
