"""data: the task's problems, read once and cut into train, dev and test.

A task that is trained on another's data has these from there, as the other has, and its own test problems beside them.
"""

import logging
from pathlib import Path
from typing import Any

from lema.artifacts import Recipe, Shown, write_jsonl
from lema.cell import Cell
from lema.config import Leakage
from lema.data import tasks
from lema.data.leakage import TestQuestions, overlap
from lema.types import Problem

log = logging.getLogger(__name__)

SHOWN = Shown(
    "dataset",
    losses={
        "questions_in_test": "training questions that are test questions",
        "questions_in_training": "test questions that are training questions",
    },
)


def recipe(cell: Cell, own_test: bool = False) -> Recipe:
    task = cell.config.task
    dataset = task.dataset if own_test else task.trained_dataset
    config: dict[str, Any] = {"name": task.name if own_test else task.trained.name, "limit": cell.config.limit}
    if not own_test:  # the other fields belong to mix and train
        config |= {name: getattr(task, name) for name in ("seed", "num_dev", "num_train", "num_test")}
        config["leakage"] = cell.config.leakage
    if dataset:
        config["dataset"] = {
            key: value for key, value in cell.plain(dataset).items() if key not in ("path", "name", "grader")
        }
    inputs: dict[str, Any] = {"source": tasks.source(task, own_test)}
    if own_test:
        inputs["training"] = cell.artifacts["data"].digest
    label = cell.task_label if own_test else cell.train_label
    return Recipe("data", label, version=3, config=config, inputs=inputs, shown=SHOWN)


def build(cell: Cell, folder: Path, own_test: bool = False) -> dict[str, Any]:
    task, limit = cell.config.task, cell.config.limit
    splits = {"test": tasks.load_test(task, limit)} if own_test else tasks.load(task, limit)
    leaked: dict[str, Any] = {} if own_test else _without_leaks(splits, cell)
    for name, problems in splits.items():
        write_jsonl(folder / f"{name}.jsonl", problems)
    counts = {name: len(problems) for name, problems in splits.items()} | leaked
    if own_test:
        trained = {problem.question for problem in cell.problems("train", "dev")}
        counts["questions_in_training"] = sum(problem.question in trained for problem in splits["test"])
    return counts


def _without_leaks(splits: dict[str, list[Problem]], cell: Cell) -> dict[str, Any]:
    """Drop training questions that are test questions too, unless they are to stay; say how many are, or nearly are.

    They are otherwise used as they are: a rule that refuses what is nearly a test question is for new text.
    """
    tests = TestQuestions(tasks.published(cell.config.task)[1])
    training = [problem for split in ("train", "dev") for problem in splits[split]]
    matches = overlap(training, tests)
    same = {name for name, match in matches.items() if match.equal}
    if cell.config.leakage is Leakage.drop:
        for split in ("train", "dev"):
            splits[split] = [problem for problem in splits[split] if problem.id not in same]
    share = 100 * len(matches) / max(1, len(training))
    done = "dropped" if cell.config.leakage is Leakage.drop else "kept"
    told = "%d of %d training questions are test questions (%s), %.2f %% overlap with one"
    log.info(f"%-16s {told}", "leakage", len(same), len(training), done, share)
    return {"questions_in_test": len(same), "questions_overlapping_test": len(matches)}
