"""Measures what one peer does, on request: a line on stdin is a verb, a line of JSON on stdout is the answer.

    drive.py PEER STATE_FOLDER WORK

PEER is the name of a file beside this one, STATE_FOLDER holds the state that the bench wrote, WORK is a folder that may
be emptied, or a URL for peers that save to S3. The answer to `ready` is the number of bytes of the state. `prepare
VERB` does what comes before a verb, for whoever has something to do in between. Only the verb itself is timed: what was
loaded is compared with what was saved after the clock has stopped.
"""

import importlib
import json
import sys
import time

import state


def prepare(verb, peer, kept, work):
    """Returns what the peer's verb needs."""
    for tensor in kept.values():
        tensor.zero_()
    return peer.prepare(verb, work)


def answer(verb, peer, tensors, kept, prepared):
    """Runs one verb; returns its seconds."""
    started = time.perf_counter()
    # What is only a part of a verb, or loads something else than the whole state, is timed and compared by the peer.
    timed = getattr(peer, verb)(tensors, kept, prepared)
    seconds = time.perf_counter() - started
    if timed is not None:
        return timed
    if verb.startswith("load"):
        state.compare(tensors, kept)
    return seconds


def main():
    name, folder, work = sys.argv[1:]
    peer = importlib.import_module(name)
    tensors = state.read(folder)
    kept = state.buffers(tensors)
    prepared = {}
    for verb in map(str.strip, sys.stdin):
        if verb == "ready":
            line = {"bytes": sum(tensor.nbytes for tensor in tensors.values())}
        elif verb.startswith("prepare "):
            verb = verb.removeprefix("prepare ")
            prepared[verb] = prepare(verb, peer, kept, work)
            line = {}
        else:
            ready = prepared.pop(verb) if verb in prepared else prepare(verb, peer, kept, work)
            line = {"peer": name, "verb": verb, "seconds": answer(verb, peer, tensors, kept, ready)}
        print(json.dumps(line), flush=True)


main()
