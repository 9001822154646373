"""`python -m gigastore.torch`: folders of DCP's own into a store, and back. See `main`."""

import sys

from .command import main

sys.exit(main())
