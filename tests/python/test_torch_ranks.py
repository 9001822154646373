"""`gigastore.torch` at several ranks: sharded state saved at one world size and loaded at another."""

from __future__ import annotations

import pytest
import torch
import torch_jobs as jobs
from torch_ranks import Failed, Ranks, ranks

import gigastore

__all__ = ["ranks"]

COMMON = ["rows", "columns", "both", "few", "plain", "step"]


def test_any_world_loads_what_four_ranks_saved(ranks: Ranks, url: str, store: gigastore.Store) -> None:
    committed = ranks(4, jobs.save, url, "demo/run@1", {})
    assert committed == ["demo/run@1", None, None, None]
    checkpoint = store.checkpoint("demo/run@1")
    assert len(checkpoint.slices("rows")) == 4
    assert len(checkpoint.slices("grid")) == 4
    assert len(checkpoint.slices("both")) == 1
    assert checkpoint.tensors["few"].slices == 2, "ranks without elements deliver none"
    for world in (4, 3, 2, 1):
        names = [*COMMON, "grid", "hybrid"] if world == 4 else COMMON
        ranks(world, jobs.load, url, "demo/run@1", names)
    whole = checkpoint.load(device="cpu")
    assert torch.equal(whole["grid"], jobs.values(6, *jobs.SHAPE))
    assert torch.equal(whole["hybrid"], jobs.values(7, *jobs.SHAPE))


def test_four_ranks_load_what_one_saved(ranks: Ranks, url: str) -> None:
    ranks(1, jobs.save, url, "demo/run@1", {})
    ranks(4, jobs.load, url, "demo/run@1", COMMON)
    # The same step again, in other shards: nothing is sent, and it is no conflict.
    assert ranks(4, jobs.save, url, "demo/grid@1", {})[0] == "demo/grid@1"


def test_without_collectives_the_store_joins_the_ranks(ranks: Ranks, url: str, store: gigastore.Store) -> None:
    options = {"use_collectives": False, "writer": {"attempt": "first"}}
    assert ranks(4, jobs.save, url, "demo/run@5", options) == ["demo/run@5"] * 4
    assert len(list(store.list("demo")[0].live)) == 1
    ranks(2, jobs.load, url, "demo/run@5", COMMON)
    ranks(1, jobs.load, url, "demo/run@5", COMMON)


def test_parts_of_two_launches_are_not_joined(ranks: Ranks, url: str, store: gigastore.Store) -> None:
    assert ranks(2, jobs.save_one_of_two, url, "demo/torn@80", [0], 1.0) == ["MissingRanksError", "away"]
    assert ranks(2, jobs.save_one_of_two, url, "demo/torn@80", [1], 2.0) == ["away", "MissingRanksError"]
    with pytest.raises(gigastore.NotFoundError):
        store.checkpoint("demo/torn@80")
    assert ranks(2, jobs.save_one_of_two, url, "demo/torn@80", [0, 1], 3.0) == ["saved", "saved"]
    found = store.checkpoint("demo/torn@80").load(device="cpu")
    assert all(found[f"of.{rank}"].eq(3.0).all() for rank in range(2))


def test_a_save_without_collectives_is_tried_again(ranks: Ranks, url: str, store: gigastore.Store) -> None:
    assert ranks(2, jobs.save_twice_without_collectives, url, "demo/again@1") == [1, 1]
    assert store.checkpoint("demo/again@1").load(["w"], device="cpu")["w"].eq(2.0).all()


def test_fsdp2_with_adamw_reshards(ranks: Ranks, url: str) -> None:
    saved = ranks(4, jobs.fsdp, url, "demo/fsdp@2", True)[0]
    for world in (2, 3):
        loaded = ranks(world, jobs.fsdp, url, "demo/fsdp@2", False)[0]
        assert loaded["model"].keys() == saved["model"].keys()
        for name, tensor in saved["model"].items():
            assert torch.equal(loaded["model"][name], tensor), name
        for name, state in saved["optimizer"]["state"].items():
            for key, tensor in state.items():
                assert torch.equal(loaded["optimizer"]["state"][name][key], tensor), (name, key)
        assert loaded["optimizer"]["param_groups"] == saved["optimizer"]["param_groups"]


def test_each_rank_reads_its_own_groups_only(ranks: Ranks, url: str, store: gigastore.Store) -> None:
    rows, columns = 64, 64 << 10
    store.save("demo/large", 1, {"w": torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns)})
    moved = ranks(4, jobs.load_moved, url, "demo/large@1", rows, columns)
    share = rows * columns * 4 // 4
    assert all(share <= one <= share + (1 << 20) for one in moved), moved


