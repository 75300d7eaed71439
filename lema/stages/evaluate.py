"""evaluate: one greedy answer a problem, and samples beside it, graded and stored; of the fine-tuned model and of the
untuned backbone. With `learnt` what both answer to dev questions and to those whose mistakes were corrected.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from lema.artifacts import RESUME, Artifact, Given, Recipe, Shown, write_json, write_jsonl
from lema.cell import Cell, Context
from lema.config import IF_SET, Ask, Method, Split
from lema.correctors import drawing
from lema.correctors.mistakes import mistake
from lema.engines import LocalModel, Requests, served
from lema.grading.several import majority, pass_at, shown
from lema.models.weights import Weights, chosen
from lema.solving import Wording, solve
from lema.types import (
    NO_PROBLEM,
    SCORE_VERSION,
    Correction,
    Engine,
    Problem,
    SampledScore,
    Score,
    Selected,
    Solution,
    rules_version,
)

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
class Learnt:
    """How the corrections were drawn whose mistakes the model may make again: as for a mix."""

    seed: int
    max_cot: int | None
    max_extra: int | None


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
    learnt: Learnt | None = field(default=None, metadata=IF_SET)


@dataclass(frozen=True)
class Inputs:
    """The problems and the model. The untuned backbone has no training."""

    data: Artifact
    base: Weights
    demonstrations: Given | None = None  # worked solutions that it sees first
    select: Artifact | None = None
    train: Artifact | None = None
    merge: Artifact | None = None
    correct: Artifact | None = None  # the corrections, where it is asked about their mistakes


def recipe(cell: Cell, tuned: bool, learnt: bool = False) -> Recipe:
    """The untuned backbone's evaluation is shared by all arms and seeds; `learnt` asks dev, greedily."""
    config, made, asked = cell.config, cell.artifacts, cell.config.evaluation
    backbone, task, merged = config.backbone, config.task, tuned and "merge" in made
    split = Split.dev if learnt else asked.split
    grader = task.grader_of(split)
    prompt = None if tuned else asked.untuned_prompt
    settings = Settings(
        task=task.name,
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
        sampling=Sampling(asked.samples, asked.temperature, asked.seed) if asked.temperature and not learnt else None,
        learnt=Learnt(task.seed, task.max_cot, task.max_extra) if learnt else None,
    )
    inputs = Inputs(
        data=made["data"] if learnt else cell.asked,
        base=cell.base,
        demonstrations=cell.demonstrations(grader) if prompt is Ask.few_shot else None,
        select=made["select"] if tuned else None,
        train=made["train"] if tuned else None,
        merge=made.get("merge") if tuned else None,
        correct=made["correct"] if learnt else None,
    )
    label = cell.name if tuned else f"{cell.task_label}-{cell.backbone_label}-untuned"
    files = (*SHOWN.files, "sampled.jsonl") if settings.sampling else SHOWN.files
    told = replace(SHOWN, files=files, losses=SHOWN.losses if tuned else _UNTUNED)
    if learnt:
        label, told = f"{label}-learnt", Shown("mistakes", ("answers.jsonl",))
    version = SCORE_VERSION + rules_version(grader)
    return Recipe("evaluate", label, version, settings=settings, inputs=inputs, shown=told)


def requests(cell: Cell, tuned: bool, learnt: bool = False) -> list[Requests]:
    """What is asked of a server that is paid and stands for the model: each problem greedily, and its samples."""
    asked, task = cell.config.evaluation, cell.config.task
    if not (server := served(cell.evaluated(four_bit=False, tuned=tuned))):
        return []
    low = high = cell.num_asked(asked.split) * asked.answers
    if learnt:  # questions whose corrections are drawn come to those of dev
        low = cell.num_asked(Split.dev)
        high = low + min(task.max_extra or cell.num_questions, cell.num_questions)
    prompt, demonstrated = None if tuned else asked.untuned_prompt, None
    if prompt is Ask.few_shot:
        demonstrated = cell.demonstrations(task.grader_of(asked.split)).value
    text = Wording(prompt or cell.config.backbone.prompt, demonstrated).text(NO_PROBLEM)
    what = "further answers" if learnt else f"answers to {task.name}"
    return [Requests(what, server.section, server.api, (low, high), text)]


def build(settings: Settings, inputs: Inputs, context: Context, folder: Path) -> dict[str, Any]:
    """Writes `predictions.jsonl`, the greedy answers, and `score.json`.

    With samples it also writes `samples.jsonl`, all of them, and `sampled.jsonl`, a row a problem. With `learnt` it
    writes `answers.jsonl` alone.
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
    if settings.learnt:
        engine = open_engine(settings.model)
        return _learnt(settings.learnt, settings, inputs, engine, predictions, folder)
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
    train, merge = inputs.train, inputs.merge
    held = chosen(inputs.base, settings.method, train and train.path, step, merge and merge.path)
    return context.engine(model, *held)


def _solve(
    asked: list[tuple[Problem, int]], settings: Settings, inputs: Inputs, engine: Engine, resume: Path
) -> list[Solution]:
    demonstrated = inputs.demonstrations
    wording = Wording(None, demonstrated.value) if demonstrated else Wording(settings.prompt)
    # After worked solutions a base goes on with questions of its own.
    return solve(asked, wording, engine, settings.grader, resume, whole=demonstrated is None)


def _learnt(
    draw: Learnt, settings: Settings, inputs: Inputs, engine: Engine, predictions: list[Solution], folder: Path
) -> dict[str, Any]:
    """Writes `answers.jsonl`, a row an answer: of dev, then of each question whose mistakes were drawn to be corrected.

    A wrong one has its mistake, and `again` says whether that is one of those of its question.
    """
    assert inputs.correct
    dev, train = ({each.id: each for each in inputs.data.rows(f"{name}.jsonl", Problem)} for name in ("dev", "train"))
    _, pool = drawing.parted(train, draw.max_cot, draw.seed)
    corrections, where = inputs.correct.rows("corrections.jsonl", Correction), inputs.correct.path / "corrections.jsonl"
    how = draw.max_extra, draw.seed
    drawn = drawing.drawn(corrections, pool, *how, where=where, key="evaluation.learnt=true", instead="leave it out")
    corrected: dict[str, set[str]] = {}  # a question -> what its mistakes say
    for problem, each in drawn:
        corrected.setdefault(problem.id, set()).add(mistake(problem, "\n".join(each.wrong_steps)).says)
    asked = [(pool[name], 0) for name in corrected]
    answers = _solve(asked, settings, inputs, engine, folder / RESUME / "corrected")
    rows = [_row("dev", dev[each.problem_id], each, set()) for each in predictions]
    rows += [_row("corrected", pool[each.problem_id], each, corrected[each.problem_id]) for each in answers]
    write_jsonl(folder / "answers.jsonl", rows)
    wrong = [row for row in rows if not row["correct"]]
    kinds = Counter(row["kind"] for row in wrong if row["of"] == "dev")
    right, same = sum(each.correct for each in answers), sum(row["again"] for row in wrong)
    return {
        "dev": {"questions": len(predictions), "wrong": kinds.total(), "kinds": dict(kinds.most_common())},
        "corrected": {
            "questions": len(answers),
            "right": right,
            "same": same,
            "another": len(answers) - right - same,
        },
    }


def _row(of: str, problem: Problem, answer: Solution, corrected: set[str]) -> dict[str, Any]:
    facts = {"of": of, "problem_id": problem.id, "text": answer.text, "correct": answer.correct}
    if answer.correct:
        return facts
    made = mistake(problem, answer.text, answer.answer is not None)
    return facts | vars(made) | {"again": made.says in corrected}


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
