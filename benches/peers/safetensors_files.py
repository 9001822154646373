"""safetensors save_file and load_file; what was loaded is copied into the trainer's tensors."""

import files
from safetensors.torch import load_file, save_file


def prepare(verb, work):
    return files.place(verb, work) / "state.safetensors"


def save(tensors, kept, path):
    save_file(tensors, path)
    files.sync(path)


def load(tensors, kept, path):
    for name, tensor in load_file(path).items():
        kept[name].copy_(tensor)
