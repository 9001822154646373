"""A read-only file system over the files of checkpoints and datasets, for whatever reads through fsspec.

`gigastore://project/name@selector/path`: the selector is a step, a version or a tag, and may be left out for what was
committed last. Every byte is verified. Must never hand out bytes of two versions through one open file, nor write.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NoReturn

import fsspec  # type: ignore[import-untyped]
from fsspec.callbacks import DEFAULT_CALLBACK, Callback  # type: ignore[import-untyped]
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem  # type: ignore[import-untyped]
from fsspec.utils import glob_translate, isfilelike  # type: ignore[import-untyped]

from ._places import BoundFile, FileMissingError, FolderError, Place, Version, described, missing
from .errors import InvalidError, NotFoundError, StoreWriteError, meant
from .store import Store

__all__ = ["FileMissingError", "FolderError", "GigastoreFile", "GigastoreFileSystem"]

_PATTERN = re.compile(r"[*?\[]")
# A block is what is read at least: four groups.
_BLOCK = 1 << 20
# What a copy to the local disk reads at once; the native part reads its groups in parallel.
_COPY = 32 << 20
# Ranges that are read at the same time; each of them may be several requests already.
_RANGES = 8
# Versions whose manifests are kept; a reader of a dataset asks for one again and again.
_VERSIONS = 64


class GigastoreFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Files of a store, read-only: `fsspec.filesystem("gigastore", store="file:///tmp/store")`.

    `store` is a `Store` or a URL, else `GIGASTORE_STORE` has it; `token` is for a service, else `GIGASTORE_TOKEN` is.

    A folder without a selector is what was committed last when it is asked for: an open file stays with the version it
    began with, but two files may come from two versions. `project/name@` lists steps, versions and tags.
    """

    protocol = "gigastore"

    def __init__(self, store: Store | str | None = None, token: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._given, self._token = store, token
        # By store, token, target and content: the environment may name another store than it did.
        self._versions: dict[tuple[str, ...], Version] = {}
        self._lock = threading.Lock()

    @property
    def fsid(self) -> str:
        """What tells this file system from others."""
        return f"gigastore_{self.store.url}"

    @property
    def store(self) -> Store:
        """The store that is read."""
        if isinstance(self._given, Store):
            return self._given
        # The environment is looked at each time: instances are kept by fsspec for as long as the process lives.
        url = self._given or os.environ.get("GIGASTORE_STORE")
        if not url:
            raise InvalidError("no store is named", hint='storage_options={"store": URL}, or GIGASTORE_STORE=URL')
        return _opened(url, self._token or os.environ.get("GIGASTORE_TOKEN"))

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """Lists projects, the names of a project, the selectors of `project/name@`, or files and folders."""
        place = self._place(path)
        if place.in_version:
            version = self._version(place)
            entry = version.entry(place)
            entries = version.entries(place, 1) if entry["type"] == "directory" else [entry]
        else:
            entries = list(self._listed(place))
        return entries if detail else [entry["name"] for entry in entries]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Describes a file or folder: `name`, `size`, `type`; of a version `target`, `mtime` and `tags`; and of a file
        that lies in a dataset its `blake3`."""
        place = self._place(path)
        if place.in_version:
            return self._version(place).entry(place)
        if place.project:
            # Raises where it is not there.
            next(self._listed(place), None)
        return described(place.version)

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Tells whether there is such a file or folder. A store that does not answer is an error, not an absence."""
        return self._type(path) is not None

    def isdir(self, path: str) -> bool:
        """Tells whether it is a folder."""
        return self._type(path) == "directory"

    def isfile(self, path: str) -> bool:
        """Tells whether it is a file."""
        return self._type(path) == "file"

    def ukey(self, path: str) -> str:
        """Returns what changes when the content of a file may have: the content of its version, and its path there."""
        return f"{self.info(path).get('content')}:{self._place(path).inside}"

    def modified(self, path: str) -> datetime:
        """Returns when its version was committed."""
        return datetime.fromtimestamp(self.info(path).get("mtime", 0), UTC)

    created = modified

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **kwargs: Any
    ) -> Any:
        """Lists all files below a folder, which are of one version where it lies in one."""
        place = self._place(path)
        if not place.in_version:
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **kwargs)
        try:
            version = self._version(place)
            found = [version.entry(place), *version.entries(place, maxdepth)]
        except FileMissingError:
            # As `find` of other file systems does.
            return {} if detail else []
        entries = {entry["name"]: entry for entry in found if withdirs or entry["type"] == "file"}
        return entries if detail else list(entries)

    def glob(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> Any:
        """Finds what matches a pattern; `project/name@*/…` goes through the steps, versions and tags of names."""
        path = self._strip_protocol(path)
        project, _, rest = path.partition("/")
        component, slash, inside = rest.partition("/")
        if "@" not in component or not _PATTERN.search(component) or _PATTERN.search(project):
            return super().glob(path, maxdepth=maxdepth, **kwargs)
        found: dict[str, Any] = {}
        matches = re.compile(glob_translate(component)).match
        for name in self.ls(project, detail=False):
            versions = [one for one in self.ls(f"{name}@") if matches(one["name"].removeprefix(f"{project}/"))]
            for version in versions:
                if slash:
                    options = {**kwargs, "detail": True}
                    found.update(super().glob(f"{version['name']}/{inside}", maxdepth=maxdepth, **options))
                else:
                    found[version["name"]] = version
        return found if kwargs.get("detail") else sorted(found)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Reads a file or a range of it; negative numbers count from its end."""
        return self._bound(path).read(start, end)

    def cat_ranges(
        self,
        paths: list[str],
        starts: Sequence[int | None] | int | None,
        ends: Sequence[int | None] | int | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[Any]:
        """Reads ranges at the same time; those of one path are of one version. Gaps between them are not read, whatever
        `max_gap` is."""
        first = starts if isinstance(starts, Sequence) else [starts] * len(paths)
        last = ends if isinstance(ends, Sequence) else [ends] * len(paths)
        if not len(paths) == len(first) == len(last):
            raise InvalidError(f"{len(paths)} paths, {len(first)} starts and {len(last)} ends")
        bound: dict[str, BoundFile | Exception] = {}
        for path in set(paths):
            try:
                bound[path] = self._bound(path)
            except Exception as error:
                bound[path] = error

        def read(path: str, start: int | None, end: int | None) -> Any:
            file = bound[path]
            try:
                if isinstance(file, Exception):
                    raise file
                return file.read(start, end)
            except Exception as error:
                if on_error == "return":
                    return error
                raise

        with ThreadPoolExecutor(max_workers=_RANGES) as pool:
            return list(pool.map(read, paths, first, last))

    def get_file(
        self, rpath: str, lpath: Any = None, callback: Callback = DEFAULT_CALLBACK, outfile: Any = None, **kwargs: Any
    ) -> None:
        """Copies a file to the local disk, where it appears when it is complete."""
        outfile = lpath if outfile is None and isfilelike(lpath) else outfile
        if outfile is None and self.isdir(rpath):
            os.makedirs(lpath, exist_ok=True)
            return
        file = self._bound(rpath)
        callback.set_size(file.size)
        if outfile is not None:
            _copy(file, outfile, callback)
            return
        os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
        unfinished = f"{os.fspath(lpath)}.{os.getpid()}.{threading.get_ident()}.part"
        try:
            with open(unfinished, "wb") as out:
                _copy(file, out, callback)
            os.replace(unfinished, lpath)
        except BaseException:
            if os.path.exists(unfinished):
                os.remove(unfinished)
            raise

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> GigastoreFile:
        if mode != "rb":
            self._refuse(path)
        kwargs.pop("size", None)
        return GigastoreFile(self, path, self._bound(path), block_size=block_size or _BLOCK, **kwargs)

    def _refuse(self, path: Any = "", *_: Any, **__: Any) -> NoReturn:
        raise StoreWriteError(
            f"{path}: files of a store are not written one by one",
            code="read_only",
            hint="save checkpoints with gigastore.Store.save, push datasets with `gigastore data push`",
        )

    mkdir = makedirs = rmdir = rm = rm_file = _rm = cp_file = mv = touch = pipe_file = put_file = _refuse

    def _place(self, path: str) -> Place:
        return Place.of(self._strip_protocol(path))

    def _type(self, path: str) -> str | None:
        try:
            found: str = self.info(path)["type"]
        except FileMissingError:
            return None
        return found

    def _bound(self, path: str) -> BoundFile:
        """Binds a path of a file to the version that it means now."""
        place = self._place(path)
        if not place.in_version:
            self.info(path)
            raise FolderError(f"{path} is a folder", hint="ls lists what is in it")
        return BoundFile(place, self._version(place))

    def _version(self, place: Place) -> Version:
        """Binds a path to the version that it means now."""
        store = self.store
        try:
            info = store.resolve(place.version)
            key = (store.url, store._identity, info.target, info.content)
            with self._lock:
                found = self._versions.get(key)
            if found is None:
                try:
                    found = Version(store.checkpoint(info.target))
                except InvalidError:
                    # Names of runs and of datasets look the same: it is a dataset.
                    found = Version(store.dataset(info.target))
        except NotFoundError as error:
            raise missing(place.version, error.known, hint=error.hint) from error
        except InvalidError as error:
            # What can't be a name is not there: readers try paths of all kinds.
            raise FileMissingError(f"there is no {place.version}: {error.message}", hint=error.hint) from error
        with self._lock:
            self._versions[key] = found
            while len(self._versions) > _VERSIONS:
                del self._versions[next(iter(self._versions))]
        return found

    def _listed(self, place: Place) -> Iterator[dict[str, Any]]:
        """Lists the root, a project, or what a name can be followed by."""
        if not place.project:
            yield from (described(project) for project in self.store.projects())
            return
        try:
            names = self.store.list(place.project)
        except (NotFoundError, InvalidError) as error:
            told = f"there is no project {place.project!r}"
            raise FileMissingError(told, known=error.known, hint=error.hint) from error
        if not place.name:
            yield from (described(f"{place.project}/{name.name}") for name in names)
            return
        live = [one for name in names if name.name == place.name for one in name.live]
        if not live:
            known = [name.name for name in names]
            raise missing(place.version, known, hint=meant(place.name, known))
        for info in live:
            for selector in (str(info.number), *info.tags):
                yield described(f"{place.project}/{place.name}@{selector}", info)


class GigastoreFile(AbstractBufferedFile):  # type: ignore[misc]
    """An open file: a version is chosen when it is opened, and kept, also by a pickled copy in another process."""

    def __init__(self, fs: GigastoreFileSystem, path: str, bound: BoundFile, **kwargs: Any) -> None:
        self._bound = bound
        self._details = bound.entry
        super().__init__(fs, path, "rb", size=bound.size, **kwargs)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self._bound.read(start, end)

    def __reduce__(self) -> tuple[Any, ...]:
        name = self.cache.name if self.cache else "none"
        return _reopened, (self.fs, self._bound.path, self.loc, self.blocksize, name)


def _reopened(fs: GigastoreFileSystem, path: str, at: int, block_size: int, cache_type: str) -> GigastoreFile:
    file: GigastoreFile = fs.open(path, "rb", block_size=block_size, cache_type=cache_type)
    file.seek(at)
    return file


@lru_cache(maxsize=16)
def _opened(url: str, token: str | None) -> Store:
    # Shared by the instances that fsspec makes for each thread, for they share connections then.
    return Store(url, token, create=False)


def _copy(file: BoundFile, out: Any, callback: Callback) -> None:
    for start in range(0, file.size, _COPY):
        callback.relative_update(out.write(file.read(start, start + _COPY)))


# The entry point of the package says the same; this serves code that imports the module from a source tree.
fsspec.register_implementation("gigastore", GigastoreFileSystem, clobber=True)
