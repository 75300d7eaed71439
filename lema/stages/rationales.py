"""rationales: further CoT solutions of the training questions, by a strong model; those with the right answer are kept.

This is sampling with the other filter. As in the paper (section 2 of its data: 30,000 asked of GPT-4 for GSM8K, of
which 24,948 were kept).
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lema.artifacts import RESUME, Artifact, Given, Recipe, Shown, write_jsonl
from lema.cell import Cell, Context
from lema.engines import LocalModel, Requests, ServedModel, writer
from lema.models.weights import Weights, weights
from lema.solving import Wording, solve
from lema.types import NO_PROBLEM, Problem, distinct, rules_version

SHOWN = Shown("solutions", files=("rationales.jsonl",))


@dataclass(frozen=True)
class Settings:
    """Who is asked, and how often."""

    model: LocalModel | ServedModel
    requests: int  # in all
    most: int | None  # of one question
    grader: str


@dataclass(frozen=True)
class Inputs:
    """The problems, and what the model is and has seen."""

    data: Artifact
    demonstrations: Given
    weights: Weights | None


def recipe(cell: Cell) -> Recipe:
    config, grader = cell.config.rationales, cell.config.task.trained.grader
    model = writer(config, cell.config.engine, "rationales")
    settings = Settings(model, config.requests or 0, config.most, grader)
    held = weights(config.weights) if config.weights else None
    inputs = Inputs(cell.artifacts["data"], _shown(cell), held)
    label = f"{cell.train_label}-{config.name}"
    return Recipe("rationales", label, 2 + rules_version(grader), settings=settings, inputs=inputs, shown=SHOWN)


def _shown(cell: Cell) -> Given:
    return cell.demonstrations(cell.config.task.trained.grader, "rationales.demonstrations")


def requests(cell: Cell) -> list[Requests]:
    """What is asked of a server."""
    config = cell.config.rationales
    if config.weights:
        return []
    number = min(config.requests or 0, cell.num_questions * (config.most or 1))
    wording, size = Wording(None, _shown(cell).value), None
    if "data" in cell.artifacts:
        asked = shares(cell.artifacts["data"].rows("train.jsonl", Problem), config.requests or 0, config.most)
        size = fmean(len(wording.text(each).encode()) for each, _ in asked)
    return [Requests("rationales", "rationales", config.api, (number, number), wording.text(NO_PROBLEM), size)]


def build(settings: Settings, inputs: Inputs, context: Context, folder: Path) -> dict[str, Any]:
    """Writes `rationales.jsonl`: the right ones whose answer can be read, each text of a problem once."""
    asked = shares(inputs.data.rows("train.jsonl", Problem), settings.requests, settings.most)
    engine, wording = context.engine(settings.model, inputs.weights), Wording(None, inputs.demonstrations.value)
    solutions = solve(asked, wording, engine, settings.grader, folder / RESUME / "rationales", whole=False)
    whole = [each for each in solutions if each.text.strip() and not each.truncated]
    right = [each for each in whole if each.correct and each.answer is not None]
    write_jsonl(folder / "rationales.jsonl", kept := list(distinct(right, Counter())))
    counts = {"asked": len(asked), "answered": len(whole), "correct": len(right), "kept": len(kept)}
    return counts | {"models": sorted({each.model for each in whole})} | engine.costs


def shares(problems: list[Problem], requests: int, most: int | None) -> list[tuple[Problem, int]]:
    """Each question as often as it is asked, with the number of the time: evenly, `requests` in all."""
    each, more = divmod(requests, len(problems))
    times = [min(each + (index < more), most or each + 1) for index in range(len(problems))]
    return [(problem, number) for problem, count in zip(problems, times, strict=True) for number in range(count)]
