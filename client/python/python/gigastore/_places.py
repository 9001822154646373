"""What paths of the file system mean: a project, a name, a version of it, and a file or folder in there.

A version that a path was bound to is kept, whatever its tag means later. Must never read a byte unverified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .checkpoint import Checkpoint
from .dataset import Dataset
from .errors import InvalidError, NotFoundError, meant
from .info import CommitInfo

__all__ = ["BoundFile", "FileMissingError", "FolderError", "Place", "Version", "described", "missing"]

#: Bytes of a file and, where the store knows it, its BLAKE3.
File = tuple[int, str | None]


class FileMissingError(NotFoundError, FileNotFoundError):
    """There is no such file or folder; also a FileNotFoundError, which readers of file systems look for."""


class FolderError(InvalidError, IsADirectoryError):
    """A folder is no file; also an IsADirectoryError."""


@dataclass(frozen=True)
class Place:
    """A path, taken apart: what is not there is empty, a selector that is left out is `None`."""

    project: str
    name: str
    selector: str | None
    inside: str

    @classmethod
    def of(cls, path: str) -> Place:
        """Takes a path apart: project/name@selector/path/inside."""
        project, _, rest = path.strip("/").partition("/")
        named, _, inside = rest.partition("/")
        name, at, selector = named.partition("@")
        return cls(project, name, selector if at else None, inside)

    @property
    def version(self) -> str:
        """The path that all paths of the same version begin with."""
        named = f"{self.project}/{self.name}" if self.name else self.project
        return named if self.selector is None else f"{named}@{self.selector}"

    @property
    def in_version(self) -> bool:
        """Whether it lies in a version; else it is the root, a project, or the list of a name's selectors."""
        return bool(self.name) and self.selector != ""


class Version:
    """A checkpoint or a version of a dataset, and what lies in it."""

    def __init__(self, opened: Checkpoint | Dataset) -> None:
        self.opened, self.info = opened, opened.info
        self.files: Mapping[str, File] = (
            {path: (info.bytes, info.blake3) for path, info in opened.files.items()}
            if isinstance(opened, Dataset)
            else {path: (size, None) for path, size in opened.files.items()}
        )

    def below(self, folder: str, maxdepth: int | None = None) -> dict[str, File | None]:
        """Returns what lies in a folder and those in it, down to a depth, by its path; folders as `None`."""
        prefix = f"{folder}/" if folder else ""
        found: dict[str, File | None] = {}
        for path, file in self.files.items():
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts)):
                if maxdepth is None or depth <= maxdepth:
                    found[prefix + "/".join(parts[:depth])] = None
            if maxdepth is None or len(parts) <= maxdepth:
                found[path] = file
        return dict(sorted(found.items()))

    def entries(self, place: Place, maxdepth: int | None = None) -> list[dict[str, Any]]:
        """Describes what lies in a folder and those in it, down to a depth, named as `place` names the folder."""
        return [self._entry(place, path, file) for path, file in self.below(place.inside, maxdepth).items()]

    def entry(self, place: Place) -> dict[str, Any]:
        """Describes a file or folder as file systems do."""
        inside = place.inside
        file = self.files.get(inside)
        if inside and file is None and not self.below(inside, 1):
            known = list(self.below(inside.rpartition("/")[0], 1))
            raise missing(f"{place.version}/{inside}", known, hint=meant(inside, known))
        return self._entry(place, inside, file)

    def _entry(self, place: Place, inside: str, file: File | None) -> dict[str, Any]:
        folder = described(f"{place.version}/{inside}" if inside else place.version, self.info)
        if file is None:
            return folder
        size, blake3 = file
        return {**folder, "type": "file", "size": size, **({} if blake3 is None else {"blake3": blake3})}


class BoundFile:
    """A file of one version, whatever its path means later."""

    def __init__(self, place: Place, version: Version) -> None:
        self.entry = version.entry(place)
        if self.entry["type"] == "directory":
            raise FolderError(f"{self.entry['name']} is a folder", hint="ls lists what is in it")
        self._opened, self._inside = version.opened, place.inside
        self.size: int = self.entry["size"]
        #: A path that means this version for ever.
        self.path = f"{version.info.target}/{place.inside}"

    def read(self, start: int | None, end: int | None) -> bytes:
        """Reads a range; negative numbers count from the end, and what lies past it is not there."""
        first, last, _ = slice(start, end).indices(self.size)
        return self._opened.read_file(self._inside, first, last) if first < last else b""


def described(name: str, info: CommitInfo | None = None) -> dict[str, Any]:
    """Describes a folder, and of which version it is."""
    entry: dict[str, Any] = {"name": name, "size": 0, "type": "directory"}
    if info is not None:
        entry.update(mtime=info.time / 1000, target=info.target, content=info.content, tags=list(info.tags))
    return entry


def missing(path: str, known: Sequence[str], *, hint: str | None) -> FileMissingError:
    """Returns the error of a path that is not there."""
    return FileMissingError(f"there is no {path}", known=known, hint=hint)
