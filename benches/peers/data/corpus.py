"""Makes the corpus that the data peers read: real text, real token statistics, documents of realistic lengths.

    corpus.py TOKENIZER OUT TOKENS TEXT...

TOKENIZER is a `tokenizer.json` whose vocabulary fits 16 bits, OUT the folder to write, TOKENS how many are wanted, TEXT
files or folders with `.txt` and `.html`. The text is cut into pieces of whole sentences; each pass over them is in
another order, and passes follow one another until there is enough, so that a piece returns only after all others. From
that stream documents are cut: lengths are lognormal with a median of 500 and a mean of 1,000, and each document ends in
the tokenizer's separator. The same arguments write the same bytes; if they were written before, nothing is done.

    OUT/tokens.bin       the tokens of all documents, uint16
    OUT/ends.bin         where each document ends, uint64, in tokens
    OUT/parquet/*        documents as rows (`id`, list<uint16> `tokens`), zstd 1, a row group for about 25 MB of tokens
    OUT/corpus.json      what it was made from, and what it came to; written last
"""

import hashlib
import html.parser
import json
import math
import pathlib
import re
import sys

import numpy
import pyarrow
import pyarrow.parquet
from tokenizers import Tokenizer

SEED = 6
PIECE_CHARACTERS = 800
MEDIAN, MEAN, SHORTEST = 500, 1_000, 8
# 25 MB as stored, in the middle of the 16-64 MiB that are usual; two to a file.
ROW_GROUP_TOKENS, ROW_GROUPS_IN_FILE = 12_500_000, 2
# Counts the version of this program: another one makes another corpus.
RECIPE = 1


class Paragraphs(html.parser.HTMLParser):
    """The text of a page: everything outside its head, with a blank line where a block ends."""

    BLOCKS = {"div", "p", "pre", "li", "dt", "dd", "tr", "h1", "h2", "h3", "h4", "h5"}

    def __init__(self):
        super().__init__()
        self.text, self.outside = [], False

    def handle_starttag(self, tag, attributes):
        self.outside = self.outside or tag == "body"

    def handle_endtag(self, tag):
        if tag in self.BLOCKS:
            self.text.append("\n\n")

    def handle_data(self, data):
        if self.outside:
            self.text.append(data)


def read_texts(places):
    """Returns every text below the places, in the order of their paths, so that it is the same on every machine."""
    texts = []
    for place in map(pathlib.Path, places):
        paths = [place] if place.is_file() else sorted(place.rglob("*"), key=lambda path: path.as_posix())
        for path in paths:
            if path.suffix == ".txt":
                texts.append(path.read_text("utf-8"))
            elif path.suffix == ".html":
                page = Paragraphs()
                page.feed(path.read_text("utf-8"))
                texts.append("".join(page.text))
    if not texts:
        raise SystemExit(f"there is no .txt or .html below {', '.join(places)}")
    return texts


def cut_pieces(texts):
    """Cuts texts after sentences and paragraphs into pieces of some hundred tokens."""
    pieces = []
    for text in texts:
        piece = ""
        for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n", text):
            piece = f"{piece} {sentence.strip()}"
            if len(piece) >= PIECE_CHARACTERS:
                pieces.append(piece)
                piece = ""
        if piece.strip():
            pieces.append(piece)
    return pieces


