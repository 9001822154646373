"""Opens a pack as plain safetensors and prints JSON: entry name -> {dtype, shape, blake3 of the raw bytes}.

usage: open_pack.py PACKFILE

The safetensors library checks the file and names the entries; the bytes are cut out by the header's own offsets, because
NumPy has no arrays for some element types (BF16, F8).
"""

import json
import struct
import sys

import blake3
from safetensors import safe_open

LENGTH_PREFIX = 8


def main(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(LENGTH_PREFIX))
        header = json.loads(file.read(length))
        entries = {}
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():
                entry = tensors.get_slice(name)
                start, end = header[name]["data_offsets"]
                file.seek(LENGTH_PREFIX + length + start)
                entries[name] = {
                    "dtype": entry.get_dtype(),
                    "shape": list(entry.get_shape()),
                    "blake3": blake3.blake3(file.read(end - start)).hexdigest(),
                }
    unseen = set(header) - {"__metadata__"} - set(entries)
    if unseen:
        sys.exit(f"the header has entries that the safetensors library does not list: {sorted(unseen)}")
    json.dump(entries, sys.stdout)
    print()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip())
    main(sys.argv[1])
