"""Fitting: the part of training that needs the machine. One process does it, or each of several ranks."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lema.config import Batches, TrainConfig, Training
from lema.console.progress import Progress
from lema.models.batches import SHARED, TokenizedExample, check_packing
from lema.models.compiling import compiled
from lema.models.huggingface import load_architecture, load_tokenizer, load_trainable
from lema.models.ranks import ALONE, Ranks
from lema.models.sizes import available_memory, measured_peak, training_size
from lema.models.trainer import train
from lema.models.weights import Weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """What is trained, on what, how long and where."""

    settings: Training
    base: Weights
    rows: list[TokenizedExample]
    mean_tokens: float  # of an example
    steps: int
    folder: Path  # of the checkpoints


def fit(job: Fit, track: Callable[[dict[str, float], int], None], ranks: Ranks = ALONE) -> list[dict[str, float]]:
    """Load the base, prove its packing, train; the curve, one row a step. `UserError` and `Stopped` as `train`."""
    settings, config, precision = job.settings, job.settings.train, job.settings.computation.precision
    run = training_size(load_architecture(job.base), config, precision, job.mean_tokens, job.steps)
    memory, checkpointing = available_memory(), config.activation_checkpointing
    checkpointing = run.memory(checkpointing=False) > memory if checkpointing is None else checkpointing
    peak, packed = measured_peak(precision) * ranks.count, config.batches is Batches.packed
    if ranks.number == 0:
        of_all = f", on each of {ranks.count} ranks" if ranks.count > 1 else ""
        log.info("train: %s%s", run.words(peak, checkpointing), of_all)
    if run.memory(checkpointing) > memory:
        remedy = "lower train.row_tokens or train.micro_batch_size"
        log.warning("train: this machine has %.0f GB, so it may not fit: %s", memory / 1e9, remedy)
    tokenizer = load_tokenizer(job.base)
    tokenizer.padding_side = "right"
    model = load_trainable(job.base, settings.computation, config, settings.seed, checkpointing)
    if packed:
        with Progress("checking that packed examples do not see each other"):
            check_packing(model, job.rows, config, tokenizer, precision)

    def with_utilisation(row: dict[str, float], step: int) -> None:
        """Add model FLOPs utilisation: FLOPs of forward and backward pass, over what all GPUs could do meanwhile."""
        track(row | {"train/mfu": row["train/tokens_per_second"] * run.flops / peak}, step)

    with compiled(model, config, precision, run.seconds(peak, checkpointing)):
        return train(model, tokenizer, job.rows, job.steps, job.folder, settings, with_utilisation, ranks)


def ranks(train: TrainConfig) -> int:
    """How many train together: null `train.processes` are one on each visible GPU, as far as a step has work for it."""
    packed = train.batches is Batches.packed
    passes = SHARED if packed else -(-train.batch_size // train.micro_batch_size)
    return train.processes or max(1, min(torch.cuda.device_count(), passes))