def draw_ends(rng, wanted):
    """Returns where documents end, until `wanted` tokens are reached."""
    sigma = math.sqrt(2 * math.log(MEAN / MEDIAN))
    lengths = rng.lognormal(math.log(MEDIAN), sigma, size=wanted // MEAN * 2 + 1_000)
    ends = numpy.cumsum(numpy.maximum(numpy.rint(lengths), SHORTEST).astype(numpy.uint64))
    return ends[: int(numpy.searchsorted(ends, wanted)) + 1]


def draw_tokens(rng, tokenizer, pieces, ends):
    """Returns the tokens of all documents."""
    encoded = tokenizer.encode_batch(pieces, add_special_tokens=False)
    encoded = [numpy.array(piece.ids, dtype=numpy.uint16) for piece in encoded]
    tokens = numpy.empty(int(ends[-1]), dtype=numpy.uint16)
    text = numpy.ones(len(tokens), dtype=bool)
    text[ends - 1] = False
    stream = numpy.empty(len(tokens) - len(ends), dtype=numpy.uint16)
    at = 0
    while at < len(stream):
        one = numpy.concatenate([encoded[piece] for piece in rng.permutation(len(encoded))])[: len(stream) - at]
        stream[at : at + len(one)] = one
        at += len(one)
    tokens[text] = stream
    tokens[~text] = tokenizer.token_to_id("[SEP]")
    return tokens, sum(map(len, encoded))


def write_parquet(folder, tokens, ends):
    """Writes the documents as rows; returns the bytes of all files."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    starts = numpy.concatenate([[0], ends[:-1]]).astype(numpy.int64)
    # A row group begins with the first document that starts in its share of the tokens; the shares are equal.
    shares = max(1, round(len(tokens) / ROW_GROUP_TOKENS))
    groups = numpy.searchsorted(starts, numpy.arange(shares) * len(tokens) // shares)
    groups = [*numpy.unique(groups).tolist(), len(ends)]
    schema = pyarrow.schema([("id", pyarrow.string()), ("tokens", pyarrow.list_(pyarrow.uint16()))])
    how = {"compression": "zstd", "compression_level": 1, "write_statistics": ["id"]}
    for file in range(0, len(groups) - 1, ROW_GROUPS_IN_FILE):
        path = folder / f"part-{file // ROW_GROUPS_IN_FILE:05}.parquet"
        with pyarrow.parquet.ParquetWriter(path, schema, **how) as writer:
            bounds = groups[file : file + ROW_GROUPS_IN_FILE + 1]
            for first, last in zip(bounds, bounds[1:], strict=False):
                begin, end = int(starts[first]), int(ends[last - 1])
                offsets = numpy.append(starts[first:last], end) - begin
                ids = pyarrow.array([f"document-{document:08}" for document in range(first, last)])
                lists = pyarrow.ListArray.from_arrays(offsets.astype(numpy.int32), pyarrow.array(tokens[begin:end]))
                writer.write_table(pyarrow.table([ids, lists], schema=schema), row_group_size=last - first)
    return sum(path.stat().st_size for path in folder.iterdir())


def main():
    tokenizer_path, out, wanted, *places = sys.argv[1:]
    out, wanted = pathlib.Path(out), int(wanted)
    texts = read_texts(places)
    digest = hashlib.sha256(pathlib.Path(tokenizer_path).read_bytes())
    for text in texts:
        digest.update(text.encode())
    origin = {"recipe": RECIPE, "seed": SEED, "wanted": wanted, "sources": digest.hexdigest()}
    described = out / "corpus.json"
    if described.exists() and json.loads(described.read_text())["origin"] == origin:
        return
    out.mkdir(parents=True, exist_ok=True)
    described.unlink(missing_ok=True)

    tokenizer = Tokenizer.from_file(tokenizer_path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    rng = numpy.random.Generator(numpy.random.PCG64(SEED))
    ends = draw_ends(rng, wanted)
    tokens, unique = draw_tokens(rng, tokenizer, cut_pieces(texts), ends)
    tokens.tofile(out / "tokens.bin")
    ends.tofile(out / "ends.bin")
    lengths = numpy.diff(ends, prepend=0)
    facts = {
        "origin": origin,
        "tokens": len(tokens),
        "documents": len(ends),
        "vocab_size": tokenizer.get_vocab_size(),
        "tokens_of_text": unique,
        "median": float(numpy.median(lengths)),
        "mean": float(lengths.mean()),
        "longest": int(lengths.max()),
        "over_20000": int((lengths > 20_000).sum()),
        "parquet_bytes": write_parquet(out / "parquet", tokens, ends),
        "sha256": hashlib.sha256(tokens).hexdigest(),
    }
    described.write_text(json.dumps(facts, indent=1) + "\n")


main()
