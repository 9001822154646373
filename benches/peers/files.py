"""What the peers that save to files share: a new place for each save, and files that survive a power cut."""

import os
import pathlib
import shutil


def place(verb, work):
    """Returns the folder to save to, emptied, or to load from."""
    folder = pathlib.Path(work)
    if verb == "save":
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    return folder


def sync(path):
    """Makes a file and its name durable, as we do."""
    for one in (path, path.parent):
        descriptor = os.open(one, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
