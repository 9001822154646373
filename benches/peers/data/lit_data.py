"""LitData: its TokensLoader on chunks that it wrote, shuffled; batches are stacked here, faster than by its loader."""

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


def batches(corpus, work, epoch):
    folder = str(pathlib.Path(work) / "litdata")
    dataset = litdata.StreamingDataset(folder, item_loader=TokensLoader(SEQ_LEN), shuffle=True, seed=epoch)
    samples = []
    for sample in dataset:
        samples.append(sample)
        if len(samples) == BATCH_SIZE:
            yield torch.stack(samples).to(torch.int64)
            samples = []
