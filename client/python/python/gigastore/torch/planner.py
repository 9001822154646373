"""DCP's save planner, for state dicts that may hold themselves: `dcp.save(state, planner=SavePlanner(), …)`.

DCP takes a state dict apart before any writer sees it, by recursion. Must never plan otherwise than DCP does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import StorageMeta

from ..errors import InvalidError

__all__ = ["SavePlanner"]


class SavePlanner(DefaultSavePlanner):
    """DCP's default planner, which names what holds itself, where DCP's own ends in a bare RecursionError."""

    def set_up_planner(
        self, state_dict: dict[str, Any], storage_meta: StorageMeta | None = None, is_coordinator: bool = False
    ) -> None:
        """Takes the state dict apart."""
        try:
            super().set_up_planner(state_dict, storage_meta, is_coordinator)
        except RecursionError as error:
            name, knot = _too_deep(state_dict)
            text = f"{name} holds itself: a state dict has no cycles" if knot else f"{name} is nested too deeply"
            hint = "save its parts, and tie them when they are loaded" if knot else "flatten it"
            raise InvalidError(text, object=name, hint=hint) from error


def _too_deep(state_dict: Mapping[str, Any]) -> tuple[str, bool]:
    """Returns the name of the first value that holds itself and `True`, else that of the deepest and `False`."""
    deepest: list[str] = []
    names: list[str] = []
    # From the outside in, without recursion: containers that we are in, and what of them was not looked at.
    above = {id(state_dict)}
    inside: list[tuple[int, Iterator[tuple[Any, Any]]]] = [(id(state_dict), _items(state_dict))]
    seen: set[int] = set()
    while inside:
        container, items = inside[-1]
        for key, value in items:
            if id(value) in above:
                return ".".join([*names, str(key)]), True
            if isinstance(value, Mapping | list | tuple) and id(value) not in seen:
                names.append(str(key))
                deepest = max(deepest, names, key=len).copy()
                above.add(id(value))
                inside.append((id(value), _items(value)))
                break
        else:
            inside.pop()
            above.discard(container)
            seen.add(container)
            del names[-1:]
    return ".".join(deepest[:3]), False


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    return iter(value.items() if isinstance(value, Mapping) else enumerate(value))
