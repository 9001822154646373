"""The description of a checkpoint that DCP itself wrote into a folder: a pickle, read without running what it names.

Must never look a name up that is not on the list below, never change what a name stands for, and never open a file
outside of the folder: whoever can write the description could else run any code here, or read any file.
"""

from __future__ import annotations

import collections
import io
import os
import pathlib
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import IO, Any, ClassVar

import torch
from torch.distributed._shard.sharded_tensor.metadata import MEM_FORMAT_ENCODING
from torch.distributed._shard.sharded_tensor.metadata import TensorProperties as OldTensorProperties
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    STORAGE_TYPES,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.futures import Future
from torch.serialization import _get_layout

from .._arguments import kind_of
from ..errors import GigastoreError, IntegrityError, InvalidError, NotFoundError

__all__ = ["FolderReader", "read_description", "reading"]

_KINDS: tuple[type, ...] = (
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    TensorProperties,
    StorageMeta,
    _MEM_FORMAT_ENCODING,
    _StorageInfo,
    # As torch before 2.3 described tensors.
    OldTensorProperties,
    MEM_FORMAT_ENCODING,
)
#: Those that a pickle makes empty and fills then, and those of them that take their state apart themselves.
_FILLED = tuple(kind for kind in _KINDS if not issubclass(kind, Enum))
_UNPACKED = (TensorProperties, OldTensorProperties)
_ADMITTED: dict[tuple[str, str], Any] = {
    **{(kind.__module__, kind.__qualname__): kind for kind in _KINDS},
    **{("builtins", kind.__name__): kind for kind in (set, frozenset)},
    **{("pathlib", name): pathlib.PurePosixPath for name in ("PosixPath", "PurePosixPath")},
    **{("pathlib", name): pathlib.PureWindowsPath for name in ("WindowsPath", "PureWindowsPath")},
    **{("pathlib._local", name): pathlib.PurePosixPath for name in ("PosixPath", "PurePosixPath")},
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): _get_layout,
}


@contextmanager
def reading(file: Callable[[], object]) -> Iterator[None]:
    """Says which file can't be read, and how, in place of whatever reading it raised."""
    try:
        yield
    except GigastoreError:
        raise
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {error.filename or file()}", object=str(file())) from error
    except OSError as error:
        raise InvalidError(f"{file()} can't be read: {error}", object=str(file())) from error
    except Exception as error:
        raise IntegrityError(
            f"{file()} is not as DCP writes it: {type(error).__name__}: {error}",
            object=str(file()),
            hint="copy the folder again from where it was saved",
        ) from error


