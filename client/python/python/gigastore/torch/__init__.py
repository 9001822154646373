"""PyTorch's distributed checkpoints (DCP) in a store: DTensor, FSDP2, optimizers, any world size on load.

    import torch.distributed.checkpoint as dcp
    from gigastore.torch import StorageReader, StorageWriter

    writer = StorageWriter("file:///tmp/store")                       # keep it: so it keeps its memory
    dcp.save(state, storage_writer=writer, checkpoint_id="demo/run@100")
    future = dcp.async_save(state, storage_writer=writer, checkpoint_id="demo/run@200")
    dcp.load(state, storage_reader=StorageReader("file:///tmp/store", "demo/run"))

Tensors and metadata are read without a pickle. `import_dcp` and `export_dcp` turn folders of DCP's own into checkpoints
and back; `python -m gigastore.torch --help` does the same on the command line. A state dict that holds itself is named
by `async_save`, and by `save` with `planner=SavePlanner()`. Must never need torch where `gigastore` alone is imported.
"""

from .command import main
from .convert import export_dcp, import_dcp
from .planner import SavePlanner
from .reader import StorageReader
from .staging import Staging
from .writer import StorageWriter

__all__ = ["SavePlanner", "Staging", "StorageReader", "StorageWriter", "export_dcp", "import_dcp", "main"]
