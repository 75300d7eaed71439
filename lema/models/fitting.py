"""Fitting: the part of training that needs the machine. One process does it, or each of several ranks."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lema.config import Batches, Training
from lema.console.progress import Progress
from lema.models.batches import TokenizedExample, check_packing
from lema.models.compiling import compiled
from lema.models.huggingface import load_tokenizer, load_trainable
from lema.models.layout import Plan, rank_memory
from lema.models.ranks import ALONE, Ranks, sharded
from lema.models.sizes import measured_peak
from lema.models.trainer import Track as Track, train
from lema.models.weights import Weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """What is trained, on what, how long, where, and how it is laid out."""

    settings: Training
    base: Weights
    rows: list[TokenizedExample]
    steps: int
    folder: Path  # of the checkpoints
    plan: Plan


def fit(job: Fit, track: Track, ranks: Ranks = ALONE) -> list[dict[str, float]]:
    """Load the base, prove its packing, train; the curve, one row a step. `UserError` and `Stopped` as `train`."""
    settings, config, precision = job.settings, job.settings.train, job.settings.computation.precision
    run, checkpointing, ranks = job.plan.size, job.plan.checkpointing, replace(ranks, sharded=job.plan.sharded)
    peak, memory = measured_peak(precision) * ranks.count, rank_memory(ranks.count)
    if ranks.number == 0:
        layout = f", on each of {ranks.count} ranks{', sharded' * ranks.sharded}" if ranks.count > 1 else ""
        log.info("train: %s%s", run.words(peak, checkpointing, job.plan.shards), layout)
    if run.memory(checkpointing, job.plan.shards) > memory:
        remedy = "lower train.row_tokens or train.micro_batch_size"
        log.warning("train: this machine has %.0f GB, so it may not fit: %s", memory / 1e9, remedy)
    tokenizer = load_tokenizer(job.base)
    tokenizer.padding_side = "right"

    def load(device: str | None = None) -> Any:
        return load_trainable(job.base, settings.computation, config, settings.seed, checkpointing, device)

    model = sharded(load, ranks.number) if ranks.sharded else load()
    if config.batches is Batches.packed:
        with Progress("checking that packed examples do not see each other"):
            check_packing(model, job.rows, config, tokenizer, precision)

    def with_utilisation(row: dict[str, float], step: int) -> None:
        """Add model FLOPs utilisation: FLOPs of forward and backward pass, over what all GPUs could do meanwhile."""
        track(row | {"train/mfu": row["train/tokens_per_second"] * run.flops / peak}, step)

    with compiled(model, config, precision, run.seconds(peak, checkpointing)):
        return train(model, tokenizer, job.rows, job.steps, job.folder, settings, with_utilisation, ranks)
