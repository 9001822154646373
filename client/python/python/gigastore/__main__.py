"""`python -m gigastore`: the command, of this very interpreter."""

from ._command import main

main()
