"""Ranks: processes that train one model together, one on each GPU. A step is the same as that of one process.

Each rank sees all examples of a step, lays them out in the same passes, and runs its share of these. Where weights are
replicated, they and their optimiser are whole on each rank, and gradients are added up once, after a step's last pass.
Where they are sharded, a rank has slices of them all (`lema.models.sharding`), and each pass adds gradients to these.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

_PATIENCE = timedelta(hours=1)  # with which a rank waits for the others, while rank 0 saves; the parent ends all sooner
Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """Which of how many ranks this process is. One alone needs no other, and none of this touches torch.distributed."""

    number: int = 0  # of this rank, from 0
    count: int = 1
    sharded: bool = False

    def share(self, passes: Sequence[Item], nothing: Item) -> list[tuple[int, Item]]:
        """What of a step's passes this rank runs, each with its number in the step.

        Ranks of a sharded model need each other in every pass, so those that have one less run `nothing`.
        """
        filled = [*passes, *[nothing] * (-len(passes) % self.count if self.sharded else 0)]
        return [(number, filled[number]) for number in range(self.number, len(filled), self.count)]

    def add_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the ranks."""
        if self.count > 1:
            for work in [distributed.all_reduce(each, async_op=True) for each in tensors]:
                assert work
                work.wait()

    def told(self, value: Any) -> Any:
        """What rank 0 has as `value`."""
        if self.count == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]


ALONE = Ranks()


def join(meeting: Path, number: int, count: int) -> Ranks:
    """Meet the other ranks of this machine by a file that none of an earlier attempt has used."""
    loopback = "lo" if sys.platform == "linux" else "lo0"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)  # else gloo asks the network for this machine's own name
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(
        backend, init_method=f"file://{meeting}", rank=number, world_size=count, timeout=_PATIENCE
    )
    return Ranks(number, count)


def gradients(model: Any) -> list[torch.Tensor]:
    """The gradients of what is trained; zeros where no pass of this rank has reached a weight."""
    trained = [each for each in model.parameters() if each.requires_grad]
    for each in trained:
        if each.grad is None:
            each.grad = torch.zeros_like(each)
    return [each.grad for each in trained]
