"""numpy.memmap of a raw file, as trainers write it: samples at shuffled places, each cast to int64, stacked."""

import numpy
import torch
from source import BATCH_SIZE, SEQ_LEN


def make(corpus, work):
    pass


def batches(corpus, work, epoch):
    tokens = corpus.tokens
    places = numpy.random.default_rng(epoch).permutation(len(tokens) // SEQ_LEN) * SEQ_LEN
    for first in range(0, len(places) - BATCH_SIZE + 1, BATCH_SIZE):
        at = places[first : first + BATCH_SIZE].tolist()
        yield torch.stack([torch.from_numpy(tokens[place : place + SEQ_LEN].astype(numpy.int64)) for place in at])
