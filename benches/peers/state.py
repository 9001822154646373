"""The state that the bench wrote, as tensors; the memory that a trainer would load it into."""

import json
import pathlib

import numpy
import torch

DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32}


def read(folder):
    """Returns the tensors by name, each in memory of its own."""
    folder = pathlib.Path(folder)
    memory = torch.from_numpy(numpy.fromfile(folder / "state.bin", dtype=numpy.uint8))
    tensors, at = {}, 0
    for entry in json.loads((folder / "state.json").read_text()):
        dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
        end = at + dtype.itemsize * int(numpy.prod(shape))
        tensors[entry["name"]] = memory[at:end].view(dtype).reshape(shape).clone()
        at = end
    return tensors


def buffers(tensors):
    """Returns memory as large as the tensors, each page of it there already."""
    return {name: torch.ones_like(tensor) for name, tensor in tensors.items()}


def compare(tensors, kept):
    """Raises where a tensor is not what was saved, bit for bit (numbers that are none are unequal to themselves)."""
    for name, tensor in tensors.items():
        if not torch.equal(tensor.view(torch.uint8), kept[name].view(torch.uint8)):
            raise ValueError(f"{name} was loaded with other bytes")
