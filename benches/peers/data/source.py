"""The corpus that `corpus.py` wrote, as the peers read it or make their own copies of it."""

import json
import pathlib

import numpy

SEQ_LEN, BATCH_SIZE = 2048, 8


class Corpus:
    """`tokens`: all tokens, mapped; `documents`: views of them; `files`: the same documents in Parquet."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        facts = json.loads((folder / "corpus.json").read_text())
        self.folder, self.vocab_size = folder, facts["vocab_size"]
        self.tokens = numpy.memmap(folder / "tokens.bin", dtype=numpy.uint16, mode="r")
        self.ends = numpy.fromfile(folder / "ends.bin", dtype=numpy.uint64)
        self.files = sorted((folder / "parquet").glob("*.parquet"))
        if len(self.tokens) != facts["tokens"] or int(self.ends[-1]) != facts["tokens"]:
            expected = facts["tokens"]
            raise ValueError(f"{folder}: {len(self.tokens)} tokens, expected {expected}: delete it, make it again")

    def documents(self):
        """Yields each document's tokens."""
        start = 0
        for end in self.ends.tolist():
            yield self.tokens[start:end]
            start = end

    def samples(self):
        """Returns the tokens cut into samples, for peers that must be given packed ones: (samples, SEQ_LEN)."""
        samples = len(self.tokens) // SEQ_LEN
        return self.tokens[: samples * SEQ_LEN].reshape(samples, SEQ_LEN)
