"""Gigastore: the sharded checkpoint and dataset store, every byte verified.

    import gigastore

    store = gigastore.Store("file:///tmp/store")
    store.save("demo/run", 100, {"w": w}, tag="best")          # torch or numpy; Slice(...) for one rank's box
    state = store.checkpoint("demo/run@best").load()           # numpy, or torch with device="cpu"

Training data: `gigastore.data.Stream`. Adapters: `gigastore.torch` (DCP, FSDP2), `gigastore.safetensors`,
`gigastore.jax`, and `gigastore://` paths for fsspec.
"""

from . import data
from ._native import Memory, __version__
from .checkpoint import Checkpoint, TensorInfo
from .dataset import Dataset, FileInfo
from .errors import (
    AuthError,
    CommitStateUnknownError,
    ConflictError,
    GigastoreError,
    GoneError,
    IntegrityError,
    InvalidError,
    MissingRanksError,
    NotFoundError,
    StoreWriteError,
    UnavailableError,
)
from .info import CommitInfo, Diff, Finding, NameInfo, VerifyReport
from .store import PendingSave, Store
from .tensors import Slice

__all__ = [
    "AuthError",
    "Checkpoint",
    "CommitInfo",
    "CommitStateUnknownError",
    "ConflictError",
    "Dataset",
    "Diff",
    "FileInfo",
    "Finding",
    "GigastoreError",
    "GoneError",
    "IntegrityError",
    "InvalidError",
    "Memory",
    "MissingRanksError",
    "NameInfo",
    "NotFoundError",
    "PendingSave",
    "Slice",
    "Store",
    "StoreWriteError",
    "TensorInfo",
    "UnavailableError",
    "VerifyReport",
    "__version__",
    "data",
]
