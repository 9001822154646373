"""What DCP's plan has one rank write: memory of tensors, files of other values, and the ranks that hold the same.

Must never copy a tensor, nor guess what a planner does not say.
"""

from __future__ import annotations

import io

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.planner import SavePlanner, WriteItem
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.placement_types import Replicate

from .._arguments import kind_of
from ..errors import InvalidError
from . import objects
from .memory import PLAIN

__all__ = ["file_of_item", "memory_of_item", "replicas_of"]


def memory_of_item(item: WriteItem, planner: SavePlanner) -> torch.Tensor:
    """Returns the memory of a box of a tensor."""
    found = planner.resolve_data(item)
    if isinstance(found, torch.Tensor) and type(found) in PLAIN:
        return found.detach()
    raise InvalidError(
        f"{item.index.fqn}: {kind_of(found)} is no plain tensor",
        object=item.index.fqn,
        hint="save the tensors that it is made of",
    )


def file_of_item(item: WriteItem, planner: SavePlanner) -> tuple[str, bytes]:
    """Returns path and content of the file for a value that is no tensor."""
    name = item.index.fqn
    # A planner need not know its values by name; what it makes of them is bytes.
    lookup = getattr(planner, "lookup_object", None)
    value = io.BytesIO() if lookup is None else lookup(item.index)
    if not isinstance(value, io.BytesIO):
        try:
            return objects.path_of(name, ".json"), objects.encode(name, value)
        except objects.NotPlain:
            pass
    try:
        found = planner.resolve_data(item)
    except Exception as error:
        text = f"{name}: {kind_of(value)} can't be stored: {error}"
        raise InvalidError(text, object=name, hint="take it out of the state dict, or make it plain data") from error
    assert isinstance(found, io.BytesIO), "DCP's planners resolve values to bytes"
    return objects.path_of(name, ".pt"), found.getvalue()


def replicas_of(planner: SavePlanner, name: str, rank: int, world_size: int) -> list[int]:
    """Returns the ranks that hold the same box of a DTensor; none where that is not known, which costs only bytes."""
    value = getattr(planner, "state_dict", {}).get(name)
    if not isinstance(value, DTensor) or (dist.get_rank(), dist.get_world_size()) != (rank, world_size):
        return []
    mesh, coordinate = value.device_mesh, value.device_mesh.get_coordinate()
    if coordinate is None or not all(isinstance(one, Shard | Replicate) for one in value.placements):
        return []
    # Those that differ only where the tensor is replicated.
    pick = tuple(
        at if isinstance(one, Shard) else slice(None) for at, one in zip(coordinate, value.placements, strict=True)
    )
    ranks: list[int] = mesh.mesh[pick].reshape(-1).tolist()
    return sorted(ranks) if len(ranks) > 1 else []
