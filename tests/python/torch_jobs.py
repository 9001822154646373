"""What ranks of small jobs do in the tests of `gigastore.torch`: each function is one rank's work.

Must never take values at random: every rank of every world makes the same global tensors from the same seed.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed._shard.sharded_tensor import init_from_local_shards
from torch.distributed._shard.sharded_tensor.shard import Shard as LocalShard
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from gigastore.torch import StorageReader, StorageWriter

warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=UserWarning)

#: Rows and columns that no world of 2 to 4 divides evenly.
SHAPE = (37, 10)


def values(seed: int, *shape: int) -> torch.Tensor:
    """Returns the same numbers in every process."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sharded(world: int, filled: bool) -> dict[str, Any]:
    """Returns a state dict of DTensors over `world` ranks, filled or zero: rows, columns, a mesh, all on each rank."""
    mesh = init_device_mesh("cpu", (world,))
    make = values if filled else (lambda _, *shape: torch.zeros(*shape))
    state: dict[str, Any] = {
        "rows": distribute_tensor(make(1, *SHAPE), mesh, [Shard(0)]),
        "columns": distribute_tensor(make(2, *SHAPE), mesh, [Shard(1)]),
        "both": distribute_tensor(make(3, *SHAPE), mesh, [Replicate()]),
        "few": distribute_tensor(make(4, 2, 3), mesh, [Shard(0)]),
        "plain": make(5, 4, 4),
        "step": 7 if filled else 0,
    }
    if world == 4:
        grid = init_device_mesh("cpu", (2, 2))
        state["grid"] = distribute_tensor(make(6, *SHAPE), grid, [Shard(0), Shard(1)])
        state["hybrid"] = distribute_tensor(make(7, *SHAPE), grid, [Replicate(), Shard(0)])
    return state


def check(state: dict[str, Any]) -> None:
    """Compares a loaded state with what every rank can compute."""
    seeds = {"rows": 1, "columns": 2, "both": 3, "few": 4, "plain": 5, "grid": 6, "hybrid": 7}
    for name, found in state.items():
        if name == "step":
            assert found == 7
            continue
        shape = (2, 3) if name == "few" else (4, 4) if name == "plain" else SHAPE
        whole = found.full_tensor() if isinstance(found, DTensor) else found
        assert torch.equal(whole, values(seeds[name], *shape)), name


def save(rank: int, world: int, url: str, target: str, options: dict[str, Any]) -> str | None:
    """Saves the sharded state; returns what was committed, where this rank committed."""
    writer = StorageWriter(url, target, **options.get("writer", {}))
    dcp.save(sharded(world, True), storage_writer=writer, use_collectives=options.get("use_collectives", True))
    return writer.committed.target if writer.committed else None


def load(rank: int, world: int, url: str, target: str, names: list[str]) -> None:
    """Loads what it names of the sharded state, at this world's sharding, and checks it."""
    state = {name: value for name, value in sharded(world, False).items() if name in names}
    dcp.load(state, storage_reader=StorageReader(url, target))
    check(state)


