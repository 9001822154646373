"""Small datasets of tokens, and what streams of them must yield, computed without any code of Gigastore's.

The order comes from `compat/order.py`, which is written from the specification alone; tokens are those that pyarrow
reads from the files. Must never ask Gigastore for what it is to be compared with.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from conftest import command

_SPEC = importlib.util.spec_from_file_location("order", Path(__file__).parents[1] / "compat" / "order.py")
assert _SPEC is not None and _SPEC.loader is not None
order: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(order)

#: Documents, by row group, by file.
Documents = dict[str, list[list[list[int]]]]
#: A piece of a document: its tokens, and whether it is its first.
Piece = tuple[list[int], bool]


def drawn(seed: int, files: int, groups: int, rows: int, longest: int, vocabulary: int = 50_000) -> Documents:
    """Draws documents, some of them empty; each row group has at least one."""
    chance = random.Random(seed)
    return {
        f"part-{file}.parquet": [
            [
                [chance.randrange(vocabulary) for _ in range(chance.choice([0, 1, longest, chance.randrange(longest)]))]
                for _ in range(1 + chance.randrange(rows))
            ]
            for _ in range(1 + chance.randrange(groups))
        ]
        for file in range(files)
    }


def write(folder: Path, documents: Documents, kind: str = "uint16") -> list[Path]:
    """Writes Parquet files of documents."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = pyarrow.list_(pyarrow.field("element", getattr(pyarrow, kind)(), nullable=False))
    schema = pyarrow.schema(
        [
            pyarrow.field("id", pyarrow.string(), nullable=False),
            pyarrow.field("n_tokens", pyarrow.uint32(), nullable=False),
            pyarrow.field("tokens", tokens, nullable=False),
        ]
    )
    for name, groups in documents.items():
        with pyarrow.parquet.ParquetWriter(folder / name, schema, compression="zstd") as writer:
            for number, group in enumerate(groups):
                rows = [[f"{name}-{number}-{row}" for row in range(len(group))], [len(one) for one in group], group]
                arrays = [pyarrow.array(column, one.type) for column, one in zip(rows, schema, strict=True)]
                writer.write_table(pyarrow.table(arrays, schema=schema))
    return [folder / name for name in documents]


def push(url: str, folder: Path, documents: Documents, target: str = "demo/corpus", kind: str = "uint16") -> None:
    """Writes files of documents, and makes a version of a dataset of them."""
    paths = write(folder, documents, kind)
    command("--store", url, "data", "push", *map(str, paths), "--to", target)


def read(folder: Path, documents: Documents) -> list[list[list[int]]]:
    """Reads the documents of all row groups back, files by path."""
    found = []
    for name in sorted(documents):
        file = pyarrow.parquet.ParquetFile(folder / name)
        for group in range(file.num_row_groups):
            found.append(file.read_row_group(group, columns=["tokens"])["tokens"].to_pylist())
    return found


