"""Gigastore's own reader: the documents of a store, shuffled and packed, verified, in the trainer's own process."""

import gigastore
from source import BATCH_SIZE, SEQ_LEN

DATASET = "bench/corpus"


def make(corpus, work):
    """The bench pushed the corpus already; `work` is the store's URL."""


def batches(corpus, work, epoch):
    stream = gigastore.data.Stream(
        work, DATASET, seed=epoch, seq_len=SEQ_LEN, batch_size=BATCH_SIZE, packing="concat"
    )
    for batch in stream:
        yield batch["tokens"]
