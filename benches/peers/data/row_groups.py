"""Plain pyarrow: row groups in shuffled order, concatenated and cut; the samples of each are shuffled."""

import numpy
import pyarrow.parquet
import torch
from source import BATCH_SIZE, SEQ_LEN


def make(corpus, work):
    pass


def batches(corpus, work, epoch):
    rng = numpy.random.default_rng(epoch)
    files = [pyarrow.parquet.ParquetFile(path) for path in corpus.files]
    groups = [(file, group) for file in files for group in range(file.num_row_groups)]
    rest = numpy.empty(0, dtype=numpy.uint16)
    for index in rng.permutation(len(groups)):
        file, group = groups[index]
        column = file.read_row_group(group, columns=["tokens"]).column("tokens")
        chunks = [chunk.flatten().to_numpy() for chunk in column.chunks]
        tokens = numpy.concatenate([rest, *chunks])
        whole = len(tokens) // (BATCH_SIZE * SEQ_LEN) * BATCH_SIZE
        samples = tokens[: whole * SEQ_LEN].reshape(whole, SEQ_LEN)
        rest = tokens[whole * SEQ_LEN :]
        order = rng.permutation(whole)
        for first in range(0, whole, BATCH_SIZE):
            yield torch.from_numpy(samples[order[first : first + BATCH_SIZE]].astype(numpy.int64))
