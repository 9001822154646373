"""Makes the file of real tokens that `cargo bench --bench tokens` reads.

Usage: real_tokens.py TOKENIZER.json FOLDER-OF-TEXTS OUT

Every `.txt` file below the folder, in the order of its path, is a document. The file: the number of documents, then
the number of tokens of each (32 bits, little-endian), then all tokens (16 bits, little-endian).
"""

import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

BATCH = 256


def main(tokenizer_path: str, folder: str, out: str) -> None:
    tokenizer = Tokenizer.from_file(tokenizer_path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if tokenizer.get_vocab_size() > 1 << 16:
        raise SystemExit(f"{tokenizer_path}: a vocabulary of {tokenizer.get_vocab_size()} needs more than 16 bits")
    paths = sorted(Path(folder).rglob("*.txt"))
    documents = []
    for start in range(0, len(paths), BATCH):
        texts = [path.read_text(errors="replace") for path in paths[start : start + BATCH]]
        documents += [np.array(encoded.ids, "<u2") for encoded in tokenizer.encode_batch_fast(texts)]
    counts = np.array([len(documents)] + [len(document) for document in documents], "<u4")
    with open(out, "wb") as file:
        file.write(counts.tobytes())
        for document in documents:
            file.write(document.tobytes())
    print(f"{len(documents)} documents, {counts[1:].sum()} tokens")


if __name__ == "__main__":
    main(*sys.argv[1:])