class _Restricted(pickle._Unpickler):
    """Makes what a description is made of, and nothing else."""

    def __init__(self, file: Path) -> None:
        super().__init__(io.BytesIO(file.read_bytes()))
        self._file = file

    def load_build(self) -> None:
        """Fills a part of a description. A class or function is none: what is set on it holds for the whole process."""
        state, made = self.stack[-1], self.stack[-2]  # type: ignore[attr-defined]
        if type(made) not in _FILLED or isinstance(state, tuple) and type(made) not in _UNPACKED:
            raise InvalidError(
                f"{self._file} sets attributes of {kind_of(made)}, which no description needs",
                object=str(self._file),
                hint="do not load this folder with DCP before you know who wrote it",
            )
        super().load_build()  # type: ignore[misc]

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}

    def find_class(self, module: str, name: str) -> Any:
        """Looks up a name that the pickle refers to."""
        if (module, name) in _ADMITTED:
            return _ADMITTED[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise InvalidError(
            f"{self._file} names {module}.{name}, which no description of a checkpoint needs: nothing was run",
            object=str(self._file),
            expected="classes of torch.distributed.checkpoint, torch.Size, types of elements",
            actual=f"{module}.{name}",
            hint="do not load this folder with DCP before you know who wrote it",
        )

    def description(self) -> Metadata:
        """Returns the description."""
        try:
            found = self.load()
        except InvalidError:
            raise
        except Exception as error:
            raise InvalidError(f"{self._file} can't be read: {error}", object=str(self._file)) from error
        if not isinstance(found, Metadata) or not isinstance(found.state_dict_metadata, dict):
            raise InvalidError(f"{self._file} holds {kind_of(found)}, expected DCP's Metadata")
        return found


def read_description(folder: Path) -> Metadata:
    """Reads the description of a folder; those that ranks wrote each for itself are joined."""
    if (folder / ".metadata").is_file():
        return _checked(folder, _Restricted(folder / ".metadata").description())
    files = sorted(folder.glob("__*.metadata"), key=lambda file: (len(file.name), file.name))
    if not files:
        raise NotFoundError(f"{folder} has no .metadata: it is no checkpoint of DCP's, or its save never ended")
    entries: dict[str, STORAGE_TYPES] = {}
    paths: dict[str, Any] = {}
    places: dict[MetadataIndex, _StorageInfo] = {}
    for file in files:
        one = _checked(folder, _Restricted(file).description())
        for name, entry in one.state_dict_metadata.items():
            known = entries.setdefault(name, entry)
            if known is entry or not isinstance(known, TensorStorageMetadata):
                continue
            if not isinstance(entry, TensorStorageMetadata) or known.size != entry.size:
                raise InvalidError(f"{file} and the ranks before it disagree on what {name} is", object=str(file))
            # A box that several ranks wrote is read where the first did.
            known.chunks.extend(chunk for chunk in entry.chunks if chunk not in known.chunks)
        for index, place in (one.storage_data or {}).items():
            places.setdefault(index, place)
        paths = {**(one.planner_data or {}), **paths}
    return Metadata(entries, planner_data=paths, storage_data=places)


def _checked(folder: Path, description: Metadata) -> Metadata:
    """Checks that all that is described lies in files of the folder, and puts plain text for the path of each."""
    # By text alone: no method of anything that a pickle made has a say in it.
    root, sizes = os.path.realpath(folder), dict[str, int]()
    for index, place in (description.storage_data or {}).items():
        if type(index) is not MetadataIndex or type(place) is not _StorageInfo:
            raise InvalidError(f"{folder}: {kind_of(place)} is no place of a part of a checkpoint")
        name, text = str(index.fqn), str(place.relative_path)
        file = os.path.realpath(os.path.join(root, text))
        if os.path.commonpath((root, file)) != root:
            raise InvalidError(f"{name} lies at {text!r}, outside of {folder}", object=name)
        if file not in sizes:
            if not os.path.isfile(file):
                raise NotFoundError(f"{folder} has no file {text!r}, in which {name} lies", object=file)
            sizes[file] = os.path.getsize(file)
        numbers = (place.offset, place.length)
        if not all(type(number) is int and number >= 0 for number in numbers) or sum(numbers) > sizes[file]:
            raise IntegrityError(
                f"{file} is not whole: {name} lies at {place.offset!r}, {place.length!r} bytes long",
                object=file,
                expected=f"{sum(numbers)} bytes at least" if all(type(one) is int for one in numbers) else None,
                actual=f"{sizes[file]} bytes",
                hint="copy the folder again from where it was saved",
            )
        place.relative_path = text
    return description


class FolderReader(FileSystemReader):
    """DCP's reader of folders, but for the pickle that describes one."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Describes the folder."""
        with reading(lambda: self.path):
            found = read_description(Path(self.path))
        self.storage_data = found.storage_data or {}
        return found

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads what is planned, and says in which file it was where that goes wrong."""
        self._at = Path(self.path)
        with reading(lambda: self._at):
            return super().read_data(plan, planner)

    def _slice_file(self, file: Any, sinfo: _StorageInfo) -> IO[bytes]:
        self._at = Path(self.path) / sinfo.relative_path
        return super()._slice_file(file, sinfo)
