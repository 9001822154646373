"""The part of Gigastore that is written in Rust: what moves, hashes and commits bytes.

Everything that takes long releases the interpreter's lock, looks for Ctrl-C ten times a second, and works after a fork.
Descriptions come as JSON text, tensors as buffers: neither torch nor numpy is needed here.
"""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import final

from typing_extensions import Buffer

__all__ = [
    "Batches",
    "Checkpoint",
    "Dataset",
    "Memory",
    "Pending",
    "Saver",
    "Store",
    "Stream",
    "__version__",
    "gather",
    "main",
]

# name, dtype as safetensors names it, global shape, global offsets, sizes, bytes, ranks that hold the same box
_Slice = tuple[str, str, Sequence[int], Sequence[int], Sequence[int], Buffer, Sequence[int]]
# name of a tensor; offsets and sizes of a box of it, or None for all of it; memory that is filled
_Box = tuple[str, tuple[Sequence[int], Sequence[int]] | None, Buffer]
# bytes done, bytes in all, bytes moved to or from the store
_Progress = Callable[[int, int, int], object]

__version__: str

@final
class Store:
    """A store, by its URL."""

    def __new__(cls, url: str, token: str | None = None, create: bool = True) -> Store: ...
    @property
    def url(self) -> str: ...
    @property
    def refetched(self) -> int: ...
    def projects(self) -> list[str]: ...
    def project(self, project: str) -> str: ...
    def resolve(self, target: str) -> str: ...
    def set_tag(self, target: str, tag: str) -> str: ...
    def records(self, project: str, after: int, wait: float) -> str: ...
    def verify(self, target: str, depth: str, progress: _Progress | None = None) -> str: ...
    def diff(self, before: str, after: str) -> str: ...
    def save(
        self,
        target: str,
        step: int,
        tensors: Sequence[_Slice],
        files: Sequence[tuple[str, Buffer]],
        *,
        rank: int,
        world_size: int,
        attempt: str | None,
        metadata: dict[str, str],
        cursors: dict[str, str],
        tag: str | None,
        compress: str,
        dedup: bool,
        deadline: float,
        commit: bool,
        progress: _Progress | None = None,
    ) -> str | None: ...
    def commit(
        self, target: str, step: int, *, world_size: int, attempt: str, tag: str | None, deadline: float
    ) -> str: ...
    def checkpoint(self, target: str) -> Checkpoint: ...
    def dataset(self, target: str) -> Dataset: ...

@final
class Checkpoint:
    """A checkpoint, bound to the record that committed it."""

    @property
    def info(self) -> str: ...
    @property
    def metadata(self) -> dict[str, str]: ...
    @property
    def cursors(self) -> dict[str, str]: ...
    def tensors(self) -> list[tuple[str, str, list[int], int, int]]: ...
    def slices(self, name: str) -> list[tuple[list[int], list[int], str]]: ...
    def files(self) -> list[tuple[str, int]]: ...
    def read(self, boxes: Sequence[_Box], progress: _Progress | None = None) -> None: ...
    def read_file(self, path: str, start: int = 0, end: int | None = None) -> Memory: ...
    def read_files(self, paths: Sequence[str]) -> list[Memory]: ...
    def export(
        self, folder: str | PathLike[str], names: Sequence[str], overwrite: bool, progress: _Progress | None = None
    ) -> list[str]: ...

@final
class Dataset:
    """A version of a dataset, bound to the record that committed it."""

    @property
    def info(self) -> str: ...
    def files(self) -> list[tuple[str, int, int, str]]: ...
    def read_file(self, path: str, start: int = 0, end: int | None = None) -> Memory: ...
    def batches(self, path: str, columns: Sequence[str] | None = None, batch_size: int = 8192) -> Batches: ...

@final
class Batches:
    """Record batches of one Parquet file, read and verified as they are asked for."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...

@final
class Stream:
    """Batches of datasets; opened by each process when it first asks for one."""

    def __new__(cls, store: Store, worker: Callable[[int], tuple[int, int] | None], **options: object) -> Stream: ...
    @property
    def targets(self) -> list[str]: ...
    @property
    def step(self) -> int: ...
    @property
    def seen(self) -> tuple[str, int, int, int, int]: ...
    def open(self) -> None: ...
    def next(self) -> tuple[int, list[Memory], str | None] | None: ...
    def observe(self, step: int, cursor: str) -> None: ...
    def resume(self, cursor: str, step: int, rank: int) -> None: ...
    def set_weights(self, weights: Sequence[float]) -> None: ...
    def cursor(self) -> str: ...
    def info(self) -> str: ...
    def close(self) -> None: ...

@final
class Saver:
    """Saves states of one rank in the background, from a copy in memory that is kept."""

    def __new__(cls, store: Store, rank: int, state_bytes: int, states: int = 1) -> Saver: ...
    def reserve(self) -> None: ...
    def save(
        self,
        target: str,
        step: int,
        tensors: Sequence[_Slice],
        files: Sequence[tuple[str, Buffer]],
        *,
        world_size: int,
        attempt: str | None,
        metadata: dict[str, str],
        cursors: dict[str, str],
        tag: str | None,
        compress: str,
        dedup: bool,
        deadline: float,
        wait: bool,
    ) -> tuple[float, float, Pending] | None: ...
    def wait(self, timeout: float | None = None) -> None: ...

@final
class Pending:
    """One save in the background."""

    def wait(self) -> str: ...

@final
class Memory(Buffer):
    """Memory of ours: page-aligned and in huge pages from 2 MiB on, else aligned to 64 bytes."""

    def __new__(cls, length: int, dtype: str = "U8", shape: Sequence[int] | None = None) -> Memory: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

def gather(sources: Sequence[Buffer], into: Buffer) -> None: ...
def main(arguments: Sequence[str]) -> int: ...
