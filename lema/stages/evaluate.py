"""evaluate: one greedy answer a problem, graded and stored; of the fine-tuned model and of the untuned backbone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lema.artifacts import RESUME, Recipe, Shown, write_json, write_jsonl
from lema.cell import Cell
from lema.config import Method, Split
from lema.types import SCORE_VERSION, Problem, Score, Solution

FILES = ("predictions.jsonl", "score.json")
SHOWN = Shown("predictions", FILES, {"num_truncated": "{arm}: answers cut at the token limit"})
SHOWN_UNTUNED = Shown("predictions", FILES, {"num_truncated": "untuned answers cut at the token limit"})


def recipe(cell: Cell, tuned: bool) -> Recipe:
    """The untuned backbone's evaluation is shared by all arms and seeds."""
    config, backbone = cell.plain(cell.config.evaluation), cell.plain(cell.config.backbone)
    config |= {name: backbone[name] for name in ("prompt", "precision", "attention")}
    config |= {"grader": _grader(cell), "four_bit": cell.config.train.method is Method.qlora}
    inputs = {"data": cell.asked.digest, "base": cell.base.digest}
    if tuned:
        config |= {"mix": cell.config.mix.name, "seed": cell.config.seed}
        inputs |= {name: cell.artifacts[name].digest for name in ("select", "merge") if name in cell.artifacts}
    label = cell.name if tuned else f"{cell.task_label}-{cell.backbone_label}-untuned"
    shown = SHOWN if tuned else SHOWN_UNTUNED
    return Recipe("evaluate", label, version=SCORE_VERSION, config=config, inputs=inputs, shown=shown)


def build(cell: Cell, folder: Path, tuned: bool) -> dict[str, Any]:
    """Writes `predictions.jsonl` and `score.json`."""
    config, evaluation = cell.config, cell.config.evaluation
    chosen = cell.artifacts["select"].summary if tuned else {"step": None, "selection": None, "split": None}
    if chosen["split"] == evaluation.split and "merge" not in cell.artifacts:  # asked already, by select
        predictions = cell.artifacts["select"].rows(f"step-{chosen['step']}.jsonl", Solution)
    else:
        predictions = _predictions(cell, folder, chosen["step"])
    correct = sum(prediction.correct for prediction in predictions)
    score = Score(
        task=config.task.name,
        backbone=config.backbone.name,
        mix=config.mix.name if tuned else "none",
        seed=config.seed if tuned else None,
        step=chosen["step"],
        selection=chosen["selection"],
        split=evaluation.split,
        limit=config.limit,
        num_problems=len(predictions),
        num_correct=correct,
        num_unanswered=sum(prediction.answer is None for prediction in predictions),
        num_truncated=sum(prediction.truncated for prediction in predictions),
        accuracy=correct / len(predictions),
        accuracy_symbolic=sum(prediction.symbolic for prediction in predictions) / len(predictions),
        disagreements=[each.problem_id for each in predictions if each.correct != each.symbolic],
        model=Path(config.backbone.path or "").name or config.backbone.hub_id or cell.backbone_label,
        correctors=_correctors(cell) if tuned else [],
    )
    write_jsonl(folder / "predictions.jsonl", predictions)
    write_json(folder / "score.json", vars(score))
    return vars(score)


def _predictions(cell: Cell, folder: Path, step: int | None) -> list[Solution]:
    """The answers of a merged model or a whole one, of an adapter on the base it was trained on, or of the base."""
    from lema.models.huggingface import solve

    config, base, method = cell.config, cell.base, cell.config.train.method
    whole, adapter = None, None
    if step is not None and "merge" in cell.artifacts:
        whole = cell.artifacts["merge"].path / "merged"
    elif step is not None:
        checkpoint = cell.artifacts["train"].path / "checkpoints" / f"step-{step}"
        whole, adapter = (checkpoint, None) if method is Method.full else (None, checkpoint)
    return solve(
        cell.asked.rows(f"{config.evaluation.split}.jsonl", Problem),
        config.backbone,
        replace(base, location=str(whole), revision=None) if whole else base,
        grader=_grader(cell),
        max_new_tokens=config.evaluation.max_new_tokens,
        batch_size=config.evaluation.batch_size,
        four_bit=method is Method.qlora and whole is None,
        adapter=adapter,
        resume=folder / RESUME / ("evaluate untuned" if step is None else "evaluate"),
    )


def _correctors(cell: Cell) -> list[str]:
    made = [cell.artifacts[name] for name in ("correct", "other_correct") if name in cell.artifacts]
    return sorted({name for each in made for name in each.summary["correctors"]})


def _grader(cell: Cell) -> str:
    """Whose rules compare the answers: a dev question is the training data's."""
    task = cell.config.task
    return task.grader if cell.config.evaluation.split is Split.test else task.trained.grader
