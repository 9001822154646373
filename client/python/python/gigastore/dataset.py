"""A version of a dataset: its files, any range of them, and the rows of its Parquet files as Arrow batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import _native
from ._arguments import counted, names_of, text
from .committed import Committed
from .errors import NotFoundError

if TYPE_CHECKING:
    from .store import Store

__all__ = ["Dataset", "FileInfo"]


@dataclass(frozen=True)
class FileInfo:
    """A file of a dataset."""

    bytes: int
    rows: int
    blake3: str


class Dataset(Committed):
    """A version of a dataset, bound to the record that committed it."""

    def __init__(self, store: Store, target: str, native: _native.Dataset) -> None:
        super().__init__(store, target, native)
        self._native = native

    def __repr__(self) -> str:
        return f"<gigastore.Dataset {self.target}: {len(self.files)} files>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_open, (self._store, self.target))

    @cached_property
    def files(self) -> Mapping[str, FileInfo]:
        """Its files, by path."""
        return {path: FileInfo(size, rows, blake3) for path, size, rows, blake3 in self._native.files()}

    def read_file(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        """Reads a file, or a range of it, verified."""
        start, end = counted("start", start), None if end is None else counted("end", end)
        if text("path", path) not in self.files:
            raise NotFoundError(f"{self.target} has no file {path!r}", known=list(self.files))
        return bytes(self._native.read_file(path, start, end))

    def batches(self, path: str, *, columns: Sequence[str] | None = None, batch_size: int = 8192) -> _native.Batches:
        """Returns a file's rows as a stream of Arrow record batches, for any reader that knows the PyCapsule interface:
        `pyarrow.RecordBatchReader.from_stream(…)`, `polars.DataFrame(…)`, DuckDB. Read and verified as it is asked for."""
        chosen = None if columns is None else names_of("columns", columns)
        return self._native.batches(text("path", path), chosen, counted("batch_size", batch_size, 32))


def _open(store: Store, target: str) -> Dataset:
    return store.dataset(target)
