"""Trains a small transformer on text with FSDP2, saves it while it trains, and goes on where an earlier life ended.

    torchrun --standalone --nproc-per-node=4 train.py demo/train --store file:///tmp/store --losses losses.txt

Kill it with SIGKILL at any moment and start it again: the losses go on bit for bit as if nothing had been. Start it
with another number of ranks: the state that it goes on from has the same bits. Must never let a step depend on anything
but the state, its number and the rank: no clock, no order of threads, no random numbers that are not saved.
"""

# torch does not type all of its functions, nor say which names of its modules are public.
# mypy: disable-error-code="attr-defined, no-any-return, no-untyped-call"

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import gigastore
from gigastore.torch import StorageReader, StorageWriter

CONTEXT, BATCH, WARM_UP = 64, 8, 10


class Transformer(nn.Module):
    """Predicts the next byte of a text."""

    def __init__(self, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.bytes, self.positions = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.head = nn.Linear(width, 256)

    def forward(self, text: Tensor) -> Tensor:
        hidden = self.bytes(text) + self.positions(torch.arange(text.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(text.shape[1])
        for block in self.blocks:
            hidden = block(hidden, mask, is_causal=True)
        return self.head(hidden)


class Training:
    """A model, all that changes while it is trained, and the run of a store where it is saved."""

    def __init__(self, store: str, run: str, text: bytes) -> None:
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.text = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        torch.manual_seed(0)  # the same weights on every rank
        self.model = Transformer()
        for block in self.model.blocks:
            fully_shard(block)
        fully_shard(self.model)
        torch.manual_seed(self.rank)  # other dropout on every rank
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min((step + 1) / WARM_UP, (WARM_UP / (step + 1)) ** 0.5)
        )
        self.step = 0
        self.store, self.run = gigastore.Store(store), run
        self.writer = StorageWriter(self.store)  # is kept, as it keeps the memory that states are copied into
        self.group: Any = dist.new_group(backend="gloo")  # in which saves talk, while the trainer does in the other
        self.saving: Any = None

    def state(self) -> dict[str, Any]:
        """Returns all that the next step depends on."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        schedule, random = self.schedule.state_dict(), {str(self.rank): torch.get_rng_state()}
        return {"model": model, "optimizer": optimizer, "schedule": schedule, "random": random, "step": self.step}

    def save(self) -> None:
        """Begins to save the state; training goes on as soon as it was copied."""
        self.wait()
        self.saving = dcp.async_save(
            self.state(),
            storage_writer=self.writer,
            checkpoint_id=f"{self.run}@{self.step}",
            process_group=self.group,
        )

    def wait(self) -> None:
        """Waits until what is being saved is committed, and raises what went wrong."""
        if self.saving is not None:
            self.saving.result()

    def resume(self) -> None:
        """Goes on from the newest checkpoint of the run, if there is one."""
        newest: list[str | None] = [None]
        if self.rank == 0:  # one rank looks, so that all go on from the same
            try:
                newest = [self.store.checkpoint(self.run).target]
            except gigastore.NotFoundError:
                print(f"{self.run} has no checkpoint yet", flush=True)
        dist.broadcast_object_list(newest)
        if newest[0] is None:
            return
        state = self.state()
        if f"random.{self.rank}" not in self.store.checkpoint(newest[0]).tensors:
            del state["random"]  # it was saved by fewer ranks
        dcp.load(state, storage_reader=StorageReader(self.store, newest[0]))
        set_state_dict(
            self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )
        self.schedule.load_state_dict(state["schedule"])
        if "random" in state:
            torch.set_rng_state(state["random"][str(self.rank)])
        self.step = state["step"]

    def train(self) -> float:
        """Does one step, and returns its loss, the mean of all ranks."""
        places = torch.Generator().manual_seed(self.step * self.ranks + self.rank)
        starts = torch.randint(len(self.text) - CONTEXT, (BATCH, 1), generator=places)
        batch = self.text[starts + torch.arange(CONTEXT + 1)].long()
        loss = nn.functional.cross_entropy(self.model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        mean = loss.detach() / self.ranks
        dist.all_reduce(mean)
        return mean.item()

    def tell(self, what: str) -> None:
        """Prints a hash of model and optimizer, each tensor whole: the same on however many ranks they lie."""
        state, hashed = self.state(), hashlib.sha256()
        for name, value in sorted(leaves("", {"model": state["model"], "optimizer": state["optimizer"]})):
            if isinstance(value, Tensor):
                whole = value.full_tensor() if isinstance(value, DTensor) else value
                value = whole.numpy().tobytes()
            hashed.update(f"{name} {value!r}\n".encode())
        if self.rank == 0:
            print(f"{what} step {self.step}, state {hashed.hexdigest()}", flush=True)


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields what lies in a nested state, by its path."""
    if not isinstance(value, dict | list):
        yield name, value
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield from leaves(f"{name}/{key}", inner)


def main() -> None:
    """Trains from the newest checkpoint to the last step, and writes down the loss of each."""
    parser = argparse.ArgumentParser(description="Train a small transformer, and save it into a store.")
    parser.add_argument("run", metavar="PROJECT/RUN", help="where in the store")
    parser.add_argument("--store", metavar="URL", required=True)
    parser.add_argument("--steps", metavar="N", type=int, default=200)
    parser.add_argument("--save-every", metavar="STEPS", type=int, default=10)
    parser.add_argument("--losses", metavar="FILE", default="/dev/stderr", help="gets a line for each step")
    parser.add_argument("--text", metavar="FILE", help="learn this; default: the reference of the Python language")
    args = parser.parse_args()

    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    text = Path(args.text).read_bytes() if args.text else "".join(topics.topics.values()).encode()
    training = Training(args.store, args.run, text)
    training.resume()
    training.tell("begin at")
    with open(args.losses, "a", buffering=1) as losses:
        while training.step < args.steps:
            loss = training.train()
            if training.rank == 0:
                losses.write(f"{training.step} {loss.hex()} {loss:.3f}\n")
            if training.step % args.save_every == 0 or training.step == args.steps:
                training.save()
    training.wait()
    training.tell("end at")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
