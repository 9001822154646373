"""The order of datasets once more, written from its specification (`formats/src/order/mod.rs`) and nothing else.

Computes, for a handful of small datasets, what the specification says: order ids, lanes, windows, samples, streams of
several sources, shares of ranks, digests of what was seen. They are kept in `order-1.json`, which every implementation
of algorithm 1 must agree with, for ever.

usage: order.py            prints the vectors
       order.py PATH       compares them with a file
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from blake3 import blake3

ALGORITHM = 1

ID = "gigastore 2026-11 dataset order id, algorithm 1"
DRAWS = "gigastore 2026-11 dataset order, algorithm 1"
SEEN = "gigastore 2026-11 dataset samples seen, version 1"

GROUPS, DOCUMENTS = 1, 2

#: A file: its path, and the lengths of the documents of each of its row groups.
File = tuple[str, list[list[int]]]
#: A piece of a document: its number in the window, first token, number of tokens.
Piece = tuple[int, int, int]


def u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def u64(number: int) -> bytes:
    return number.to_bytes(8, "little")


def derive(context: str, material: bytes) -> Any:
    return blake3(material, derive_key_context=context)


def order_id(files: list[File]) -> bytes:
    material = b""
    for path, groups in files:
        name = path.encode()
        material += u32(len(name)) + name + u64(len(groups))
        for group in groups:
            material += u64(len(group)) + u64(sum(group))
    return bytes(derive(ID, material).digest())


def draws(key: bytes, seed: int, epoch: int, purpose: int, lane: int, window: int) -> Iterator[int]:
    output = derive(DRAWS, key + u64(seed) + u64(epoch) + u64(purpose) + u64(lane) + u64(window))
    at = 0
    while True:
        yield int.from_bytes(output.digest(length=8, seek=at), "little")
        at += 8


def below(numbers: Iterator[int], n: int) -> int:
    while True:
        product = next(numbers) * n
        if product % 2**64 >= (2**64 - n) % n:
            return product >> 64


def permutation(numbers: Iterator[int], n: int) -> list[int]:
    places = list(range(n))
    for i in range(n - 1, 0, -1):
        j = below(numbers, i + 1)
        places[i], places[j] = places[j], places[i]
    return places


class Order:
    """The order of one dataset."""

    def __init__(self, files: list[File], spec: dict[str, Any]) -> None:
        self.id = order_id(files)
        self.table = [group for _, groups in files for group in groups]
        self.spec = spec

    def permuted(self, n: int, epoch: int, purpose: int, lane: int, window: int) -> list[int]:
        if self.spec["seed"] is None:
            return list(range(n))
        return permutation(draws(self.id, self.spec["seed"], epoch, purpose, lane, window), n)

    def lanes(self, epoch: int) -> list[tuple[int, list[list[int]]]]:
        """The lanes by number: each with its dealing number, and the row groups of each of its windows."""
        size = self.spec["window"]
        dealt: list[list[int]] = [[] for _ in range(self.spec["lanes"])]
        loads = [0] * len(dealt)
        for group in self.permuted(len(self.table), epoch, GROUPS, 0, 0):
            if rows := self.table[group]:
                lane = loads.index(min(loads))
                loads[lane] += len(rows) + sum(rows)
                dealt[lane].append(group)
        lanes = []
        for number, groups in enumerate(dealt):
            first = number % size + 1
            rest = [groups[at : at + size] for at in range(first, len(groups), size)]
            lanes.append((number, [window for window in [groups[:first], *rest] if window]))
        return sorted(lanes, key=lambda lane: -self.samples_of_lane(lane[1]))

    def samples_of_lane(self, windows: list[list[int]]) -> int:
        """What lanes are numbered by: samples, or tokens where single lengths decide on the samples."""
        mode = self.spec["packing"]["mode"]
        rows = [sum(len(self.table[group]) for group in window) for window in windows]
        tokens = [sum(sum(self.table[group]) for group in window) for window in windows]
        if mode == "documents":
            return sum(rows)
        if mode == "concat":
            return sum(-(-number // self.spec["packing"]["seq_len"]) for number in tokens)
        return sum(tokens)

    def window(self, epoch: int, dealt: int, number: int, groups: list[int]) -> tuple[list[int], list[list[Piece]]]:
        """The order of the documents of a window, and its samples."""
        lengths = [tokens for group in groups for tokens in self.table[group]]
        documents = self.permuted(len(lengths), epoch, DOCUMENTS, dealt, number)
        return documents, pack(self.spec["packing"], [(document, lengths[document]) for document in documents])

    def epoch(self, epoch: int) -> dict[str, Any]:
        windows, queues = [], []
        for lane, (dealt, groups_of) in enumerate(self.lanes(epoch)):
            queue = []
            for number, groups in enumerate(groups_of):
                documents, samples = self.window(epoch, dealt, number, groups)
                windows.append({"lane": lane, "window": number, "groups": groups, "documents": documents})
                for item, sample in enumerate(samples):
                    queue.append([lane, number, item, [list(piece) for piece in sample]])
            queues.append(queue)
        stream = []
        while any(queues):
            stream += [queue.pop(0) for queue in queues if queue]
        return {"epoch": epoch, "windows": windows, "samples": stream}


def pack(packing: dict[str, Any], documents: list[tuple[int, int]]) -> list[list[Piece]]:
    if packing["mode"] == "documents":
        return [[(document, 0, length)] for document, length in documents]
    seq_len = packing["seq_len"]
    samples: list[list[Piece]] = []
    room: list[int] = []
    for document, length in documents:
        if packing["mode"] == "first_fit" and packing["long"] == "truncate":
            length = min(length, seq_len)
        start = 0
        while start < length:
            if packing["mode"] == "concat":
                if not room or room[-1] == 0:
                    samples.append([])
                    room.append(seq_len)
                sample, tokens = len(samples) - 1, min(length - start, room[-1])
            else:
                tokens = min(length - start, seq_len)
                sample = next((sample for sample, left in enumerate(room) if left >= tokens), len(samples))
                if sample == len(samples):
                    samples.append([])
                    room.append(seq_len)
            samples[sample].append((document, start, tokens))
            room[sample] -= tokens
            start += tokens
    return samples


def counted(unit: str, pieces: list[list[int]]) -> int:
    if unit == "samples":
        return 1
    if unit == "tokens":
        return sum(length for _, _, length in pieces)
    return sum(start == 0 for _, start, _ in pieces)


def millionths(weights: list[float]) -> list[int]:
    """Weights as the specification rounds them; those of the vectors are such that no rounding of floats matters."""
    whole = sum(Fraction(weight) for weight in weights)
    return [max(1, int(Fraction(weight) * 1_000_000 / whole + Fraction(1, 2))) if weight else 0 for weight in weights]


def mixed(orders: list[Order], stream: dict[str, Any]) -> list[list[int]]:
    """Source, epoch, lane, window, item and count of each sample of a stream of several sources."""
    weights, total = millionths(stream["weights"]), 0
    since = [0] * len(orders)
    epochs = [0] * len(orders)
    rest = [order.epoch(0)["samples"] for order in orders]
    samples: list[list[int]] = []
    while total < stream["budget"]:
        if len(samples) == stream["changed_at"]:
            weights, since = millionths(stream["changed_to"]), [0] * len(orders)
        for number, order in enumerate(orders):
            if not rest[number] and (stream["epochs"][number] is None or epochs[number] + 1 < stream["epochs"][number]):
                epochs[number] += 1
                rest[number] = order.epoch(epochs[number])["samples"]
        able = [number for number in range(len(orders)) if rest[number] and weights[number]]
        if not able:
            break
        number = min(able, key=lambda number: Fraction(since[number], weights[number]))
        lane, window, item, pieces = rest[number].pop(0)
        count = counted(stream["unit"], pieces)
        since[number] += count
        total += count
        samples.append([number, epochs[number], lane, window, item, count])
    return samples


def assign(lanes: list[int], world: int, share: int) -> list[int]:
    ranks: list[int | None] = []
    for lane in lanes:
        home = lane % world
        ranks.append(home if ranks.count(home) < share else None)
    for at, rank in enumerate(ranks):
        if rank is None:
            ranks[at] = next(rank for rank in range(world) if ranks.count(rank) < share)
    return [rank for rank in ranks if rank is not None]


def seen(position: int, source: int, width: int, pieces: list[tuple[int, bool]], tokens: bytes) -> int:
    tail = b"".join(u64(length if there else length | 1 << 63) for length, there in pieces)
    tail += u64(position) + u32(source) + u32(width) + u32(len(pieces))
    return int.from_bytes(derive(SEEN, tokens + tail).digest(), "little")


def dataset(seed: int, files: int, groups: int, rows: int, longest: int) -> list[File]:
    """A dataset with row groups of all sizes, empty ones too. Python's generator is the same in all its versions."""
    chance = random.Random(seed)

    def pick(most: int) -> int:
        return int(chance.random() * (most + 1))

    made: list[File] = []
    for file in range(files):
        lengths = [[pick(longest) for _ in range(pick(rows))] for _ in range(pick(groups))]
        made.append((f"texts/Größe-{file:02}.parquet", lengths))
    return made