def test_async_save_in_a_thread_keeps_what_was_staged(ranks: Ranks, url: str, store: gigastore.Store) -> None:
    kept = ranks(2, jobs.save_async, url, "demo/thread", False)
    assert min(kept) > 0
    parameter = store.checkpoint("demo/thread@1").load(["parameter"], device="cpu")["parameter"]
    assert torch.equal(parameter, jobs.values(1, *jobs.SHAPE))
    ranks(3, jobs.load, url, "demo/thread@1", COMMON)
    ranks(2, jobs.load, url, "demo/thread@2", COMMON)


def test_async_save_in_a_process(ranks: Ranks, url: str) -> None:
    kept = ranks(2, jobs.save_async, url, "demo/process", True)
    assert min(kept) > 0
    ranks(1, jobs.load, url, "demo/process@1", COMMON)
    ranks(4, jobs.load, url, "demo/process@2", COMMON)


def test_plans_that_dcp_caches_do_not_mix_saves(ranks: Ranks, url: str, store: gigastore.Store) -> None:
    ranks(3, jobs.save_cached, url, "demo/cached")
    assert [one.number for one in store.list("demo")[0].live] == [1, 2, 3]
    plain = [store.checkpoint(f"demo/cached@{step}").load(["plain"], device="cpu")["plain"] for step in (1, 2, 3)]
    assert torch.equal(plain[2], jobs.values(5, 4, 4))
    assert torch.equal(plain[0], jobs.values(5, 4, 4) - 2)


def test_a_group_of_some_ranks_saves_by_itself(ranks: Ranks, url: str, store: gigastore.Store) -> None:
    assert ranks(3, jobs.save_in_subgroup, url, "demo/sub@1") == [None, "demo/sub@1", None]
    checkpoint = store.checkpoint("demo/sub@1")
    assert sorted(checkpoint.tensors) == ["of.1", "of.2"]


def test_ranks_that_claim_one_box_with_other_bytes_are_named(ranks: Ranks, url: str, store: gigastore.Store) -> None:
    parts = {rank: {"w": torch.full((4,), float(rank)), "step": 1} for rank in range(2)}
    said = ranks(2, jobs.save_parts, url, "demo/claim@1", parts)
    assert all("ConflictError" in one and "ranks 0 and 1 disagree" in one and "w[0:4]" in one for one in said), said
    with pytest.raises(gigastore.NotFoundError):
        store.checkpoint("demo/claim@1")


def test_values_that_differ_between_ranks_are_named(ranks: Ranks, url: str) -> None:
    parts = {rank: {"w": torch.ones(2), "step": rank} for rank in range(2)}
    said = ranks(2, jobs.save_parts, url, "demo/values@1", parts)
    assert all("ConflictError" in one and "objects/step.json" in one for one in said), said


def test_a_step_is_saved_again_after_a_rank_failed(ranks: Ranks, url: str, store: gigastore.Store) -> None:
    blamed = ranks(2, jobs.save_after_failure, url, "demo/again@1")
    assert all(len(one) == 1 and one[0].startswith("1: of.1: a generator") for one in blamed), blamed
    assert store.checkpoint("demo/again@1").read_file("objects/of.1.json") == b"1"


def test_sharded_tensors_of_fsdp1(ranks: Ranks, url: str, store: gigastore.Store) -> None:
    ranks(3, jobs.save_sharded_tensor, url, "demo/st@1")
    assert len(store.checkpoint("demo/st@1").slices("st")) == 3
    assert ranks(3, jobs.load_sharded_tensor, url, "demo/st@1")[2] == [12.0, 13.0, 14.0, 15.0, 16.0, 17.0]


@pytest.mark.parametrize("collectives", [True, False])
def test_a_wrong_world_size_is_refused(ranks: Ranks, url: str, store: gigastore.Store, collectives: bool) -> None:
    options = {"use_collectives": collectives, "writer": {"attempt": "1", "world_size": 2, "deadline": 1.0}}
    with pytest.raises(Failed, match="no rank saved all of|world_size=2, and 3 ranks"):
        ranks(3, jobs.save, url, "demo/wrong@1", options)
    with pytest.raises(gigastore.NotFoundError):
        store.checkpoint("demo/wrong@1")


def test_a_rank_that_never_comes_is_named(ranks: Ranks, url: str) -> None:
    options = {"use_collectives": False, "writer": {"attempt": "1", "world_size": 2, "deadline": 1.0}}
    with pytest.raises(Failed) as failed:
        ranks(1, jobs.save, url, "demo/alone@1", options)
    assert isinstance(failed.value.error, gigastore.MissingRanksError)
    assert "rank" in str(failed.value.error) and "1" in str(failed.value.error)
