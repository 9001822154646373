"""A process that loads or saves until it is interrupted. Arguments: `load` or `save`, URL of the store."""

from __future__ import annotations

import sys
import time

import numpy as np
from gigastore import Store

action, url = sys.argv[1:]
store = Store(url)
tensors = {"w": np.arange(2 << 20, dtype=np.float64)}
print("begun", flush=True)
try:
    if action == "load":
        found = store.checkpoint("demo/run").load()
        print(f"loaded {sorted(found)}", flush=True)
    else:
        store.save("demo/run", 2, tensors)
        print("saved", flush=True)
except KeyboardInterrupt:
    print(f"interrupted at {time.time()}", flush=True)
    raise
