"""The description of a checkpoint that DCP itself wrote into a folder: a pickle, read without running what it names.

Must never look a name up that is not on the list below: whoever can write the file could else run any code here.
"""

from __future__ import annotations

import collections
import io
import pathlib
import pickle
from pathlib import Path, PurePath
from typing import Any

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
from torch.serialization import _get_layout

from ..errors import InvalidError, NotFoundError

__all__ = ["FolderReader", "read_description"]

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


class _Restricted(pickle.Unpickler):
    """Makes what a description is made of, and nothing else."""

    def __init__(self, file: Path) -> None:
        super().__init__(io.BytesIO(file.read_bytes()))
        self._file = file

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
            raise InvalidError(f"{self._file} holds a {type(found).__qualname__}, expected DCP's Metadata")
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
    """Checks that all that is described lies in files of the folder."""
    for index, place in (description.storage_data or {}).items():
        path = PurePath(place.relative_path)
        if path.is_absolute() or ".." in path.parts:
            raise InvalidError(f"{index.fqn} lies at {place.relative_path!r}, outside of {folder}", object=index.fqn)
    return description


class FolderReader(FileSystemReader):
    """DCP's reader of folders, but for the pickle that describes one."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Describes the folder."""
        found = read_description(Path(self.path))
        self.storage_data = found.storage_data or {}
        return found