@dataclass
class Model:
    """What a stream of one dataset yields."""

    folder: Path
    documents: Documents
    seed: int | None
    lanes: int
    packing: dict[str, Any]
    window: int = 2
    pad: int = 0
    groups: list[list[list[int]]] = field(init=False)

    def __post_init__(self) -> None:
        self.groups = read(self.folder, self.documents)
        lengths = [(name, [[len(one) for one in group] for group in self.documents[name]]) for name in sorted(self.documents)]
        spec = {"seed": self.seed, "lanes": self.lanes, "window": self.window, "packing": self.packing}
        self.order = order.Order(lengths, spec)

    def options(self) -> dict[str, Any]:
        """The keywords of such a stream."""
        packing = dict(self.packing)
        return {
            "seed": self.seed, "lanes": self.lanes, "window": self.window, "packing": packing.pop("mode"), "pad": self.pad,
            **packing,
        }  # fmt: skip

    def samples(self, epoch: int = 0) -> list[tuple[int, list[Piece]]]:
        """Lane and pieces of each sample of an epoch."""
        found = self.order.epoch(epoch)
        groups = {(window["lane"], window["window"]): window["groups"] for window in found["windows"]}
        samples = []
        for lane, window, _, pieces in found["samples"]:
            rows = [row for group in groups[lane, window] for row in self.groups[group]]
            samples.append((lane, [(rows[row][start : start + length], start == 0) for row, start, length in pieces]))
        return samples

    def batches(
        self, batch_size: int, rank: int = 0, world: int = 1, epochs: int = 1, last: str = "pad"
    ) -> Iterator[dict[str, Any]]:
        """One rank's batches."""
        samples = [sample for epoch in range(epochs) for sample in self.samples(epoch)]
        whole = batch_size * world
        for step, start in enumerate(range(0, len(samples), whole)):
            these = samples[start : start + whole]
            if len(these) < whole and last == "drop":
                return
            homes = order.assign([lane for lane, _ in these], world, batch_size)
            mine = [(start + at, these[at][1]) for at, home in enumerate(homes) if home == rank]
            yield self._batch(step, mine, batch_size)

    def _batch(self, step: int, samples: list[tuple[int, list[Piece]]], batch_size: int) -> dict[str, Any]:
        seq_len = self.packing.get("seq_len")
        tokens: list[int] = []
        borders, positions, mask = [0], list[int](), list[bool]()

        def add(piece: list[int], there: bool) -> None:
            tokens.extend(piece)
            borders.append(len(tokens))
            positions.extend(range(len(piece)))
            mask.extend([there] * len(piece))

        for at in range(batch_size):
            before = len(tokens)
            for piece, _ in samples[at][1] if at < len(samples) else []:
                add(piece, True)
            if seq_len is not None and len(tokens) - before < seq_len:
                add([self.pad] * (seq_len - (len(tokens) - before)), False)
        shape = (-1,) if seq_len is None else (batch_size, seq_len)
        places = [position for position, _ in samples] + [-1] * (batch_size - len(samples))
        return {
            "step": step,
            "tokens": np.array(tokens, np.int64).reshape(shape),
            "cu_seqlens": np.array(borders, np.int32),
            "position_ids": np.array(positions, np.int64).reshape(shape),
            "loss_mask": np.array(mask, bool).reshape(shape),
            "positions": np.array(places, np.int64),
            "sources": np.zeros(batch_size, np.int64),
        }

    def digest(self, epochs: int = 1) -> str:
        """The digest of all samples."""
        total, position = 0, 0
        for epoch in range(epochs):
            for _, pieces in self.samples(epoch):
                width = 2 if all(token < 1 << 16 for piece, _ in pieces for token in piece) else 4
                data = b"".join(token.to_bytes(width, "little") for piece, _ in pieces for token in piece)
                total += order.seen(position, 0, width, [(len(piece), True) for piece, _ in pieces], data)
                position += 1
        return (total % (1 << 256)).to_bytes(32, "little").hex()


#: All arrays that a batch may have.
COLUMNS = ("tokens", "cu_seqlens", "position_ids", "loss_mask", "positions", "sources")


def plain(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch with arrays of numpy's, without what only workers add."""
    return {name: value if isinstance(value, int) else np.asarray(value) for name, value in batch.items() if name != "cursor"}


def same(actual: Any, expected: Any) -> None:
    """Compares batches: types, shapes and every number."""
    actual, expected = [plain(one) for one in actual], [plain(one) for one in expected]
    assert len(actual) == len(expected), f"{len(actual)} batches, expected {len(expected)}"
    for one, other in zip(actual, expected, strict=True):
        assert list(one) == list(other)
        for name, value in one.items():
            if isinstance(value, int):
                assert value == other[name], f"{name} {value}, expected {other[name]}"
            else:
                assert value.dtype == other[name].dtype, name
                np.testing.assert_array_equal(value, other[name], err_msg=f"step {one['step']}: {name}")
