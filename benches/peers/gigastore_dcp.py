"""Gigastore under PyTorch's distributed checkpoint, one rank, into and out of a store in a folder."""

import files
import quarter
import torch.distributed.checkpoint as dcp
from gigastore.torch import StorageReader, StorageWriter

TARGET = "bench/run@1"


def prepare(verb, work):
    return f"file://{files.place(verb, work)}"


def save(tensors, kept, url):
    dcp.save(tensors, checkpoint_id=TARGET, storage_writer=StorageWriter(url), no_dist=True)


def load(tensors, kept, url):
    dcp.load(kept, checkpoint_id=TARGET, storage_reader=StorageReader(url), no_dist=True)


def load_quarter(tensors, kept, url):
    return quarter.load(tensors, lambda state: load(tensors, state, url))
