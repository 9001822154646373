"""How long `dcp.async_save` stops its caller; what it does afterwards is waited for, and not counted."""

import time

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.testing._internal.distributed.fake_pg import FakeStore


def stall(tensors, **how):
    """Returns the seconds until the caller may go on."""
    if not dist.is_initialized():
        dist.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    started = time.perf_counter()
    saved = dcp.async_save(tensors, no_dist=True, **how)
    seconds = time.perf_counter() - started
    saved.result()
    return seconds
