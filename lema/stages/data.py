"""data: the task's problems, read once and cut into train, dev and test.

SVAMP and ASDiv have no training split: train and dev come from GSM8K, and their test problems are a second artifact.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema.artifacts import Artifact, Given, Recipe, Shown, write_jsonl
from lema.cell import Cell, Context
from lema.config import Leakage
from lema.data import tasks
from lema.data.leakage import TestQuestions, overlap
from lema.types import Problem

log = logging.getLogger(__name__)

_LOSSES = {
    "questions_in_test": "training questions that are test questions",
    "questions_in_training": "test questions that are training questions",
}
SHOWN = Shown("dataset", losses=_LOSSES)


@dataclass(frozen=True)
class Settings:
    """Where the problems come from, and which are used."""

    problems: tasks.ProblemSource
    limit: int | None  # of each split
    leakage: Leakage
    own_test: bool  # the test problems alone, of a task that is trained on another's data


@dataclass(frozen=True)
class Inputs:
    """What lies behind the source; for test problems also the training data that they are compared with."""

    source: Given
    training: Artifact | None


def recipe(cell: Cell, own_test: bool = False) -> Recipe:
    config = cell.config
    problems = tasks.tested_on(config.task) if own_test else tasks.trained_on(config.task)
    settings = Settings(problems, config.limit, config.leakage, own_test)
    inputs = Inputs(Given(problems.digest, None), cell.artifacts["data"] if own_test else None)
    label = cell.task_label if own_test else cell.train_label
    return Recipe("data", label, version=3, settings=settings, inputs=inputs, shown=SHOWN)


def build(settings: Settings, inputs: Inputs, context: Context, folder: Path) -> dict[str, Any]:
    """Writes `train.jsonl`, `dev.jsonl` and `test.jsonl`, or the last alone."""
    problems, limit = settings.problems, settings.limit
    if inputs.training:
        splits = {"test": tasks.load_test(problems, limit)}
        training = (inputs.training.stream(f"{split}.jsonl", Problem) for split in ("train", "dev"))
        trained = TestQuestions(problem for problems in training for problem in problems)
        matches = overlap(splits["test"], trained).values()
        shared = {"questions_in_training": sum(match.equal for match in matches)}
    else:
        splits = tasks.load(problems, limit)
        shared = _without_leaks(splits, settings)
    for name, rows in splits.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    return {name: len(rows) for name, rows in splits.items()} | shared


def _without_leaks(splits: dict[str, list[Problem]], settings: Settings) -> dict[str, int]:
    """Drop the training questions that are test questions too, unless they are to stay, and count them.

    Near-duplicates are only counted: the rule that refuses them is meant for generated text, not for published data.
    """
    tests = TestQuestions(tasks.published(settings.problems)[1])
    training = [problem for split in ("train", "dev") for problem in splits[split]]
    matches, done = overlap(training, tests), "kept"
    same = {name for name, match in matches.items() if match.equal}
    if settings.leakage is Leakage.drop:
        done = "dropped"
        for split in ("train", "dev"):
            splits[split] = [problem for problem in splits[split] if problem.id not in same]
    words = "%-16s %d of %d training questions are test questions (%s), %.2f %% overlap with one"
    share = 100 * len(matches) / max(1, len(training))
    log.info(words, "leakage", len(same), len(training), done, share)
    return {"questions_in_test": len(same), "questions_overlapping_test": len(matches)}
