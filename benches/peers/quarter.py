"""What one rank of four loads of a state that one rank saved: its rows of every tensor, as DTensors."""

import time

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

RANKS, RANK = 4, 1

kept = None


def load(tensors, into):
    """Times `into`, which fills a state of DTensors; the memory of the first call is used again. Returns seconds."""
    global kept
    if kept is None:
        # The other ranks are not there, and nobody asks them.
        dist.init_process_group("fake", rank=RANK, world_size=RANKS, store=FakeStore())
        mesh = init_device_mesh("cpu", (RANKS,))
        kept = {name: share(tensor, mesh) for name, tensor in tensors.items() if tensor.shape[0] >= RANKS}
    for tensor in kept.values():
        tensor.to_local().zero_()
    started = time.perf_counter()
    into(kept)
    seconds = time.perf_counter() - started
    for name, tensor in kept.items():
        expected = tensors[name].chunk(RANKS)[RANK]
        if not torch.equal(tensor.to_local().view(torch.uint8), expected.view(torch.uint8)):
            raise ValueError(f"the rows of {name} were loaded with other bytes")
    return seconds


def share(tensor, mesh):
    """Returns memory for the rank's rows of a tensor, each page of it there already."""
    local = torch.ones_like(tensor.chunk(RANKS)[RANK])
    shape, stride = tensor.shape, tensor.stride()
    return DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)
