"""The command line of `gigastore.torch`: import and export of DCP's folders.

Must never print anything but its result to stdout, nor end with 0 where it did not do what was asked.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from ..errors import GigastoreError
from .convert import export_dcp, import_dcp

__all__ = ["main"]

# The exit codes of `gigastore` that are not 1, by what went wrong.
_CODES = {
    "not_found": 4,
    "gone": 4,
    "unavailable": 5,
    "commit_state_unknown": 5,
    "missing_ranks": 5,
    "in_progress": 5,
    "denied": 6,
    "integrity": 7,
    "lost": 7,
    "conflict": 8,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, of this process where no arguments are given; returns its exit code."""
    given = _parser().parse_args(arguments)
    if given.store is None:
        _parser().error("no store: pass --store URL or set GIGASTORE_STORE")
    try:
        if given.action == "import":
            found = import_dcp(given.folder, given.store, given.to, tag=given.tag, compress=given.compress)
            print(json.dumps({"target": found.target, "bytes": found.bytes, "existed": found.existed}))
        else:
            files = export_dcp(given.store, given.target, given.out)
            print(json.dumps({"target": given.target, "folder": given.out, "files": len(files)}))
    except GigastoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return _CODES.get(error.code, 1)
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gigastore.torch", description="Checkpoints between folders of PyTorch's DCP and a store."
    )
    actions = parser.add_subparsers(dest="action", required=True)
    taken = actions.add_parser("import", help="save a folder that DCP wrote as a checkpoint")
    taken.add_argument("folder", metavar="DIR", help="the folder, with its .metadata")
    taken.add_argument("--to", required=True, metavar="PROJECT/RUN@STEP", help="what it is saved as")
    taken.add_argument("--tag", help="a tag to set in the same commit")
    taken.add_argument("--compress", action="store_true", help="store slices compressed where they get smaller")
    given = actions.add_parser("export", help="write a checkpoint into a folder that DCP loads")
    given.add_argument("target", metavar="PROJECT/RUN[@STEP|@TAG]", help="the checkpoint; without @ the latest")
    given.add_argument("--out", required=True, metavar="DIR", help="the folder, empty or not there yet")
    for action in (taken, given):
        default = os.environ.get("GIGASTORE_STORE")
        action.add_argument("--store", metavar="URL", default=default, help="the store [GIGASTORE_STORE]")
    return parser
