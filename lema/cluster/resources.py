"""What a job asks of its node: GPUs, processors, memory and time, from the cell's backbone and training."""

from collections.abc import Mapping
from math import ceil
from typing import Any

from lema.config import Config, Method
from lema.preflight import hardware, sizing
from lema.types import UserError

CARD = ("gpus", "memory_gb", "teraflops", "cpus", "ram_gb")  # what is said of a card
_STAGES = {"sample", "train", "select", "merge", "evaluate"}
# Of a card's peak: what is reported of LoRA with packed rows is 0.40 to 0.48 (`lema.models.sizes`); half of it, as
# padded rows, 4-bit bases and what is not training take time too. Ours.
_UTILISATION = 0.2
_LENGTH = 1 / 3  # of an example, of what it may be; a quarter in GSM8K
_OTHER_HOURS = 1.0  # for each 10 billion parameters, to sample, select and evaluate on one card. Ours
_SMALL = {"cpus_per_task": 2, "mem_gb": 4, "timeout_min": 60}  # of a backbone that is built here, on no card


def resources(config: Config, card: Mapping[str, Any], hours: float, most_hours: float) -> dict[str, Any]:
    """As submitit names them: `gpus_per_node`, `cpus_per_task`, `mem_gb`, `timeout_min`.

    `card` has `gpus` (of a node), `memory_gb`, `teraflops` (its peak in 16 bits), `cpus` and `ram_gb` (of the node, for
    each GPU). The number of GPUs doubles until they hold the training, and until the cell takes at most `hours`. These
    are estimated: 6 FLOPs a parameter and token with adapters (4 of the pass forward and back, 2 of activation
    checkpointing), 8 to train all, each example as long as it may be. The time limit is twice the estimate, at least
    1 hour and at most `most_hours`: a job that reaches it goes on in another one. Raises `UserError` when no card of
    the node holds the backbone, or all of them do not hold the training.
    """
    backbone, train = config.backbone, config.train
    at_most_minutes = max(1, int(60 * most_hours))
    if backbone.tiny is not None and backbone.path is None:
        return _SMALL | {"timeout_min": min(_SMALL["timeout_min"], at_most_minutes)}
    parameters = hardware.parameters(backbone)
    size = f"{backbone.name}-{backbone.size}" if backbone.size else backbone.name
    at_most, memory = int(card["gpus"]), card["memory_gb"] * 1e9
    for need in hardware.held(config, _STAGES, several=at_most > 1):
        if (taken := parameters * need.width) > memory:
            remedy = f"{need.remedy}, or a larger card" if need.remedy else "choose a larger card"
            held = f"a GPU of {card['memory_gb']} GB cannot hold {taken / 1e9:.0f} GB {need.form}"
            raise UserError(f"hydra.launcher.card: {size}: {held}; {remedy}, or a smaller backbone")
    gpus = max(hardware.shares(config), train.processes or 1)
    alone = _training_seconds(config, parameters, card["teraflops"]) / 3600 + _OTHER_HOURS * parameters / 1e10
    while (
        train.processes is None
        and gpus * 2 <= at_most
        and (alone / gpus > hours or _too_few(config, parameters, gpus, memory))
    ):
        gpus *= 2
    if gpus > at_most:
        what = f"engine.tensor_parallel={hardware.shares(config)} train.processes={train.processes}"
        raise UserError(f"hydra.launcher.card: a node has {at_most} GPUs, too few for {what}")
    if why := _too_few(config, parameters, gpus, memory):
        raise UserError(f"hydra.launcher.card: {size}: {why}")
    return {
        "gpus_per_node": gpus,
        "cpus_per_task": gpus * card["cpus"],
        "mem_gb": gpus * card["ram_gb"],
        "timeout_min": min(60 * max(1, ceil(2 * alone / gpus)), at_most_minutes),
    }


def _too_few(config: Config, parameters: int, gpus: int, memory: float) -> str | None:
    """Why a training does not fit on so many cards of so many bytes; None where it does."""
    try:
        sizing.laid_out(config, parameters, None, gpus, memory)
    except UserError as error:
        return str(error)
    return None


def _training_seconds(config: Config, parameters: int, teraflops: float) -> float:
    """Of all steps on one card."""
    train = config.train
    tokens = sizing.steps(config) * train.batch_size * _LENGTH * (train.max_source_tokens + train.max_target_tokens)
    flops = (8 if train.method is Method.full else 6) * parameters
    return tokens * flops / (teraflops * 1e12 * _UTILISATION)
