"""Ray Data over `gigastore://` paths: its workers get the file system as a pickle, and read in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from conftest import command

SCRIPT = """
import json, sys

import ray, ray.data
from gigastore.fsspec import GigastoreFileSystem

url, folder = sys.argv[1:]
ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=100 << 20, _temp_dir=folder)
try:
    fs = GigastoreFileSystem(store=url)
    rows = ray.data.read_parquet("gigastore://demo/corpus@1", filesystem=fs, columns=["id", "text"]).take_all()
finally:
    ray.shutdown()
print(json.dumps(rows))
"""


def session_of(process: int) -> list[int]:
    """Returns the processes of a session; those that ended and wait for their parent are none."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # It has just ended.
            continue
        if int(session) == process and state != "Z":
            found.append(int(stat.parent.name))
    return found


def test_ray_reads_unaware(url: str, tmp_path: Path) -> None:
    (tmp_path / "corpus" / "en").mkdir(parents=True)
    for path, first in (("part-0.parquet", 0), ("en/part-1.parquet", 1000)):
        numbers = np.arange(first, first + 1000)
        table = pyarrow.table({"id": numbers, "text": [f"row {number}" for number in numbers], "half": numbers / 2})
        pyarrow.parquet.write_table(table, tmp_path / "corpus" / path, row_group_size=100)
    command("--store", url, "data", "push", str(tmp_path / "corpus"), "--to", "demo/corpus")
    # Ray keeps a token in the home folder, and its sockets want a short path.
    env = {**os.environ, "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, url, folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=120)
            assert process.returncode == 0, said
            until = time.monotonic() + 10
            while session_of(process.pid) and time.monotonic() < until:
                time.sleep(0.1)
            assert session_of(process.pid) == [], "processes of Ray are left"
        finally:
            for one in session_of(process.pid):
                os.kill(one, signal.SIGKILL)
            process.wait()
    rows = sorted(json.loads(said.splitlines()[-1]), key=lambda row: row["id"])
    assert rows == [{"id": number, "text": f"row {number}"} for number in range(2000)]