def load_moved(rank: int, world: int, url: str, target: str, rows: int, columns: int) -> int:
    """Loads this rank's rows of a large tensor, and returns the bytes that were moved for it."""
    moved: list[int] = []
    mesh = init_device_mesh("cpu", (world,))
    state = {"w": distribute_tensor(torch.zeros(rows, columns), mesh, [Shard(0)])}
    reader = StorageReader(url, target, progress=lambda done, total, now: moved.append(now))
    dcp.load(state, storage_reader=reader)
    local = state["w"].to_local()
    start = rank * (rows // world)
    expected = torch.arange(start * columns, start * columns + local.numel(), dtype=torch.float32)
    assert torch.equal(local.reshape(-1), expected)
    return max(moved)


def _trained(world: int, seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.ReLU(), torch.nn.Linear(9, 5))
    mesh = init_device_mesh("cpu", (world,))
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):
        model(values(9, 3, 7)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def _whole(state: Any) -> Any:
    if isinstance(state, DTensor):
        return state.full_tensor()
    if isinstance(state, dict):
        return {key: _whole(value) for key, value in state.items()}
    return [_whole(value) for value in state] if isinstance(state, list) else state


def fsdp(rank: int, world: int, url: str, target: str, saving: bool) -> Any:
    """Trains a model with FSDP2 and AdamW and saves it, or loads it into a fresh one; returns model and optimizer."""
    model, optimizer = _trained(world, 0 if saving else 1)
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    if saving:
        dcp.save(state, storage_writer=StorageWriter(url), checkpoint_id=target)
    else:
        dcp.load(state, storage_reader=StorageReader(url), checkpoint_id=target)
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        model_state, optimizer_state = get_state_dict(model, optimizer)
    return _whole({"model": model_state, "optimizer": optimizer_state})


def save_async(rank: int, world: int, url: str, target: str, process: bool) -> int:
    """Saves in the background and changes the weights at once, twice; returns the bytes that staging kept."""
    from torch.distributed.checkpoint import _async_process_executor as executor

    kind = AsyncCheckpointerType.PROCESS if process else AsyncCheckpointerType.THREAD
    writer = StorageWriter(url)
    kept = set()
    for step in (1, 2):
        state = sharded(world, True)
        state["parameter"] = torch.nn.Parameter(state["rows"].clone())
        future = dcp.async_save(
            state, storage_writer=writer, checkpoint_id=f"{target}@{step}", async_checkpointer_type=kind
        )
        for value in state.values():
            if isinstance(value, torch.Tensor):
                (value.to_local() if isinstance(value, DTensor) else value).detach().fill_(-1)
        future.result()
        kept.add(writer._staging.bytes)
    executor._CHECKPOINT_PROCESS = None
    assert len(kept) == 1, "the second save found the memory of the first"
    return kept.pop()


def save_cached(rank: int, world: int, url: str, target: str) -> None:
    """Saves three steps with plans that DCP caches, each by a writer of its own."""
    for step in (1, 2, 3):
        state = sharded(world, True)
        state["step"] = 7
        state["plain"].add_(step - 3)
        planner = DefaultSavePlanner(enable_plan_caching=True)
        writer = StorageWriter(url, deadline=10)
        dcp.save(state, storage_writer=writer, checkpoint_id=f"{target}@{step}", planner=planner)


def save_parts(rank: int, world: int, url: str, target: str, parts: dict[int, dict[str, Any]]) -> str:
    """Saves what is given for this rank without collectives; returns the fault that it met."""
    writer = StorageWriter(url, target, attempt="1", deadline=2)
    try:
        dcp.save(parts[rank], storage_writer=writer, use_collectives=False)
    except Exception as error:
        dist.barrier()
        return f"{type(error).__name__}: {error}"
    return "saved"


def save_one_of_two(rank: int, world: int, url: str, target: str, who: list[int], value: float) -> str:
    """Saves rows of `value` at the ranks in `who` without collectives, under a launcher whose id is always the same."""
    os.environ.update(TORCHELASTIC_RUN_ID="job", TORCHELASTIC_RESTART_COUNT="0")
    try:
        if rank not in who:
            return "away"
        state = {f"of.{rank}": torch.full((4,), value)}
        dcp.save(state, storage_writer=StorageWriter(url, target, deadline=0.5), use_collectives=False)
        return "saved"
    except Exception as error:
        return type(error).__name__
    finally:
        del os.environ["TORCHELASTIC_RUN_ID"], os.environ["TORCHELASTIC_RESTART_COUNT"]


def save_twice_without_collectives(rank: int, world: int, url: str, target: str) -> int:
    """Saves a state that rank 1 can't store, then another without the fault; returns how many saves failed."""
    # Rank 1 fails at once, and waits in its second save for rank 0, which waits for it in its first.
    writer = StorageWriter(url, target, deadline=20 if rank else 1)
    failed = 0
    for value in (1.0, 2.0):
        state: dict[str, Any] = {"w": torch.full((3,), value), f"of.{rank}": 0}
        if rank == 1 and value == 1.0:
            state["of.1"] = (i for i in range(3))
        try:
            dcp.save(state, storage_writer=writer, use_collectives=False)
        except Exception:
            failed += 1
    return failed


def save_in_subgroup(rank: int, world: int, url: str, target: str) -> str | None:
    """Ranks 1 and 2 save by themselves, in a group of their own."""
    group = dist.new_group([1, 2])
    if rank not in (1, 2):
        return None
    writer = StorageWriter(url, target)
    dcp.save({f"of.{rank}": torch.full((3,), rank), "both": 5}, storage_writer=writer, process_group=group)
    return writer.committed.target if writer.committed else None


def save_after_failure(rank: int, world: int, url: str, target: str) -> list[str]:
    """Saves a state that only rank 1 can't store, then the same step without the fault; returns who was blamed."""
    writer = StorageWriter(url, target)
    state = {"w": torch.ones(3), f"of.{rank}": (i for i in range(3)) if rank == 1 else 0}
    blamed = []
    try:
        dcp.save(state, storage_writer=writer)
    except CheckpointException as error:
        blamed = [f"{failed}: {fault}" for failed, (fault, _) in error.failures.items()]
    dcp.save({**state, f"of.{rank}": rank}, storage_writer=writer)
    return blamed


def sharded_tensor(world: int, filled: bool) -> dict[str, Any]:
    """Returns a ShardedTensor of rows, as FSDP1 makes them: two for each rank."""
    rank = dist.get_rank()
    rows = torch.arange(rank * 6.0, rank * 6.0 + 6).reshape(2, 3) if filled else torch.zeros(2, 3)
    shard = LocalShard.from_tensor_and_offsets(rows, [rank * 2, 0], rank)
    return {"st": init_from_local_shards([shard], [world * 2, 3])}


def save_sharded_tensor(rank: int, world: int, url: str, target: str) -> None:
    """Saves a ShardedTensor in the background, and changes it at once."""
    state = sharded_tensor(world, True)
    future = dcp.async_save(state, storage_writer=StorageWriter(url, target))
    state["st"].local_shards()[0].tensor.fill_(-1)
    future.result()


def load_sharded_tensor(rank: int, world: int, url: str, target: str) -> list[float]:
    """Loads a ShardedTensor, and returns this rank's elements."""
    state = sharded_tensor(world, False)
    dcp.load(state, storage_reader=StorageReader(url, target))
    return state["st"].local_shards()[0].tensor.reshape(-1).tolist()


def save_folder(rank: int, world: int, folder: str, collectives: bool) -> None:
    """Saves the sharded state as DCP itself does."""
    dcp.save(sharded(world, True), checkpoint_id=folder, use_collectives=collectives)


def load_folder(rank: int, world: int, folder: str, names: list[str]) -> None:
    """Loads what it names of the sharded state as DCP itself does, and checks it."""
    state = {name: value for name, value in sharded(world, False).items() if name in names}
    dcp.load(state, checkpoint_id=folder)
    check(state)


def save_with_data(rank: int, world: int, url: str, target: str, cursors: list[str]) -> None:
    """Saves one tensor that all ranks hold, in the background, each rank with a cursor of its own."""
    writer = StorageWriter(url, data=cursors[rank])
    future = dcp.async_save({"w": values(1, 4, 4)}, storage_writer=writer, checkpoint_id=target)
    future.result()
