"""evaluate: one greedy answer a problem, graded and stored; of the fine-tuned model and of the untuned backbone."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lema.artifacts import RESUME, Artifact, Given, Recipe, Shown, write_json, write_jsonl
from lema.cell import Cell, Context
from lema.config import Ask, Method, Split
from lema.engines import LocalModel
from lema.models.weights import Weights, checkpoint, tuned as tuned_weights, whole
from lema.solving import Wording, solve
from lema.types import SCORE_VERSION, Problem, Score, Selected, Solution

SHOWN = Shown(
    "predictions", ("predictions.jsonl", "score.json"), {"num_truncated": "{arm}: answers cut at the token limit"}
)
_SHOWN_UNTUNED = replace(SHOWN, losses={"num_truncated": "untuned answers cut at the token limit"})


@dataclass(frozen=True)
class Settings:
    """Who is evaluated, on what, by whose rules; the first seven are the score's."""

    task: str
    backbone: str
    mix: str
    seed: int | None
    limit: int | None
    answers: str  # id of the weights, or the name of their folder
    correctors: list[str]
    split: Split
    grader: str
    prompt: str
    model: LocalModel
    method: Method | None  # a checkpoint is a whole model, or an adapter; None of the untuned backbone


@dataclass(frozen=True)
class Inputs:
    """The problems and the model. The untuned backbone has the first three alone."""

    data: Artifact
    base: Weights
    demonstrations: Given | None = None  # worked solutions that it sees first
    select: Artifact | None = None
    train: Artifact | None = None
    merge: Artifact | None = None


def recipe(cell: Cell, tuned: bool) -> Recipe:
    """The untuned backbone's evaluation is shared by all arms and seeds."""
    config, made = cell.config, cell.artifacts
    backbone, split, merged = config.backbone, config.evaluation.split, tuned and "merge" in made
    grader = config.task.grader_of(split)
    prompt = None if tuned else config.evaluation.untuned_prompt
    settings = Settings(
        task=config.task.name,
        backbone=backbone.name,
        mix=config.mix.name if tuned else "none",
        seed=config.seed if tuned else None,
        limit=config.limit,
        answers=Path(backbone.path or "").name or backbone.hub_id or cell.backbone_label,
        correctors=cell.correctors if tuned else [],
        split=split,
        grader=grader,
        prompt=prompt or backbone.prompt,
        model=cell.evaluated(four_bit=config.train.method is Method.qlora and not merged, tuned=tuned),
        method=config.train.method if tuned else None,
    )
    inputs, label = Inputs(cell.asked, cell.base), f"{cell.task_label}-{cell.backbone_label}-untuned"
    if prompt is Ask.few_shot:
        inputs = replace(inputs, demonstrations=cell.demonstrations(grader))
    if tuned:
        inputs = replace(inputs, select=made["select"], train=made["train"], merge=made.get("merge"))
        label = cell.name
    shown = SHOWN if tuned else _SHOWN_UNTUNED
    return Recipe("evaluate", label, version=SCORE_VERSION, settings=settings, inputs=inputs, shown=shown)


def build(settings: Settings, inputs: Inputs, context: Context, folder: Path) -> dict[str, Any]:
    """Writes `predictions.jsonl` and `score.json`."""
    selected = inputs.select.read(Selected) if inputs.select else Selected(None, None, None, {})
    if inputs.select and selected.split == settings.split and inputs.merge is None:  # asked already
        predictions = inputs.select.rows(f"step-{selected.step}.jsonl", Solution)
    else:  # a merged model or a whole one, an adapter on the base it was trained on, or the base
        held, adapter = inputs.base, None
        if inputs.merge:
            held = whole(inputs.base, inputs.merge.path / "merged")
        elif inputs.train and settings.method and selected.step is not None:
            held, adapter = tuned_weights(inputs.base, checkpoint(inputs.train.path, selected.step), settings.method)
        problems = [(each, 0) for each in inputs.data.rows(f"{settings.split}.jsonl", Problem)]
        resume = folder / RESUME / ("evaluate untuned" if selected.step is None else "evaluate")
        engine = context.engine(settings.model, held, adapter)
        shown = inputs.demonstrations
        wording = Wording(None, shown.value) if shown else Wording(settings.prompt)
        # After worked solutions a base goes on with questions of its own.
        predictions = solve(problems, wording, engine, settings.grader, resume, whole=shown is None)
    correct = sum(prediction.correct for prediction in predictions)
    score = Score(
        task=settings.task,
        backbone=settings.backbone,
        mix=settings.mix,
        seed=settings.seed,
        step=selected.step,
        selection=selected.selection,
        split=settings.split,
        limit=settings.limit,
        num_problems=len(predictions),
        num_correct=correct,
        num_unanswered=sum(prediction.answer is None for prediction in predictions),
        num_truncated=sum(prediction.truncated for prediction in predictions),
        accuracy=correct / len(predictions),
        accuracy_symbolic=sum(prediction.symbolic for prediction in predictions) / len(predictions),
        disagreements=[each.problem_id for each in predictions if each.correct != each.symbolic],
        model=settings.answers,
        correctors=settings.correctors,
        prompt=settings.prompt,
    )
    write_jsonl(folder / "predictions.jsonl", predictions)
    write_json(folder / "score.json", vars(score))
    return vars(score)