def vectors() -> dict[str, Any]:
    even: list[File] = [("a.parquet", [[5, 0, 7], [3], [], [0, 0]]), ("b.parquet", [[40, 1], [2, 2, 2, 2, 2, 2]])]
    concat, documents = {"mode": "concat", "seq_len": 8}, {"mode": "documents"}
    split = {"mode": "first_fit", "seq_len": 16, "long": "split"}
    truncate = {"mode": "first_fit", "seq_len": 16, "long": "truncate"}

    def spec(seed: int | None, lanes: int, window: int, packing: dict[str, Any]) -> dict[str, Any]:
        return {"seed": seed, "lanes": lanes, "window": window, "packing": packing}

    given: list[tuple[str, list[File], dict[str, Any], list[int]]] = [
        ("no row groups", [("a.parquet", [])], spec(1, 3, 2, concat), [0]),
        ("in sequence", even, spec(None, 1, 2, documents), [0, 1]),
        ("in sequence, cut", even, spec(None, 1, 3, concat), [0]),
        ("documents", even, spec(7, 2, 1, documents), [0, 1]),
        ("cut", even, spec(7, 2, 2, concat), [0, 1]),
        ("first fit, split", even, spec(2**64 - 1, 2, 2, split), [0, 2**64 - 1]),
        ("first fit, truncated", even, spec(0, 3, 2, truncate), [0]),
        ("fewer row groups than lanes", even, spec(3, 17, 2, concat), [0]),
        ("many row groups, documents", dataset(1, 4, 12, 6, 30), spec(11, 4, 3, documents), [0]),
        ("many row groups, cut", dataset(2, 5, 14, 6, 30), spec(12, 5, 3, {"mode": "concat", "seq_len": 32}), [0, 5]),
        ("many row groups, first fit", dataset(3, 3, 14, 8, 50), spec(13, 3, 4, {**split, "seq_len": 40}), [0]),
        ("many row groups, truncated", dataset(4, 9, 5, 8, 50), spec(14, 4, 2, {**truncate, "seq_len": 32}), [1]),
        ("one large window", dataset(5, 1, 40, 14, 9), spec(15, 1, 40, {"mode": "concat", "seq_len": 128}), [3]),
    ]
    cases = []
    for name, files, of, epochs in given:
        order = Order(files, of)
        listed = [{"path": path, "groups": groups} for path, groups in files]
        cases.append({
            "name": name, "files": listed, "spec": of, "order_id": order.id.hex(),
            "epochs": [order.epoch(number) for number in epochs],
        })
    streams = []
    for unit in ["tokens", "documents", "samples"]:
        stream: dict[str, Any] = {
            "cases": ["documents", "cut", "first fit, split"], "unit": unit, "weights": [0.5, 0.25, 0.25],
            "changed_at": 15, "changed_to": [0.125, 0.0, 0.875], "epochs": [None, 2, 3],
            "budget": {"tokens": 400, "documents": 60, "samples": 50}[unit],
        }
        orders = [Order(files, of) for case in stream["cases"] for name, files, of, _ in given if name == case]
        streams.append({**stream, "samples": mixed(orders, stream)})
    shares = [
        {"lanes": lanes, "world": world, "share": share, "ranks": assign(lanes, world, share)}
        for lanes, world, share in [
            ([0, 1, 2, 3, 4, 5], 3, 2), ([0, 3, 6, 1, 4, 2], 3, 2), ([5] * 7, 4, 2), ([9, 2, 2], 2, 5), ([], 3, 1),
        ]
    ]
    samples, total = [], 0
    for position, source, width, pieces, tokens in [
        (0, 0, 2, [(3, True)], b"abcdef"),
        (2**40, 7, 4, [(1, True), (5, False), (1, True)], b"abcdefgh"),
        (1, 0, 2, [(4, False)], b""),
        (2, 0, 2, [], b""),
    ]:
        number = seen(position, source, width, pieces, tokens)
        total = (total + number) % 2**256
        samples.append({
            "position": position, "source": source, "width": width, "pieces": [list(piece) for piece in pieces],
            "tokens": tokens.hex(), "digest": number.to_bytes(32, "little").hex(),
        })
    digests = {"samples": samples, "sum": total.to_bytes(32, "little").hex()}
    return {"algorithm": ALGORITHM, "cases": cases, "streams": streams, "shares": shares, "seen": digests}


def text() -> str:
    """The vectors as they are kept: one line a case."""

    def line(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)

    parts = []
    for name, value in vectors().items():
        listed = isinstance(value, list)
        parts.append(f"{line(name)}:" + ("[\n" + ",\n".join(map(line, value)) + "\n]" if listed else line(value)))
    return "{" + ",\n".join(parts) + "}\n"


def main(arguments: list[str]) -> None:
    if not arguments:
        sys.stdout.buffer.write(text().encode())
    elif Path(arguments[0]).read_text(encoding="utf-8") != text():
        sys.exit(f"{arguments[0]} has other vectors than the specification")


if __name__ == "__main__":
    main(sys.argv[1:])
