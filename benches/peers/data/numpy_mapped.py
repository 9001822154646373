"""numpy.memmap of a raw file: samples at shuffled places, cast to int64 as they are copied. The limit."""

import numpy
import torch
from source import BATCH_SIZE, SEQ_LEN


def make(corpus, work):
    pass


def batches(corpus, work, epoch):
    samples = corpus.samples()
    order = numpy.random.default_rng(epoch).permutation(len(samples))
    for first in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
        batch = numpy.empty((BATCH_SIZE, SEQ_LEN), dtype=numpy.int64)
        for row, sample in enumerate(order[first : first + BATCH_SIZE].tolist()):
            batch[row] = samples[sample]
        yield torch.from_numpy(batch)
