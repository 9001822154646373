"""LitData as it is documented: its TokensLoader on chunks that it wrote, shuffled, under its StreamingDataLoader."""

import functools
import pathlib
import shutil

import litdata
import source
import torch
from litdata.streaming.item_loader import TokensLoader
from source import BATCH_SIZE, SEQ_LEN

# 64 MiB, its own default.
CHUNK_TOKENS = 32 << 20


def documents(folder, _):
    for document in source.Corpus(folder).documents():
        yield torch.from_numpy(document.copy())


def make(corpus, work):
    folder = pathlib.Path(work) / "litdata"
    if (folder / "index.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    litdata.optimize(
        fn=functools.partial(documents, str(corpus.folder)),
        inputs=[0],
        output_dir=str(folder),
        num_workers=1,
        chunk_size=CHUNK_TOKENS,
        item_loader=TokensLoader(SEQ_LEN),
    )


def samples(work, epoch):
    folder = str(pathlib.Path(work) / "litdata")
    return litdata.StreamingDataset(
        folder, item_loader=TokensLoader(SEQ_LEN), shuffle=True, drop_last=True, seed=epoch
    )


def batches(corpus, work, epoch):
    for batch in litdata.StreamingDataLoader(samples(work, epoch), batch_size=BATCH_SIZE, num_workers=0, drop_last=True):
        yield batch.to(torch.int64)
