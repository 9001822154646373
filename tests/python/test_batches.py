"""Arrow batches where something is wrong: damage, other processes, interrupts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import command

from gigastore import Dataset, IntegrityError, Store


@pytest.fixture
def dataset(url: str, tmp_path: Path) -> Dataset:
    """A dataset of one file of two row groups."""
    table = pyarrow.table({"id": np.arange(200_000)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=100_000, compression="none")
    command("--store", url, "data", "push", str(tmp_path / "a.parquet"), "--to", "demo/corpus")
    return Store(url).dataset("demo/corpus")


def damage(tmp_path: Path, from_end: int) -> None:
    """Flips a bit of the one stored file."""
    (blob,) = [path for path in (tmp_path / "store").rglob("blobs/**/*") if path.is_file()]
    with blob.open("r+b") as file:
        file.seek(-from_end, os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def test_a_damaged_footer_is_an_integrity_error(dataset: Dataset, tmp_path: Path) -> None:
    damage(tmp_path, 20)
    with pytest.raises(IntegrityError, match="a.parquet") as caught:
        dataset.batches("a.parquet").__arrow_c_stream__()
    assert caught.value.object is not None and caught.value.object.startswith("blobs/")


def test_rows_before_a_damage_come_and_those_behind_it_do_not(dataset: Dataset, tmp_path: Path) -> None:
    damage(tmp_path, 700_000)
    rows = []
    with pytest.raises(pyarrow.ArrowException, match="integrity failure.*a.parquet.*BLAKE3"):
        for batch in pyarrow.RecordBatchReader.from_stream(dataset.batches("a.parquet", batch_size=1000)):
            rows.extend(batch["id"].to_pylist())
    assert rows == list(range(100_000)), "the first row group, and nothing of the second"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_makes_a_reader_of_its_own(dataset: Dataset) -> None:
    reader = pyarrow.RecordBatchReader.from_stream(dataset.batches("a.parquet", batch_size=1000))
    assert next(iter(reader)).num_rows == 1000
    child = os.fork()
    if child == 0:
        found = 1
        try:
            reader.read_next_batch()
        except pyarrow.ArrowException as error:
            again = pyarrow.RecordBatchReader.from_stream(dataset.batches("a.parquet")).read_all()
            found = 0 if "another process" in str(error) and again.num_rows == 200_000 else 2
        finally:
            os._exit(found)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert sum(batch.num_rows for batch in reader) == 199_000
