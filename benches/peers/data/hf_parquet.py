"""Hugging Face datasets, streaming Parquet: a shuffle buffer of documents, concatenated and cut in the loop."""

import datasets
import numpy
import torch
from source import BATCH_SIZE, SEQ_LEN

BUFFERED = 1_000
# Documents asked for at once; one at a time is slower by half.
TAKEN = 1_000


def make(corpus, work):
    pass


def batches(corpus, work, epoch):
    files = [str(path) for path in corpus.files]
    dataset = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True, columns=["tokens"])
    dataset = dataset.shuffle(seed=epoch, buffer_size=BUFFERED).with_format("numpy")
    batch = numpy.empty(BATCH_SIZE * SEQ_LEN, dtype=numpy.int64)
    at = 0
    for tokens in (document for taken in dataset.iter(TAKEN) for document in taken["tokens"]):
        while len(tokens) > 0:
            taken = tokens[: len(batch) - at]
            batch[at : at + len(taken)] = taken
            at, tokens = at + len(taken), tokens[len(taken) :]
            if at == len(batch):
                yield torch.from_numpy(batch.reshape(BATCH_SIZE, SEQ_LEN))
                batch, at = numpy.empty(BATCH_SIZE * SEQ_LEN, dtype=numpy.int64), 0
