"""What checkpoints and datasets have in common: they are what one record of the log committed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from .info import CommitInfo, commit_info

if TYPE_CHECKING:
    from .store import Store

__all__ = ["Committed"]


class _Native(Protocol):
    @property
    def info(self) -> str: ...


class Committed:
    """Something that is bound to the record that committed it: what a tag means may change, this does not."""

    def __init__(self, store: Store, target: str, native: _Native) -> None:
        self._store, self._described = store, native
        #: Which step or version it is: "project/name@number".
        self.target = commit_info(target, json.loads(native.info)).target

    @property
    def info(self) -> CommitInfo:
        """Its commit."""
        return commit_info(self.target, json.loads(self._described.info))
