"""Trains a small transformer on a dataset, every rank on its share of the batches, and keeps the cursor with the state.

    torchrun --standalone --nproc-per-node=2 train_stream.py demo/run --store file:///tmp/store --data demo/corpus

Kill it with SIGKILL at any moment and start it again: losses, and the digest of what all ranks have seen, go on bit for
bit as if nothing had been. Started with another number of ranks it goes on with the next samples, and at the end the
digest is that of one rank which saw them all. Must never depend on anything but the state and the cursor.
"""

# torch does not type all of its functions.
# mypy: disable-error-code="no-any-return, no-untyped-call"

import argparse
import hashlib
import json
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import gigastore
from gigastore.data import Stream

SEQ_LEN, WIDTH, HEADS = 64, 16, 1


class Transformer(nn.Module):
    """Predicts the next token; no token sees another document."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, WIDTH), nn.Embedding(SEQ_LEN, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0, batch_first=True, norm_first=True)
        self.head = nn.Linear(WIDTH, vocabulary)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        hidden = self.tokens(tokens) + self.positions(positions)
        # A piece of a document begins where positions do; who is of an earlier piece, or later, is not looked at.
        piece = (positions == 0).cumsum(1)
        place = torch.arange(tokens.shape[1])
        hidden_from = (piece[:, :, None] != piece[:, None, :]) | (place[None, :, None] < place[None, None, :])
        return self.head(self.block(hidden, src_mask=hidden_from.repeat_interleave(HEADS, 0)))


class Training:
    """A model, its optimizer and its data, and the run of a store where they are saved."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.store, self.run, self.args = gigastore.Store(args.store), args.run, args
        torch.manual_seed(0)  # the same weights on every rank
        self.model = Transformer(args.vocabulary)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        for parameter in self.model.parameters():
            self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.saving: Any = None
        newest: list[Any] = [self.newest() if self.rank == 0 else None]
        dist.broadcast_object_list(newest)  # one rank looks, so that all go on from the same
        self.step = 0 if newest[0] is None else int(newest[0].partition("@")[2])
        cursor = None
        if newest[0] is not None:
            checkpoint = self.store.checkpoint(newest[0])
            checkpoint.load(into=self.state())
            cursor = checkpoint.cursor()
        # Rank and world size are those of torch.distributed.
        self.data = Stream(
            self.store,
            args.data,
            seed=1,
            seq_len=SEQ_LEN,
            batch_size=args.batch // self.ranks,
            packing=args.packing,
            columns=("tokens", "position_ids", "loss_mask"),
            epochs=args.epochs,
            cursor=cursor,
        )

    def newest(self) -> str | None:
        """Returns the newest checkpoint of the run, if there is one."""
        try:
            return self.store.checkpoint(self.run).target
        except gigastore.NotFoundError:
            return None

    def state(self) -> dict[str, Tensor]:
        """Returns all tensors that the next step depends on."""
        named = dict(self.model.named_parameters())
        momentum = {f"momentum.{n}": self.optimizer.state[p]["momentum_buffer"] for n, p in named.items()}
        return {**{f"model.{name}": parameter.detach() for name, parameter in named.items()}, **momentum}

    def save(self) -> None:
        """Saves state and cursor as one record, in the background."""
        self.wait()
        everyone = range(self.ranks)
        tensors = {name: gigastore.Slice(tensor, replicas=everyone) for name, tensor in self.state().items()}
        options = {"rank": self.rank, "world_size": self.ranks, "data": self.data}
        self.saving = self.store.save(self.run, self.step, tensors, asynchronous=True, **options)

    def wait(self) -> None:
        """Waits until what is being saved is committed, and raises what went wrong."""
        if self.saving is not None:
            self.saving.wait()

    def train(self, batch: dict[str, Any]) -> float:
        """Does one step, and returns its loss, the mean of all ranks."""
        tokens, positions, there = batch["tokens"] % self.args.vocabulary, batch["position_ids"], batch["loss_mask"]
        scores = self.model(tokens, positions)[:, :-1]
        counts = there[:, 1:] & (positions[:, 1:] > 0)
        losses = nn.functional.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        loss = (losses * counts.flatten()).sum() / (tokens.shape[0] * SEQ_LEN)
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.model.parameters():
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.ranks
        self.optimizer.step()
        self.step += 1
        mean = loss.detach() / self.ranks
        dist.all_reduce(mean)
        return mean.item()

    def tell(self, what: str) -> None:
        """Prints a hash of the state, and the digest of what all ranks have seen."""
        hashed = hashlib.sha256()
        for name, tensor in sorted(self.state().items()):
            hashed.update(name.encode() + tensor.numpy().tobytes())
        seen: list[Any] = [None] * self.ranks
        dist.all_gather_object(seen, self.data.seen.digest)
        whole = sum(int.from_bytes(bytes.fromhex(digest), "little") for digest in seen) % (1 << 256)
        if self.rank == 0:
            told = {"step": self.step, "state": hashed.hexdigest(), "seen": whole.to_bytes(32, "little").hex()}
            print(json.dumps({"what": what, **told}), flush=True)


def main() -> None:
    """Trains from the newest checkpoint to the end of the data, and writes down the loss of each step."""
    parser = argparse.ArgumentParser(description="Train a small transformer on a dataset of a store.")
    parser.add_argument("run", metavar="PROJECT/RUN", help="where in the store")
    parser.add_argument("--store", metavar="URL", required=True)
    parser.add_argument("--data", metavar="PROJECT/DATASET", required=True)
    parser.add_argument("--vocabulary", metavar="N", type=int, default=1 << 16, help="tokens are taken modulo this")
    parser.add_argument("--packing", choices=["concat", "first_fit"], default="concat")
    parser.add_argument("--batch", metavar="SAMPLES", type=int, default=16, help="of all ranks together")
    parser.add_argument("--epochs", metavar="N", type=int, default=1)
    parser.add_argument("--steps", metavar="N", type=int, help="stop after this step, and save")
    parser.add_argument("--save-every", metavar="STEPS", type=int, default=10)
    parser.add_argument("--losses", metavar="FILE", default="/dev/stderr", help="gets a line for each step")
    args = parser.parse_args()

    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo")
    training = Training(args)
    training.tell("begin")
    with open(args.losses, "a", buffering=1) as losses:
        for batch in training.data:
            loss = training.train(batch)
            if training.rank == 0:
                losses.write(f"{training.step} {loss.hex()} {loss:.3f}\n")
            if training.step == args.steps:
                break
            if training.step % args.save_every == 0:
                training.save()
    if training.step % args.save_every or training.step == args.steps:
        training.save()
    training.wait()
    training.tell("end")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
