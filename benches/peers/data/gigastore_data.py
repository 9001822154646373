"""Gigastore's own reader: the documents of a store, shuffled and packed, verified, in the trainer's own process."""

from gigastore.data import Stream
from source import BATCH_SIZE, SEQ_LEN

DATASET = "bench/corpus"
# Fills the last sample of each window of row groups; it is no token of the corpus.
PAD = 0


def make(corpus, work):
    """The bench pushed the corpus already; `work` is the store's URL."""


def batches(corpus, work, epoch):
    settings = {"packing": "concat", "columns": ["tokens"], "pad": PAD, "last": "drop"}
    with Stream(work, DATASET, seed=epoch, seq_len=SEQ_LEN, batch_size=BATCH_SIZE, **settings) as stream:
        for batch in stream:
            yield batch["tokens"]
