"""How a training is laid out: over how many ranks, whether each has all weights, whether activations are kept."""

import math
from dataclasses import dataclass
from typing import Any

from lema.config import Batches, Layout, Method, Precision, TrainConfig
from lema.models.batches import SHARED
from lema.models.sizes import MARGIN, TrainingSize, available_memory, training_size, visible_gpus
from lema.types import UserError


@dataclass(frozen=True)
class Plan:
    """What is decided before a training, for all its ranks alike."""

    size: TrainingSize
    ranks: int
    sharded: bool  # else each rank has all weights
    checkpointing: bool  # activations are computed again in the backward pass

    @property
    def shards(self) -> int:
        """Among how many ranks the weights are divided."""
        return self.ranks if self.sharded else 1


def ranks(train: TrainConfig) -> int:
    """How many train together: null `train.processes` are one on each visible GPU, as far as a step has work for it."""
    packed = train.batches is Batches.packed
    passes = SHARED if packed else -(-train.batch_size // train.micro_batch_size)
    return train.processes or max(1, min(visible_gpus(), passes))


def rank_memory(ranks: int) -> float:
    """Bytes for each of so many ranks: those of its GPU, else its part of the machine's."""
    return available_memory() / (1 if visible_gpus() else ranks)


def plan(architecture: Any, train: TrainConfig, precision: Precision, mean_tokens: float | None, steps: int) -> Plan:
    """The layout on this machine of what `training_size` sizes; raises `UserError` as `planned`."""
    count = ranks(train)
    return planned(training_size(architecture, train, precision, mean_tokens, steps), train, count, rank_memory(count))


def shardable(train: TrainConfig) -> bool:
    """Whether its weights could be sharded: 4-bit ones cannot, and most optimisers take whole tensors alone."""
    return train.method is not Method.qlora and train.optimizer.startswith("adamw_torch")


def planned(run: TrainingSize, train: TrainConfig, ranks: int, memory: float) -> Plan:
    """The layout that the config names; without one, replicated where that fits, as it sends least, else sharded.

    `memory` is what each rank has, in bytes. Raises `UserError` when the weights alone would not fit, or cannot be
    sharded as the config asks.
    """
    sharded, again = train.layout is Layout.sharded, train.activation_checkpointing
    if sharded and train.method is Method.qlora:
        raise UserError("train.layout=sharded: 4-bit weights cannot be sharded: train=lora, or train.layout=replicated")
    if sharded and not shardable(train):
        why = f"train.optimizer={train.optimizer} cannot be sharded"
        raise UserError(f"train.layout=sharded: {why}: train.optimizer=adamw_torch, or train.layout=replicated")
    if sharded and ranks == 1:
        raise UserError("train.layout=sharded: there is one rank: train.processes=2, or train.layout=replicated")
    if train.layout is None and shardable(train) and ranks > 1:
        sharded = run.memory(checkpointing=True) > memory
    shards = ranks if sharded else 1
    # Paged, the two moments of 4 bytes may lie in the machine's memory.
    held = run.weight_bytes / shards - (8 * run.trained if train.optimizer.startswith("paged") else 0)
    if held <= memory:
        return Plan(run, ranks, sharded, run.memory(False, shards) > memory if again is None else again)
    remedies = {Method.full: ["train=lora"], Method.lora: ["train=qlora"], Method.qlora: ["a smaller backbone"]}
    lines, left = remedies[train.method], memory / MARGIN - run.gathered_bytes - run.checkpointed_bytes
    if train.method is not Method.qlora and left > 0:
        enough = f"{math.ceil(run.weight_bytes / left)} GPUs like this one"
        lines.append(enough if shardable(train) else f"{enough} with train.optimizer=adamw_torch_fused")
    has = f"training holds {held / 1e9:.0f} GB of weights on {f'each of {ranks} ranks' if ranks > 1 else 'one GPU'}"
    raise UserError(f"{has}, which has {memory / 1e9:.0f} GB: {', or '.join(lines)}")
