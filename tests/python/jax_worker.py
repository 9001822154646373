"""One process of a job of JAX: saves its shards of a tree, or restores them and looks whether they are right.

Arguments: rank, processes, port of the coordinator, URL of the store, `save`, `restore` or
`latest`, the run.
"""

from __future__ import annotations

import os
import sys

rank, count, port, url, action, run = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={8 // count}"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import numpy as np  # noqa: E402
from gigastore import NotFoundError, Store  # noqa: E402
from gigastore.jax import restore_pytree, save_pytree  # noqa: E402
from jax.sharding import Mesh, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=count, process_id=rank)
assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (count, 8, 8 // count)
VALUES = np.arange(16 * 8, dtype=np.float32).reshape(16, 8)
mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))
store = Store(url)


def placed(*spec: str | None) -> jax.Array:
    """Puts this process's part of the values on the mesh."""
    return jax.make_array_from_callback(VALUES.shape, NamedSharding(mesh, P(*spec)), lambda index: VALUES[index])


if action == "save":
    tree = {
        "sharded": placed("data", "model"),
        "replicated": placed(),
        "host": VALUES,
        "step": 5,
        # Of what differs from process to process that of the first is kept.
        "rank": rank,
    }
    info = save_pytree(store, run, 1, tree, attempt="first")
    assert info is not None
elif action == "latest":
    # What processes that look at different moments see: the newest is another one for each of them.
    seen = store if rank == 0 else Store(f"{url}-later")
    wanted = {"w": jax.ShapeDtypeStruct((4,), np.float32, sharding=NamedSharding(mesh, P()))}
    for target in (run, f"{run}@latest", f"{run}@1"):
        assert restore_pytree(seen, target, wanted)["w"].addressable_data(0).tolist() == [1.0] * 4, target
    try:
        restore_pytree(seen, f"{run}@only-later", wanted)
    except NotFoundError as error:
        assert ("process 0 found no" in str(error)) == (rank == 1), error
    else:
        raise AssertionError("it was found")
else:
    # Rows over all devices in another order than they were saved in.
    other = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
    for spec in (P(("y", "x")), P("y", "x"), P(None, "y"), P()):
        wanted = jax.ShapeDtypeStruct(VALUES.shape, np.float32, sharding=NamedSharding(other, spec))
        found = restore_pytree(store, run, {"sharded": wanted, "replicated": wanted, "host": VALUES, "step": 0})
        for name in ("sharded", "replicated"):
            for shard in found[name].addressable_shards:
                np.testing.assert_array_equal(shard.data, VALUES[shard.index])
        np.testing.assert_array_equal(found["host"], VALUES)
        assert found["step"] == 5
print("done", flush=True)
