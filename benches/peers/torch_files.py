"""torch.save and torch.load, as they are and mapped; what was loaded is copied into the trainer's tensors."""

import files
import torch


def prepare(verb, work):
    return files.place(verb, work) / "state.pt"


def save(tensors, kept, path):
    torch.save(tensors, path)
    files.sync(path)


def load(tensors, kept, path):
    fill(kept, torch.load(path, weights_only=True))


def load_mmap(tensors, kept, path):
    fill(kept, torch.load(path, weights_only=True, mmap=True))


def fill(kept, loaded):
    for name, tensor in loaded.items():
        kept[name].copy_(tensor)
