"""The `gigastore` command, as `pip install` puts it on the path: the same as the binary that cargo builds.

Must never do anything itself.
"""

import os
import signal
import sys

from . import _native


def main() -> None:
    """Runs the command line of this process."""
    # The command has handlers of its own, and ends as the binary does; Python's would come again after it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # For what only Python can do: reading other people's pickles.
    os.environ.setdefault("GIGASTORE_PYTHON", sys.executable)
    sys.exit(_native.main(["gigastore", *sys.argv[1:]]))
