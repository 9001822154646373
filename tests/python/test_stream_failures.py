"""Streams where something is wrong: damage, repairs, interrupts, services that go away, documents taken down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import streams
from conftest import command
from gigastore import IntegrityError
from gigastore.data import Stream
from streams import COLUMNS, Model, drawn, same

CONCAT = {"mode": "concat", "seq_len": 16}
FIRST_FIT = {"mode": "first_fit", "seq_len": 24, "long": "split"}


@pytest.fixture
def corpus(tmp_path: Path) -> streams.Documents:
    """A store with one small dataset of several files."""
    documents = drawn(1, 6, 4, 5, 40)
    streams.push(f"file://{tmp_path}/store", tmp_path / "corpus", documents)
    return documents


def streamed(tmp_path: Path, expected: Model, **options: Any) -> Stream:
    """A stream that the model is of."""
    options = {**expected.options(), "batch_size": 1, "columns": COLUMNS, "format": "numpy", **options}
    return Stream(f"file://{tmp_path}/store", "demo/corpus", **options)


def damaged(tmp_path: Path, name: str) -> tuple[Path, bytes]:
    """Flips a bit of the tokens in the stored copy of a file of the dataset; returns where it is, and what it was."""
    content = (tmp_path / "corpus" / name).read_bytes()
    stored = [path for path in (tmp_path / "store").rglob("blobs/**/*") if path.is_file()]
    (blob,) = [path for path in stored if path.read_bytes() == content]
    chunk = pyarrow.parquet.ParquetFile(blob).metadata.row_group(0).column(2)
    assert chunk.path_in_schema == "tokens.list.element"
    broken = bytearray(content)
    broken[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    blob.write_bytes(broken)
    return blob, content


def test_damage_is_told_by_name_and_the_cursor_stays(tmp_path: Path, corpus: streams.Documents) -> None:
    expected = Model(tmp_path / "corpus", corpus, 5, 2, CONCAT)
    batches = list(expected.batches(1))
    blob, content = damaged(tmp_path, "part-3.parquet")
    stream, taken = streamed(tmp_path, expected), []
    with pytest.raises(IntegrityError, match=r"part-3\.parquet") as caught:
        for batch in stream:
            taken.append(batch)
    assert caught.value.object is not None and 0 < len(taken) < len(batches)
    same(taken, batches[: len(taken)])
    cursor = stream.cursor()
    with pytest.raises(IntegrityError, match=r"part-3\.parquet"):
        next(stream)
    assert stream.cursor() == cursor
    blob.write_bytes(content)
    same(stream, batches[len(taken) :])
    assert stream.seen.digest == expected.digest()
    again = streamed(tmp_path, expected, cursor=cursor)
    same([{**batch, "step": batch["step"] + len(taken)} for batch in again], batches[len(taken) :])
    assert again.seen == stream.seen


def test_damage_that_is_skipped_is_counted(tmp_path: Path, corpus: streams.Documents) -> None:
    expected = Model(tmp_path / "corpus", corpus, 5, 2, CONCAT, pad=9)
    damaged(tmp_path, "part-3.parquet")
    stream = streamed(tmp_path, expected, on_damage="skip")
    batches = list(stream)
    assert [batch["positions"][0] for batch in batches] == list(range(len(expected.samples())))
    tokens = sum(len(one) for group in corpus["part-3.parquet"] for one in group)
    whole = sum(len(one) for group in expected.groups for one in group)
    assert 0 < stream.seen.missing <= tokens
    assert stream.seen.tokens == whole - stream.seen.missing
    assert sum(int(batch["loss_mask"].sum()) for batch in batches) == stream.seen.tokens
    assert all((batch["tokens"][~batch["loss_mask"]] == 9).all() for batch in batches)
    assert stream.seen.digest != expected.digest()
    other = streamed(tmp_path, expected, on_damage="skip")
    same(other, batches)
    assert other.seen == stream.seen


def test_a_lost_file_is_told_by_name(tmp_path: Path, corpus: streams.Documents) -> None:
    expected = Model(tmp_path / "corpus", corpus, None, 1, CONCAT)
    stream = streamed(tmp_path, expected, prefetch=1)
    next(stream)
    blob, content = damaged(tmp_path, "part-4.parquet")
    blob.unlink()
    with pytest.raises(IntegrityError, match=r"part-4\.parquet"):
        list(stream)
    step = stream.state_dict()["step"]
    blob.write_bytes(content)
    same(stream, list(expected.batches(1))[step:])


@pytest.mark.parametrize("packing", [CONCAT, FIRST_FIT, {"mode": "documents"}], ids=lambda one: one["mode"])
def test_documents_that_are_taken_down_leave_holes_and_all_else_in_place(
    tmp_path: Path, corpus: streams.Documents, packing: dict[str, Any]
) -> None:
    url, expected = f"file://{tmp_path}/store", Model(tmp_path / "corpus", corpus, 5, 2, packing, pad=9)
    before, cursors = [], []
    stream = streamed(tmp_path, expected)
    for batch in stream:
        before.append(batch)
        cursors.append(stream.cursor())
    names = [f"part-{file}.parquet-0-0" for file in (1, 2, 4)]
    (tmp_path / "ids.txt").write_text("".join(f"{name}\n" for name in names))
    gone = sum(len(corpus[f"part-{file}.parquet"][0][0]) for file in (1, 2, 4))
    assert gone > 0
    command("--store", url, "data", "rm", "--documents", str(tmp_path / "ids.txt"), "--from", "demo/corpus")
    after = streamed(tmp_path, expected)
    assert after.info[0].target == "demo/corpus@2"
    batches = list(after)
    assert after.seen.missing == gone and after.seen.tokens + gone == stream.seen.tokens
    assert after.seen.digest != stream.seen.digest
    for one, other in zip(before, batches, strict=True):
        for name in ("cu_seqlens", "position_ids", "positions"):
            np.testing.assert_array_equal(one[name], other[name])
        there = other["loss_mask"]
        np.testing.assert_array_equal(one["tokens"][there], other["tokens"][there])
        assert (other["tokens"][~there] == 9).all()
    # Cursors of the version before go on in this one.
    for step in range(0, len(cursors), 7):
        rest = streamed(tmp_path, expected, cursor=cursors[step])
        same([{**batch, "step": batch["step"] + step + 1} for batch in rest], batches[step + 1 :])


def test_a_stream_through_a_service(
    tmp_path: Path, corpus: streams.Documents, serve: Callable[..., Any]
) -> None:
    expected = Model(tmp_path / "corpus", corpus, 5, 2, {"mode": "first_fit", "seq_len": 40, "long": "split"})
    service = serve(f"file://{tmp_path}/store")
    options = {**expected.options(), "batch_size": 1, "columns": COLUMNS, "format": "numpy"}
    same(Stream(service.url, "demo/corpus", **options), expected.batches(1))


def test_ctrl_c_ends_a_wait_and_the_stream_goes_on(tmp_path: Path, corpus: streams.Documents) -> None:
    script = textwrap.dedent(f"""
        import signal, sys, threading, os, time
        from gigastore.data import Stream
        stream = Stream("file://{tmp_path}/store", "demo/corpus", seq_len=4, batch_size=1, epochs=None, format="numpy")
        next(stream)
        steps = []
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            for batch in stream:
                steps.append(batch["step"])
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        # A batch that was taken when the signal came may have been lost to the loop, and none but that.
        assert next(stream)["step"] in (steps[-1] + 1, steps[-1] + 2)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_a_process_ends_while_batches_are_made(tmp_path: Path, corpus: streams.Documents) -> None:
    script = textwrap.dedent(f"""
        from gigastore.data import Stream
        stream = Stream("file://{tmp_path}/store", "demo/corpus", seq_len=4, batch_size=1, epochs=None)
        kept = [next(stream) for _ in range(10)]
    """)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert time.monotonic() - began < 30
    process = subprocess.Popen([sys.executable, "-c", script + "\nwhile True: next(stream)"])
    time.sleep(2)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=10) == -signal.SIGTERM
