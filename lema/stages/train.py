"""train: fine-tune the backbone on a mix; loss on completions only."""

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lema.artifacts import RESUME, Artifact, Recipe, Shown, write_jsonl
from lema.cell import Cell, Context
from lema.config import Selection, Training
from lema.console.progress import Progress
from lema.models.weights import CHECKPOINTS, Weights
from lema.types import Example, UserError

_FINAL_STEPS = 10  # over which the reported final loss is averaged
CURVE = ("step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "target_tokens", "padding_share")

SHOWN = Shown(
    "model", files=("metrics.jsonl",), losses={"truncated": "{arm}: training examples cut at the length limit"}
)


@dataclass(frozen=True)
class Inputs:
    """The examples, and what is trained."""

    mix: Artifact
    base: Weights


def recipe(cell: Cell) -> Recipe:
    config = cell.config
    settings = Training(
        train=replace(config.train, merge=None),  # that comes later
        computation=config.backbone.computation,
        seed=config.seed,
        last_only=config.selection is Selection.last,
    )
    inputs = Inputs(cell.artifacts["mix"], cell.base)
    return Recipe("train", f"{cell.train_label}-{cell.arm}", version=3, settings=settings, inputs=inputs, shown=SHOWN)


def build(settings: Training, inputs: Inputs, context: Context, folder: Path) -> dict[str, Any]:
    """Writes `checkpoints/step-N/` (each a model, or a PEFT adapter) and `metrics.jsonl`, one row a step."""
    from lema.models.batches import encode
    from lema.models.checkpoints import collect
    from lema.models.fitting import Fit
    from lema.models.huggingface import load_architecture, load_tokenizer
    from lema.models.layout import plan
    from lema.models.processes import fit_by

    config, examples = settings.train, inputs.mix.rows("examples.jsonl", Example)
    with Progress("example", len(examples)) as progress:
        rows, counts = encode(progress.over(examples), load_tokenizer(inputs.base), config)
    if not rows:
        raise UserError("train: every example is cut before what is trained on; raise train.max_target_tokens")
    steps = config.steps(len(rows))
    architecture, precision = load_architecture(inputs.base), settings.computation.precision
    how = plan(architecture, config, precision, counts["tokens"] / len(rows), steps)
    job = Fit(settings, inputs.base, rows, steps, folder / RESUME, how)
    curve = fit_by(job, context.track)
    checkpoints = collect(folder / RESUME, folder / CHECKPOINTS, None if settings.last_only else config.save_steps)
    write_jsonl(folder / "metrics.jsonl", ({name: row[name] for name in CURVE} for row in curve))
    final = statistics.fmean(row["loss"] for row in curve[-_FINAL_STEPS:])
    padding = 1 - sum(row["tokens"] for row in curve) / sum(row["tokens"] / (1 - row["padding_share"]) for row in curve)
    return {
        **counts,
        "steps": steps,
        "epochs": round(curve[-1]["epoch"], 3),
        "final_loss": round(final, 4),
        "padding_share": round(padding, 4),
        "ranks": how.ranks,
        "sharded": how.sharded,
        "checkpoints": checkpoints,
    }
