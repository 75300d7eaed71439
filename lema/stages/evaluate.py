"""evaluate: one greedy answer a problem, graded and stored; of the fine-tuned model and of the untuned backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lema.artifacts import Recipe, resume_folder, write_json, write_jsonl
from lema.cell import Cell
from lema.config import Method
from lema.grading import grade
from lema.prompts.formats import cot_prompt
from lema.types import Score, Solution

VERSION = 1
UNTUNED = "none"  # the mix of the untuned backbone


def base_recipe(cell: Cell) -> Recipe:
    """The untuned backbone's evaluation, shared by all arms and seeds."""
    config = {**_config(cell), "mix": UNTUNED, "seed": None}
    inputs = {"data": cell.artifacts["data"].digest, "model": cell.base.digest}
    return Recipe("evaluate", f"{cell.task_label}-{cell.backbone_label}-untuned", VERSION, config, inputs)


def recipe(cell: Cell) -> Recipe:
    config = {**_config(cell), "mix": cell.config.mix.name, "seed": cell.config.seed}
    inputs = {"data": cell.artifacts["data"].digest, "model": cell.artifacts["train"].digest, "base": cell.base.digest}
    return Recipe("evaluate", cell.name, VERSION, config, inputs)


def build_base(cell: Cell, folder: Path) -> dict[str, Any]:
    return _evaluate(cell, folder, None)


def build(cell: Cell, folder: Path) -> dict[str, Any]:
    return _evaluate(cell, folder, cell.artifacts["train"].path / "checkpoint")


def _config(cell: Cell) -> dict[str, Any]:
    backbone = cell.plain(cell.config.backbone)
    shared = {name: backbone[name] for name in ("prompt", "precision", "attention")}
    method = cell.config.train.method
    # The untuned backbone is asked as the fine-tuned one is: in 4 bits when that was trained in 4 bits.
    extra = {"grader": cell.config.task.grader.value, "four_bit": method is Method.qlora}
    return cell.plain(cell.config.evaluation) | shared | extra


def _evaluate(cell: Cell, folder: Path, checkpoint: Path | None) -> dict[str, Any]:
    """Writes `predictions.jsonl` and `score.json`. A LoRA checkpoint is evaluated unmerged: the model trained."""
    from lema.models.huggingface import generate, load_model, load_tokenizer
    from lema.models.weights import Weights

    evaluation, backbone, task = cell.config.evaluation, cell.config.backbone, cell.config.task
    adapted = checkpoint is not None and cell.config.train.method is not Method.full
    model = cell.base
    if checkpoint is not None and not adapted:
        model = Weights(backbone.name, str(checkpoint), None, "")
    problems = cell.problems(evaluation.split)
    completions = generate(
        load_model(
            model,
            backbone.precision,
            backbone.attention,
            four_bit=cell.config.train.method is Method.qlora,
            adapter=checkpoint if adapted else None,
        ),
        load_tokenizer(cell.base),
        [cot_prompt(backbone.prompt.value, problem.question) for problem in problems],
        max_new_tokens=evaluation.max_new_tokens,
        temperature=0,
        seed=0,  # greedy: nothing is drawn
        batch_size=evaluation.batch_size,
        resume=resume_folder(folder),
        title="evaluate" if checkpoint else "evaluate untuned",
    )
    predictions = []
    for problem, completion in zip(problems, completions, strict=True):
        verdict = grade(completion.text, problem.answer, task.grader.value)
        predictions.append(
            Solution(
                problem_id=problem.id,
                model=backbone.name,
                sample=0,
                text=completion.text,
                answer=verdict.answer,
                correct=verdict.correct,
                truncated=completion.truncated,
            )
        )
    write_jsonl(folder / "predictions.jsonl", predictions)
    correct = sum(prediction.correct for prediction in predictions)
    score = Score(
        task=task.name,
        backbone=backbone.name,
        mix=cell.config.mix.name if checkpoint else UNTUNED,
        seed=cell.config.seed if checkpoint else None,
        split=evaluation.split,
        limit=cell.config.limit,
        num_problems=len(predictions),
        num_correct=correct,
        num_unanswered=sum(prediction.answer is None for prediction in predictions),
        num_truncated=sum(prediction.truncated for prediction in predictions),
        accuracy=correct / len(predictions),
        model=backbone.path or backbone.hub_id or cell.backbone_label,
    )
    write_json(folder / "score.json", vars(score))
    if checkpoint:
        cell.tracker.summary({f"evaluate/{name}": value for name, value in vars(score).items() if name.startswith(("num", "acc"))})
    return vars(score)
