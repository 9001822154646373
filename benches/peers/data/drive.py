"""Measures how fast one peer feeds a Python loop, on request: a line on stdin is a verb, a line of JSON the answer.

    drive.py PEER CORPUS WORK

PEER is the name of a file beside this one, CORPUS the folder that `corpus.py` wrote, WORK a folder that the peer may
keep its own copy of the corpus in, or the URL of the store. Verbs:

    ready           the answer has the `tokens` of the corpus; the peer's copy is made by then
    read [TOKENS]   a new epoch in another order, until so many tokens came or nearly all: `seconds`, `cpu` (also
                    seconds, of all threads), `tokens`
    check           an epoch, every token of it counted: an error if what was given is not what the corpus holds

A batch is an int64 tensor of (8, 2048); the loop looks at its shape, its type and one element. The clock runs from
before an iterator is asked for until the last batch is there: what a peer does to begin an epoch counts, what it does
to end one does not (Hugging Face's sleeps 5 seconds for its threads, however long the epoch was).
"""

import importlib
import json
import os
import sys
import time

import source
import torch

SHAPE = torch.Size([source.BATCH_SIZE, source.SEQ_LEN])
# Of an epoch, what may be missing: each peer drops what does not fill a batch, and some what does not fill a sample.
DROPPED = 0.005


def read(batches, wanted):
    """Takes batches until `wanted` tokens are there; returns how many came."""
    tokens = 0
    for batch in batches:
        if batch.shape != SHAPE or batch.dtype != torch.int64:
            raise TypeError(f"a batch is {batch.dtype} of {tuple(batch.shape)}, expected int64 of {tuple(SHAPE)}")
        if batch[-1, -1].item() < 0:
            raise ValueError("a token is negative")
        tokens += batch.numel()
        if tokens >= wanted:
            return tokens
    raise ValueError(f"the epoch ended after {tokens} tokens, expected {wanted}")


def check(batches, corpus, pad):
    """Counts how often each token was given, but for the one that fills samples; returns how many came."""
    left = torch.bincount(torch.from_numpy(corpus.tokens.astype("int64")), minlength=corpus.vocab_size)
    if pad is not None and left[pad] > 0:
        raise ValueError(f"token {pad} fills samples, and is also a token of the corpus")
    for batch in batches:
        left -= torch.bincount(batch.flatten(), minlength=corpus.vocab_size)
    if pad is not None:
        left[pad] = 0
    missing = int(left.sum())
    if int(left.min()) < 0 or missing > DROPPED * len(corpus.tokens):
        often = max(0, -int(left.min()))
        raise ValueError(f"an epoch is not the corpus: {missing} tokens are missing, one came {often} times too often")
    return len(corpus.tokens) - missing


def answer(request, epoch, peer, corpus, work):
    """Runs one verb; returns its seconds and the tokens that came, as the answer has them."""
    verb, *wanted = request.split()
    started, used = time.perf_counter(), time.process_time()
    batches = peer.batches(corpus, work, epoch)
    if verb == "check":
        tokens = check(batches, corpus, getattr(peer, "PAD", None))
    elif verb == "read":
        tokens = read(batches, int(wanted[0]) if wanted else int((1 - DROPPED) * len(corpus.tokens)))
    else:
        raise ValueError(f"{request} is none of ready, read, check")
    return {"seconds": time.perf_counter() - started, "cpu": time.process_time() - used, "tokens": tokens}


def main():
    name, folder, work = sys.argv[1:]
    # Some peers write to stdout what they do; answers have it for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # What is measured is here: no peer need ask a hub.
    os.environ["HF_HUB_OFFLINE"] = "1"
    corpus = source.Corpus(folder)
    peer = importlib.import_module(name)
    peer.make(corpus, work)
    for epoch, request in enumerate(map(str.strip, sys.stdin)):
        if request == "ready":
            line = {"tokens": len(corpus.tokens)}
        else:
            line = {"peer": name, "verb": request, **answer(request, epoch, peer, corpus, work)}
        print(json.dumps(line), file=answers, flush=True)


# Peers that start processes of their own import this file in them.
if __name__ == "__main__":
    main()
