"""Ranks: processes that train one model together, one on each GPU. A step is the same as that of one process.

Each rank sees all examples of a step, lays them out in the same passes, and runs its share of these. Where weights are
replicated, they and their optimiser are whole on each rank, and gradients are added up once, after a step's last pass.
Where they are sharded, a rank holds a slice of every tensor, gathers a block's weights to compute with them, and each
pass adds gradients to the slices. PyTorch's `fully_shard` (FSDP2) does it, on the blocks that the model's class names.
Files stay whole: what is saved is gathered, and what is loaded is sliced, so a checkpoint is the same in either layout.
"""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lema.models.kernels import blocks

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


def sharded(build: Callable[[str], Any], number: int) -> Any:
    """The model that `build(device)` makes, sharded over all ranks: rank 0 reads its numbers, and hands them out.

    A rank needs room for its slices and one tensor, rank 0 for the whole model in the machine's memory.
    """
    model, device = build("meta"), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    whole = build("cpu") if number == 0 else None
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for part in [*blocks(model), model]:
        fully_shard(part, mesh=mesh)
    model.to_empty(device=device)
    one_by_one = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, whole.state_dict() if whole else {}, options=one_by_one)
    own = dict(whole.named_buffers()) if whole else {}  # those too that no file has, as the frequencies of positions
    for name, buffer in model.named_buffers():
        if whole:
            buffer.copy_(own[name])
        distributed.broadcast(buffer, src=0)
    for part in model.modules():
        if isinstance(part, FSDPModule):  # a pass has its weight in the step's loss already, so gradients are added up
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
    model.register_load_state_dict_pre_hook(_slice_weights)
    return model


def whole_weights(model: Any) -> dict[str, Any]:
    """What is trained of a model's state, whole on rank 0. All ranks must ask for it together."""
    frozen = {name for name, each in model.named_parameters(remove_duplicate=False) if not each.requires_grad}
    return {name: _gathered(each) for name, each in model.state_dict().items() if name not in frozen}


def with_whole_state(optimizer: Any) -> Any:
    """The optimiser, whose `state_dict()` has whole tensors on rank 0, and which takes such.

    All ranks must ask for it together.
    """
    optimizer.register_state_dict_post_hook(_gather_state)
    optimizer.register_load_state_dict_pre_hook(_slice_state)
    return optimizer


def _gathered(value: Any) -> Any:
    """A tensor whole on rank 0, in the machine's memory; of no size on the others, which must call this too."""
    if not isinstance(value, DTensor):
        return value
    whole = value.full_tensor()
    return whole.cpu() if distributed.get_rank() == 0 else whole.new_empty(0)


def _sliced(value: Any, like: Any) -> Any:
    """This rank's slice of a whole tensor, as `like` is sliced; nothing is sent."""
    if isinstance(value, DTensor) or not isinstance(like, DTensor) or value.shape != like.shape:
        return value  # as the step number, which is whole everywhere
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _slice_weights(model: Any, state: dict[str, Any], *_: Any) -> None:
    of_model = dict(model.named_parameters(remove_duplicate=False))
    for name in [name for name in state if name in of_model]:
        state[name] = _sliced(state[name], of_model[name])


def _gather_state(_: Any, state: dict[str, Any]) -> dict[str, Any]:
    states = state["state"]
    return state | {"state": {key: {name: _gathered(states[key][name]) for name in states[key]} for key in states}}


def _slice_state(optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
    states, like = state["state"], [each for group in optimizer.param_groups for each in group["params"]]
    return state | {
        "state": {key: {name: _sliced(states[key][name], like[key]) for name in states[key]} for key in states}
    }
