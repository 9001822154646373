"""The `gigastore` command, as `pip install` puts it on the path: the same as the binary that cargo builds.

Must never do anything itself.
"""

import os
import sys

from . import _native


def main() -> None:
    """Runs the command line of this process."""
    # For what only Python can do: reading other people's pickles.
    os.environ.setdefault("GIGASTORE_PYTHON", sys.executable)
    sys.exit(_native.main(["gigastore", *sys.argv[1:]]))
