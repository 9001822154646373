"""PyTorch's distributed checkpoint, one rank, to files; it syncs them itself and loads into the trainer's tensors."""

import files
import quarter
import torch.distributed.checkpoint as dcp


def prepare(verb, work):
    return files.place(verb, work)


def save(tensors, kept, folder):
    # A thread for each core of the machine that these were first measured on.
    dcp.save(tensors, storage_writer=dcp.FileSystemWriter(folder, sync_files=True, thread_count=2), no_dist=True)


def load(tensors, kept, folder):
    dcp.load(kept, storage_reader=dcp.FileSystemReader(folder), no_dist=True)


def load_quarter(tensors, kept, folder):
    return quarter.load(tensors, lambda state: load(tensors, state, folder))
