"""The limit: numpy.memmap of a raw file, samples at shuffled places, each cast into its row of a new batch."""

import numpy
import torch
from source import BATCH_SIZE, SEQ_LEN


def make(corpus, work):
    pass


def batches(corpus, work, epoch):
    tokens = corpus.tokens
    places = numpy.random.default_rng(epoch).permutation(len(tokens) // SEQ_LEN) * SEQ_LEN
    for first in range(0, len(places) - BATCH_SIZE + 1, BATCH_SIZE):
        batch = numpy.empty((BATCH_SIZE, SEQ_LEN), dtype=numpy.int64)
        for row, place in enumerate(places[first : first + BATCH_SIZE].tolist()):
            batch[row] = tokens[place : place + SEQ_LEN]
        yield torch.from_numpy(batch)
