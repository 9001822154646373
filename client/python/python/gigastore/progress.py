"""Who is told how far a transfer is: a callable, or a bar of tqdm's kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ._arguments import kind_of
from .errors import InvalidError

__all__ = ["Bar", "Progress", "callable_of"]


class Bar(Protocol):
    """A bar that goes on by steps, such as tqdm's."""

    total: Any

    def update(self, n: int, /) -> object:
        """Goes on by `n` bytes."""


#: Is called about ten times a second with bytes done, bytes in all, and bytes moved to or from the store; or a bar,
#: which gets the bytes in all as its `total`, and is updated by those done.
Progress = Callable[[int, int, int], object] | Bar


def callable_of(progress: Progress | None) -> Callable[[int, int, int], object] | None:
    """Returns what the native part calls."""
    if progress is None or callable(progress):
        return progress
    if not hasattr(progress, "update") or not hasattr(progress, "total"):
        text = f"progress is {kind_of(progress)}"
        raise InvalidError(text, hint="expected a callable of three numbers, or a bar such as tqdm(unit='B')")
    bar, shown = progress, 0

    def tell(done: int, total: int, moved: int) -> None:
        nonlocal shown
        bar.total = total
        bar.update(done - shown)
        shown = done

    return tell
