"""The processes that train one adapter together, as one of them sees it.

Each has the base and the whole adapter. The rows of a step are dealt into shares, each process computes some of them,
and the gradients, which lie in one tensor, are added up. All of it goes through the CPU by gloo, on GPUs too: an
adapter's gradients are a few megabytes and a step takes seconds, so what is tested on a CPU is what runs on two T4s.
"""

import datetime
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from kaggle_runner.errors import ForeignRows, WorkerError
from kaggle_runner.training.control import Alone, Value

TIMEOUT_S = 1800.0
"""Longest wait for the others: twice what a supervisor waits for a step. Whoever dies is noticed by its pipe."""
ASKS = (None, "stop", "preempt")


@dataclass(frozen=True, kw_only=True)
class Team(Alone):
    """One process and its place among the others, of which there may be none."""

    rank: int = 0
    processes: int = 1
    shares: int
    """Parts into which the rows of a step are dealt.

    Losses depend on it in the seventh digit, and not at all on how many processes compute them.
    """

    @property
    def parts(self) -> range:
        """The shares of a step."""
        return range(self.shares)

    @property
    def is_final(self) -> bool:
        """Whether all rows are trained on."""
        return True

    @property
    def leads(self) -> bool:
        """Whether this process writes and evaluates."""
        return self.rank == 0

    def computes(self, share: int) -> bool:
        """Say whether a share is this process's."""
        return share % self.processes == self.rank

    def seed_masks(self, seed: int, step: int, place: int) -> None:
        """Make the dropout masks of a micro-batch a function of its place, whichever process computes it."""
        torch.manual_seed(int(np.random.SeedSequence([seed, step, place]).generate_state(1)[0]))

    def add_up(self, *tensors: torch.Tensor) -> None:
        """Put into each tensor the sum of what all processes have in it."""
        if self.processes > 1:
            flat = torch.cat([tensor.detach().reshape(-1).to("cpu") for tensor in tensors])
            dist.all_reduce(flat)
            for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(total.view(tensor.shape))

    def agreed(self, asked: str | None) -> str | None:
        """Return what the first process was asked for."""
        if self.processes == 1:
            return asked
        number = torch.tensor([ASKS.index(asked)])
        dist.broadcast(number, src=0)
        return ASKS[int(number)]

    def from_first(self, make: Callable[[], Value]) -> Value:
        """Have the first process make something, and give it to all of them."""
        if self.processes == 1:
            return make()
        content: list[Any] = [make() if self.leads else None]
        dist.broadcast_object_list(content, src=0)
        value: Value = content[0]
        return value

    def require_alike(self, facts: Collection[str]) -> None:
        """See that all processes hold the same base, rows, configuration and step.

        Raises:
            WorkerError: a file has changed between the start of one and that of another.
        """
        if self.processes > 1 and self.from_first(lambda: list(facts)) != list(facts):
            raise WorkerError(f"process {self.rank + 1} of {self.processes} read another base, other rows or another "
                              f"checkpoint than the first one; leave the files alone while they start, and run the "
                              f"same command again")

    def require_rows(self, checkpoint: str | None, sha256: str) -> None:
        """See that a training over all rows goes on with the rows that it began with.

        Raises:
            ForeignRows: they have changed.
        """
        if checkpoint not in (None, sha256):
            raise ForeignRows("the rows have changed since this training began, so the order in which they come and "
                              "what was held out have too; put the rows of then back, or train in another directory "
                              "with --study")


def join(rendezvous: Path, *, rank: int, processes: int, shares: int) -> Team:
    """Meet the other processes at a file that only they know; returns when all are there."""
    if processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=processes,
                                timeout=datetime.timedelta(seconds=TIMEOUT_S))
    return Team(rank=rank, processes=processes, shares=shares)


def leave(team: Team) -> None:
    """End the meeting; another one can be joined then."""
    if team.processes > 1 and dist.is_initialized():
        dist.destroy_process_group()
