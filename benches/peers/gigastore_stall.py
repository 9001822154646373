"""Gigastore under PyTorch's `async_save`, with one writer that is kept, and with it its staging memory."""

import itertools

import files
import stalls
from gigastore.torch import StorageWriter

steps = itertools.count(1)
writer = None


def prepare(verb, work):
    global writer
    if writer is None:
        writer = StorageWriter(f"file://{files.place('save', work)}")


def stall(tensors, kept, _):
    return stalls.stall(tensors, checkpoint_id=f"bench/run@{next(steps)}", storage_writer=writer)
