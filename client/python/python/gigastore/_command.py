"""The `gigastore` command, as `pip install` puts it on the path: the same as the binary that cargo builds."""

import sys

from . import _native


def main() -> None:
    """Runs the command line of this process."""
    sys.exit(_native.main(["gigastore", *sys.argv[1:]]))
