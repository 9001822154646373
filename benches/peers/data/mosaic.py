"""MosaicML Streaming: MDS of packed samples, shuffled, under a DataLoader without workers."""

import pathlib
import shutil

import streaming
import torch
from source import BATCH_SIZE, SEQ_LEN
from torch.utils.data import DataLoader

kept = None


def make(corpus, work):
    global kept
    folder = pathlib.Path(work) / "mds"
    if not (folder / "index.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        with streaming.MDSWriter(out=str(folder), columns={"tokens": f"ndarray:uint16:{SEQ_LEN}"}) as writer:
            for sample in corpus.samples():
                writer.write({"tokens": sample})
    streaming.base.util.clean_stale_shared_memory()
    kept = streaming.StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH_SIZE)


def batches(corpus, work, epoch):
    # Each iteration is its next epoch, in another order.
    for batch in DataLoader(kept, batch_size=BATCH_SIZE, drop_last=True):
        yield batch["tokens"].to(torch.int64)
