"""train: fine-tune the backbone on a mix; loss on completions only."""

import logging
import math
import statistics
from pathlib import Path
from typing import Any

from lema.artifacts import RESUME, Recipe, Shown, write_jsonl
from lema.cell import Cell
from lema.config import Batches, Selection
from lema.types import Example

log = logging.getLogger(__name__)

SHOWN = Shown(
    "model", files=("metrics.jsonl",), losses={"truncated": "{arm}: training examples cut at the length limit"}
)
FINAL_STEPS = 10  # over which the reported final loss is averaged
CURVE = ("step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "target_tokens", "padding_share")


def recipe(cell: Cell) -> Recipe:
    last, every = (_recipe(cell, last_only) for last_only in (True, False))
    if cell.config.selection is not Selection.last:
        return every
    # Training that kept every checkpoint has the last one too.
    return every if cell.store.find(last) is None and cell.store.find(every) else last


def _recipe(cell: Cell, last_only: bool) -> Recipe:
    backbone = cell.plain(cell.config.backbone)
    config = cell.plain(cell.config.train) | {name: backbone[name] for name in ("precision", "attention")}
    del config["merge"], config["resume_checkpoints"]
    config |= {"seed": cell.config.seed, "last_only": last_only}
    inputs = {"mix": cell.artifacts["mix"].digest, "base": cell.base.digest}
    return Recipe("train", f"{cell.train_label}-{cell.arm}", version=2, config=config, inputs=inputs, shown=SHOWN)


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    """Writes `checkpoints/step-N/` (each a model, or a PEFT adapter) and `metrics.jsonl`, one row a step."""
    from lema.models.batches import check_packing, encode
    from lema.models.huggingface import load_architecture, load_tokenizer, load_trainable
    from lema.models.sizes import available_memory, estimate, measured_peak
    from lema.models.trainer import collect, train

    config, backbone = cell.config.train, cell.config.backbone
    tokenizer = load_tokenizer(cell.base)
    tokenizer.padding_side = "right"
    rows, counts = encode(cell.artifacts["mix"].rows("examples.jsonl", Example), tokenizer, config)
    by_epochs = None if config.epochs is None else math.ceil(len(rows) * config.epochs / config.batch_size)
    steps = min(limit for limit in (by_epochs, config.max_steps) if limit is not None)
    run = estimate(load_architecture(cell.base), config, backbone.precision, counts["tokens"] / len(rows), steps)
    memory, checkpointing = available_memory(), config.activation_checkpointing
    checkpointing = run.needs_checkpointing(memory) if checkpointing is None else checkpointing
    log.info("train: %s", run.words(measured_peak(backbone.precision), checkpointing))
    if run.memory(checkpointing) > memory:
        remedy = "lower train.row_tokens or train.micro_batch_size"
        log.warning("train: this machine has %.0f GB, so it may not fit: %s", memory / 1e9, remedy)
    model = load_trainable(cell.base, backbone, config, cell.config.seed, checkpointing)
    if config.batches is Batches.packed:
        check_packing(model, rows, config, tokenizer, backbone.precision)
    curve = train(model, tokenizer, rows, steps, folder / RESUME, cell.config, cell.tracker.log)
    checkpoints = collect(folder / RESUME, folder / "checkpoints", config.save_steps)
    write_jsonl(folder / "metrics.jsonl", ({name: row[name] for name in CURVE} for row in curve))
    final = statistics.fmean(row["loss"] for row in curve[-FINAL_STEPS:])
    padding = 1 - sum(row["tokens"] for row in curve) / sum(row["tokens"] / (1 - row["padding_share"]) for row in curve)
    return {
        **counts,
        "steps": steps,
        "epochs": round(curve[-1]["epoch"], 3),
        "final_loss": round(final, 4),
        "padding_share": round(padding, 4),
        "checkpoints": checkpoints,
    }
