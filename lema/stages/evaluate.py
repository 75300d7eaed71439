"""evaluate: one greedy answer a problem, graded and stored; of the fine-tuned model and of the untuned backbone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lema.artifacts import Recipe, resume_folder, write_json, write_jsonl
from lema.cell import Cell
from lema.config import Method
from lema.types import Score

VERSION = 1


def recipe(cell: Cell, tuned: bool) -> Recipe:
    """The untuned backbone's evaluation is shared by all arms and seeds."""
    backbone, method = cell.plain(cell.config.backbone), cell.config.train.method
    config = cell.plain(cell.config.evaluation) | {
        name: backbone[name] for name in ("prompt", "precision", "attention")
    }
    config |= {"grader": cell.config.task.grader, "four_bit": method is Method.qlora}
    inputs = {"data": cell.artifacts["data"].digest, "base": cell.base.digest}
    if not tuned:
        return Recipe("evaluate", f"{cell.task_label}-{cell.backbone_label}-untuned", VERSION, config, inputs)
    config |= {"mix": cell.config.mix.name, "seed": cell.config.seed}
    return Recipe("evaluate", cell.name, VERSION, config, inputs | {"checkpoint": cell.artifacts["train"].digest})


def build(cell: Cell, folder: Path, tuned: bool) -> dict[str, Any]:
    """Writes `predictions.jsonl` and `score.json`.

    An adapter is evaluated unmerged, on the base it was trained on: the model that was trained. The untuned backbone
    is asked in the same way, in 4 bits when the adapter was trained in 4 bits.
    """
    from lema.models.huggingface import solve

    config, evaluation, method = cell.config, cell.config.evaluation, cell.config.train.method
    checkpoint = cell.artifacts["train"].path / "checkpoint" if tuned else None
    whole = checkpoint is not None and method is Method.full
    predictions = solve(
        cell.problems(evaluation.split),
        config.backbone,
        replace(cell.base, location=str(checkpoint), revision=None) if whole else cell.base,
        grader=config.task.grader,
        max_new_tokens=evaluation.max_new_tokens,
        batch_size=evaluation.batch_size,
        four_bit=method is Method.qlora,
        adapter=None if whole else checkpoint,
        resume=resume_folder(folder),
        title="evaluate" if tuned else "evaluate untuned",
    )
    correct = sum(prediction.correct for prediction in predictions)
    score = Score(
        task=config.task.name,
        backbone=config.backbone.name,
        mix=config.mix.name if tuned else "none",
        seed=config.seed if tuned else None,
        split=evaluation.split,
        limit=config.limit,
        num_problems=len(predictions),
        num_correct=correct,
        num_unanswered=sum(prediction.answer is None for prediction in predictions),
        num_truncated=sum(prediction.truncated for prediction in predictions),
        accuracy=correct / len(predictions),
        model=config.backbone.path or config.backbone.hub_id or cell.backbone_label,
    )
    write_jsonl(folder / "predictions.jsonl", predictions)
    write_json(folder / "score.json", vars(score))
    if tuned:
        cell.tracker.summary({f"evaluate/{name}": value for name, value in vars(score).items()})
    return vars(score)
