"""Prints the BLAKE3 of a file, by the `blake3` package: a second opinion on every digest of Gigastore.

usage: hash_file.py FILE
"""

import sys

import blake3

PIECE = 1 << 20


def main(path):
    hasher = blake3.blake3()
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            hasher.update(piece)
    print(hasher.hexdigest())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip())
    main(sys.argv[1])
