"""Cursors of data streams: what a save takes as its `data`, and keeps in the same record as the tensors.

Must never look into a cursor: what it says is the business of the stream that made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ._arguments import kind_of, text
from .errors import InvalidError

__all__ = ["DEFAULT", "Data", "HasCursor", "cursors_of"]

#: What a stream is called whose name is not given.
DEFAULT = "data"


class HasCursor(Protocol):
    """Something that reads data, such as a stream, and can say where it is."""

    def cursor(self) -> str:
        """Returns where it is, as JSON, with what was seen by this rank until there."""
        ...


#: One stream, or several by name. A text is the JSON of a cursor itself.
Data = HasCursor | str | Mapping[str, HasCursor | str]


def cursors_of(data: Any) -> dict[str, str]:
    """Asks streams where they are now: cursors as JSON by the names of the streams, none where there is no stream."""
    if data is None:
        return {}
    streams = data if isinstance(data, Mapping) else {DEFAULT: data}
    return {text("the name of a data stream", name): _cursor(name, one) for name, one in streams.items()}


def _cursor(name: str, stream: Any) -> str:
    if isinstance(stream, str):
        return text(f"the cursor of {name!r}", stream)
    asked = getattr(stream, "cursor", None)
    if not callable(asked):
        hint = "expected a stream, a mapping of names to streams, or anything else with cursor() -> str"
        raise InvalidError(f"data: {name!r} is {kind_of(stream)}, which can't say where it is", hint=hint)
    return text(f"what cursor() of {name!r} returned", asked())
