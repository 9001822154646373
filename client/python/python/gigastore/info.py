"""What a store tells of itself: commits, names, differences, what a verification found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CommitInfo", "Diff", "Finding", "NameInfo", "VerifyReport", "commit_info", "committed", "report"]


@dataclass(frozen=True)
class CommitInfo:
    """A committed checkpoint, or version of a dataset."""

    target: str
    number: int
    seq: int
    #: Milliseconds since 1970 at the writer.
    time: int
    tags: tuple[str, ...]
    content: str
    bytes: int
    #: Whether a save found the step committed already, with the same content.
    existed: bool = False


@dataclass(frozen=True)
class NameInfo:
    """A run (of checkpoints) or a dataset, with what is live of it, oldest first."""

    name: str
    kind: str
    live: tuple[CommitInfo, ...]


@dataclass(frozen=True)
class Diff:
    """What two checkpoints do not have in common, by names of tensors and files."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: int
    #: By names of data streams: "same" where both had seen the same tokens at the same positions, "differs" where they had
    #: not after as many samples, "apart" where they are at other samples, "added", "removed".
    streams: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    object: str
    affects: tuple[str, ...]
    range: tuple[int, int] | None
    problem: str


@dataclass(frozen=True)
class VerifyReport:
    """What a verification looked at, and found."""

    commits: int
    objects: int
    bytes_read: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Tells whether everything is as it should be."""
        return not self.findings


def commit_info(target: str, info: dict[str, Any], existed: bool = False) -> CommitInfo:
    """Describes a commit, from what the native part tells of it."""
    commit = info["commit"]
    named = f"{target.removeprefix('gigastore://').partition('@')[0]}@{commit['number']}"
    tags = tuple(info["tags"])
    return CommitInfo(
        named, commit["number"], info["seq"], info["time"], tags, commit["content"], commit["bytes"], existed
    )


def committed(target: str, text: str) -> CommitInfo:
    """Describes what a save committed, from the text of the native part."""
    found = json.loads(text)
    return commit_info(target, found["info"], found["existed"])


def report(text: str) -> VerifyReport:
    """Describes what a verification found, from the text of the native part."""
    found = json.loads(text)
    findings = tuple(
        Finding(one["object"], tuple(one["affects"]), one["range"] and tuple(one["range"]), one["problem"])
        for one in found["findings"]
    )
    return VerifyReport(found["commits"], found["objects"], found["bytes_read"], findings)
