"""evaluate: one greedy answer a problem, and samples beside it, graded and stored; of the fine-tuned model and of the
untuned backbone.
"""

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from lema.artifacts import RESUME, Artifact, Given, Recipe, Shown, write_json, write_jsonl
from lema.cell import Cell, Context
from lema.config import IF_SET, Ask, Method, Split
from lema.engines import LocalModel
from lema.grading.several import majority, pass_at, shown
from lema.models.weights import Weights, chosen
from lema.solving import Wording, solve
from lema.types import SCORE_VERSION, Engine, Problem, SampledScore, Score, Selected, Solution

SHOWN = Shown(
    "predictions", ("predictions.jsonl", "score.json"), {"num_truncated": "{arm}: answers cut at the token limit"}
)
_UNTUNED = {"num_truncated": "untuned answers cut at the token limit"}


@dataclass(frozen=True)
class Sampling:
    """The samples of each problem that are drawn beside the greedy answer."""

    samples: int
    temperature: float
    seed: int


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
    sampling: Sampling | None = field(default=None, metadata=IF_SET)


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
    config, made, asked = cell.config, cell.artifacts, cell.config.evaluation
    backbone, split, merged = config.backbone, asked.split, tuned and "merge" in made
    grader = config.task.grader_of(split)
    prompt = None if tuned else asked.untuned_prompt
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
        sampling=Sampling(asked.samples, asked.temperature, asked.seed) if asked.temperature else None,
    )
    inputs, label = Inputs(cell.asked, cell.base), f"{cell.task_label}-{cell.backbone_label}-untuned"
    if prompt is Ask.few_shot:
        inputs = replace(inputs, demonstrations=cell.demonstrations(grader))
    if tuned:
        inputs = replace(inputs, select=made["select"], train=made["train"], merge=made.get("merge"))
        label = cell.name
    files = (*SHOWN.files, "sampled.jsonl") if settings.sampling else SHOWN.files
    told = replace(SHOWN, files=files, losses=SHOWN.losses if tuned else _UNTUNED)
    return Recipe("evaluate", label, version=SCORE_VERSION, settings=settings, inputs=inputs, shown=told)


def build(settings: Settings, inputs: Inputs, context: Context, folder: Path) -> dict[str, Any]:
    """Writes `predictions.jsonl`, the greedy answers, and `score.json`.

    With samples it also writes `samples.jsonl`, all of them, and `sampled.jsonl`, a row a problem.
    """
    selected = inputs.select.read(Selected) if inputs.select else Selected(None, None, None, {})
    problems = inputs.data.rows(f"{settings.split}.jsonl", Problem)
    open_engine = partial(_engine, settings, inputs, context, selected.step)
    if inputs.select and selected.split == settings.split and inputs.merge is None:  # asked already
        predictions = inputs.select.rows(f"step-{selected.step}.jsonl", Solution)
        answered = inputs.select.summary.get("answered")
    else:
        engine, resume = open_engine(settings.model), "evaluate untuned" if selected.step is None else "evaluate"
        predictions = _solve([(each, 0) for each in problems], settings, inputs, engine, folder / RESUME / resume)
        answered = engine.about
    sampled = None
    if how := settings.sampling:
        engine = open_engine(replace(settings.model, temperature=how.temperature, seed=how.seed))
        asked = [(problem, number) for problem in problems for number in range(how.samples)]
        samples = _solve(asked, settings, inputs, engine, folder / RESUME / "samples")
        rows = _by_problem(problems, samples, how.samples)
        sampled = asdict(_sampled(how, samples, rows))
        write_jsonl(folder / "samples.jsonl", samples)
        write_jsonl(folder / "sampled.jsonl", rows)
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
        sampled=sampled,
        answered=answered,
    )
    write_jsonl(folder / "predictions.jsonl", predictions)
    write_json(folder / "score.json", vars(score))
    return vars(score)


def _engine(settings: Settings, inputs: Inputs, context: Context, step: int | None, model: LocalModel) -> Engine:
    """The engine of a merged model or a whole one, of an adapter on the base it was trained on, or of the base."""
    held, adapter, merge = inputs.base, None, inputs.merge
    if inputs.train and settings.method and step is not None:
        held, adapter = chosen(inputs.base, settings.method, inputs.train.path, step, merge and merge.path)
    return context.engine(model, held, adapter)


def _solve(
    asked: list[tuple[Problem, int]], settings: Settings, inputs: Inputs, engine: Engine, resume: Path
) -> list[Solution]:
    demonstrated = inputs.demonstrations
    wording = Wording(None, demonstrated.value) if demonstrated else Wording(settings.prompt)
    # After worked solutions a base goes on with questions of its own.
    return solve(asked, wording, engine, settings.grader, resume, whole=demonstrated is None)


def _by_problem(problems: list[Problem], samples: list[Solution], number: int) -> list[dict[str, Any]]:
    """Of each problem how many of its samples are right, by both rules, and the verdict on their majority."""
    of: dict[str, list[Solution]] = {problem.id: [] for problem in problems}
    for each in samples:
        of[each.problem_id].append(each)
    return [
        {
            "problem_id": problem,
            "samples": number,
            "correct": sum(each.correct for each in own),
            "symbolic": sum(each.symbolic for each in own),
            "majority": majority((each.answer, each.correct) for each in own),
        }
        for problem, own in of.items()
    ]


def _sampled(how: Sampling, samples: list[Solution], rows: list[dict[str, Any]]) -> SampledScore:
    """What the samples are worth; one that did not arrive counts as wrong and without an answer."""
    from lema.reporting.statistics import accuracy_over_problems

    number, shares = how.samples, [row["correct"] / how.samples for row in rows]
    low, high = accuracy_over_problems(shares)
    return SampledScore(
        **vars(how),
        num_unanswered=len(rows) * number - sum(each.answer is not None for each in samples),
        num_truncated=sum(each.truncated for each in samples),
        accuracy=fmean(shares),
        low=low,
        high=high,
        accuracy_symbolic=fmean(row["symbolic"] / number for row in rows),
        pass_at={str(k): fmean(pass_at(k, number, row["correct"]) for row in rows) for k in shown(number)},
        majority=fmean(row["majority"] for row in rows),
    )
